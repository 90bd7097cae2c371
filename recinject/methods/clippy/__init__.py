"""Clippy (arXiv 2302.09178) and adaptive gradient clipping."""
