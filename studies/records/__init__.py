"""Optuna studies of what was measured and what was found."""
