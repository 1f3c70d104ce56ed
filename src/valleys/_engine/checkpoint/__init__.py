"""Checks of a state dict before it is loaded, and states that come from other optimizers."""
