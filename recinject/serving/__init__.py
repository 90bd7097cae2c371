"""The HTTP service over finished runs, and its page."""
