"""Models of merged checkpoints: metrics as a function of merge coefficients, or of positions in weight space."""
