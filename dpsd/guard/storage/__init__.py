"""The guard's memory: one protocol, SQLite and Redis."""
