"""The private side: teachers and their folders."""
