"""The methods of papers, one folder each; the core finds them in the registry."""
