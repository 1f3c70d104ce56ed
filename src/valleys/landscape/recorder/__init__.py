"""A recorder of the path that training takes."""
