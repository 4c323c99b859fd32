"""The runtime: programs, the parties that run them, and what they cost."""
