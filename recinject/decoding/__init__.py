"""From a model's scores to items: the trie, constrained beam search, candidate scores."""
