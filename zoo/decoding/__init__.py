"""Decoding weights as recombinations of real checkpoints of one lineage, measuring and saving them.

Takes parents with coefficients; gives loadable checkpoint files that say where they come from. Parents are only ever
read in a child process with limits, tensor by tensor.
"""
