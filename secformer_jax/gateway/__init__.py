"""A gateway on the client's own machine: HTTP in, private answers out. No text leaves it but as shares."""
