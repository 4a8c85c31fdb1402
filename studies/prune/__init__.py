"""Pruners for training programs: against the catalogue, against the budget, as a Lightning callback."""
