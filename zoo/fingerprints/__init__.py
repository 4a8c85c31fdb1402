"""Fingerprints: statistics of each weight tensor, streamed, of bounded size."""
