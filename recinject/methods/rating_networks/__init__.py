"""Neural networks that predict ratings."""
