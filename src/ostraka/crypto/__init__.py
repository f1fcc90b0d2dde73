"""Cryptography over `cryptography` and hashlib: no files, no clock, no hidden randomness."""
