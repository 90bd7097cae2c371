"""Semantic identifiers: codes of items' content (TIGER, arXiv 2305.05065)."""
