"""Rise of the loss when the parameters are moved a little."""
