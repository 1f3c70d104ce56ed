"""Suggestions before a comparison: a learning rate, alpha and beta, and what a brief run measures."""
