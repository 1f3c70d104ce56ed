"""What a run trains: a task or a loop, its data, its schedule, its random numbers."""
