"""Models in plaintext: what they are, how they are read, and what they compute. Nothing here needs spu."""
