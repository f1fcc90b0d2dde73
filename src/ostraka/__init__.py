"""Ostraka: federated learning for institutions that do not trust each other."""

__version__ = "0.1.0"
