"""Candidate hyperparameters and the selection among them."""
