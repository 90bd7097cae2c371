"""What every room stands on: errors with a hint, derived chance, atomic storage, progress."""
