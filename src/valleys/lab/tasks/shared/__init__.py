"""Metrics, losses and splits that several tasks share."""
