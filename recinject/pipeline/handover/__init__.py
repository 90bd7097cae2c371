"""Files that an export copies: they need neither this package nor its data."""
