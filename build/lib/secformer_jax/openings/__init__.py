"""SecFormer's model computed by masked openings alone: the presets `fast` and `drop-in`."""
