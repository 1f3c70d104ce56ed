"""The optimizers that the lab knows, and how one is found by name."""
