"""A computing server: its supervisor, its worker, and the order that they agree on."""
