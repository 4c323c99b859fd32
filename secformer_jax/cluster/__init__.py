"""Servers, dealer, owner and clients as processes on hosts of their own. Only the parties' workers load spu."""
