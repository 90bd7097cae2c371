"""Low-rank layers and LoRA that start from a layer's function."""
