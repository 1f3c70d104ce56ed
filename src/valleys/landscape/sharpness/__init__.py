"""How much the loss rises when the parameters are moved a little."""
