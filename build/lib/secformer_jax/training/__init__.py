"""Fine-tuning and distillation, in plaintext. Nothing here needs spu."""
