"""Arithmetic on arrays: what rules and protocols compute with."""
