"""Building models: FLAN-T5 by name, a small T5 from a config, LoRA."""
