"""Training problems: a task or a loop, its data, its schedule, its random numbers."""
