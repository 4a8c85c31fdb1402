"""Merging with real weights: sources, candidates, decoding, measuring, and what is kept of it."""
