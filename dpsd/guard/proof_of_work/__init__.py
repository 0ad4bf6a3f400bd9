"""Answers that cost their asker work, by the information that was taken before."""
