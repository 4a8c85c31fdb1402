"""Search engines: each takes a scorer and a trust region and gives candidate points, each at the end of its way."""
