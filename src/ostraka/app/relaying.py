"""The relay's part."""
