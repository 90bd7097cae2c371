"""Honest figures: queries, tie-aware metrics, intervals, paired tests, the audit."""
