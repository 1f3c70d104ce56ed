"""What an adapted optimizer does: its class, E's buffer, the step with the adapted gradient."""
