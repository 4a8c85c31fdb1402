"""One file per way in which people keep runs: an opened checkpoint becomes weights and what is known of them.

Takes an :class:`~epsopt.zoo.reading.tensors.OpenCheckpoint`, gives a
:class:`~epsopt.zoo.layouts.parsed.ParsedCheckpoint`. Knows nothing of databases or child processes.
"""
