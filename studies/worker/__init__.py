"""The worker: launches training, supervises it, reads what it writes, refits the surrogate."""
