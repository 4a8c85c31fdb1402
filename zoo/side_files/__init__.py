"""Side files: logs and configurations beside checkpoints, found, parsed and kept as metadata of runs."""
