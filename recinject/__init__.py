"""Inject recommendation knowledge into language models, and compare them honestly with CF."""

__version__ = "0.1.0"
