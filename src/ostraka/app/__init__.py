"""The application: command line, library functions, explain, report."""
