"""The dealer: its process, its material, and its answers to SPU's own client."""
