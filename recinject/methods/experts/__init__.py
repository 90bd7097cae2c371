"""Experts in a model's feed-forward layers, and their gates."""
