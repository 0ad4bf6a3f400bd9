"""One HTML file that shows a run to people: what it guarantees, what it is worth, what leaks."""
