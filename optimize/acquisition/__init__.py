"""Acquisition functions: expected hypervolume improvement, noisy or not, and confidence bounds of a candidate."""
