"""A checkpoint that answers under MPC: its programs, its requests, its answers."""
