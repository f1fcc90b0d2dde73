"""Trust models: who runs which protocol with whom, and what is promised to whom."""
