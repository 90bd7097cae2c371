"""Fine-tuning through transformers' Trainer, with the loss normalised by tokens."""
