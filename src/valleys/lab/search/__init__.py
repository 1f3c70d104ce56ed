"""Which hyperparameters are tried, and which are chosen."""
