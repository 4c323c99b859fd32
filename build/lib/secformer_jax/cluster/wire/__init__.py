"""What travels between processes: messages, frames, HTTP and TLS."""
