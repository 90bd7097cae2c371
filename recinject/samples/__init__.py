"""Samples on disk: built in shards, mixed, stored, tokenised."""
