"""The ternary workload of the seeds, trained for real in seconds, as a stranger might write it.

`python -m epsopt.demo.train` makes one run folder, `python -m epsopt.demo.sweep` a folder of random runs, and
`epsopt.demo.hooks` offers what a user may tell epsopt about a model. Nothing here imports the rest of epsopt.
"""
