"""One file, one protocol; its message types beside it."""
