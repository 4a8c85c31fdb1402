"""Everything that reads or writes Optuna: storage, records, queue, leases, heartbeat, the sampler."""
