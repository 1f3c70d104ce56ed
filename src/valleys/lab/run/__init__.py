"""One run: the training loop, ranks, checkpoints, noise scale, trackers."""
