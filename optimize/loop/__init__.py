"""The closed loop: what to run next, where to start it, when to stop it.

`policy` chooses step after step, by `curves` (whole runs), `choice` (candidates), `mixing` (mixtures) and `credit`
(what either promised and brought); `stopping` ends what is hopeless, `sampler` serves Optuna scripts
(`first_trials`: before they have told anything).
"""
