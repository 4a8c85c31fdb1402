"""Proposals for the next runs: hyperparameters, warm starts, restarts from checkpoints."""
