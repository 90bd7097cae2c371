"""Everything that recommends, behind one protocol: baselines and the language model."""
