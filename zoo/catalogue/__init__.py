"""The catalogue: tables, migrations and queries of runs, checkpoints, files and lineages."""
