"""What operators tell each other."""
