"""The closed loop: what to run next, where to start it, when to stop it.

`curves` models whole runs, `choice` weighs candidates, `sampler` serves Optuna scripts.
"""
