"""Semantic identifiers in a ranking model (arXiv 2306.08121)."""
