"""The loop of private distillation."""
