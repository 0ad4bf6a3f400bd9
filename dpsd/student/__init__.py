"""The model that is released, and how it learns."""
