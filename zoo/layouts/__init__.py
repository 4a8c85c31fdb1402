"""One file per way in which people keep runs: each turns an opened checkpoint into weights and what is known of them.

Takes an :class:`~epsopt.zoo.tensors.OpenCheckpoint`, gives a :class:`~epsopt.zoo.layouts.reading.Reading`.
Knows nothing of databases or child processes.
"""
