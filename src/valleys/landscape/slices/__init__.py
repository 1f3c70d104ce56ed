"""The loss along lines and over planes through the parameters, and pictures of it."""
