"""Learning: the only place where torch lives; flat float32 vectors in and out."""
