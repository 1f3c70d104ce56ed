"""Adapted optimizers: their class, E's buffer, the step with the adapted gradient."""
