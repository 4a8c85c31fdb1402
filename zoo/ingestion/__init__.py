"""Ingestion: find new checkpoint files, read what is new, write the catalogue, verify it."""
