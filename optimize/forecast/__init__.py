"""Models of what a run will reach: from hyperparameters, from its first checkpoints, from its learning curve."""
