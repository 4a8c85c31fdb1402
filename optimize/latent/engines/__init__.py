"""Search engines: each takes a scorer and a trust region and gives candidate points; `search` judges them all alike."""
