"""Who asks servers and dealer: model owner, clients, and a server of the dealer."""
