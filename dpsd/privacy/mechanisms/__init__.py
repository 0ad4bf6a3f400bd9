"""The randomised functions inside the oracle."""
