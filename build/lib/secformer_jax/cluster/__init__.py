"""Parties, dealer, model owner and clients as processes, each on a host of its own; nothing here imports spu."""
