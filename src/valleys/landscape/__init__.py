"""Instruments that show where a model lies in its loss landscape: curvature, sharpness, slices, trajectories."""
