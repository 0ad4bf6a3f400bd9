"""Teachers and their folders, on the private side."""
