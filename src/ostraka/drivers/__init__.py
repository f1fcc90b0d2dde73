"""Drivers: what turns protocol coroutines into running parties."""
