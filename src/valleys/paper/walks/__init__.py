"""Walks of optimizers on the paper's test functions: functions, walkers, measures, pictures, and the lab's tasks."""
