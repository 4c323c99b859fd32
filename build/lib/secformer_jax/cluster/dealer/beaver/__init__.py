"""The dealer's answers to SPU's own client of a trusted third party (SEMI2K), which ships without its server."""
