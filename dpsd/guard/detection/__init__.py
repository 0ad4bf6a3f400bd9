"""From an account's questions to suspicion, with a false-alarm rate that is stated beforehand."""
