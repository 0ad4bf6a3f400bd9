"""A real SuperLink with SuperNodes over TLS."""
