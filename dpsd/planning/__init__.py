"""Which route fits, and what a run will cost."""
