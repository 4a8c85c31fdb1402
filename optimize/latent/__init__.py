"""Search and geometry in the latent space: optimisation, trust region, neighbours, clusters, trajectories."""
