"""Buffers that are measured on data and not trained: the running statistics of BatchNorm and its like."""

from __future__ import annotations

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_statistic(name: str) -> bool:
    """Tell whether a tensor is a running statistic, by its name.

    It follows from the weights and the data, so that it says nothing of its own about where a checkpoint lies; and the
    mean of two networks' statistics are not the statistics of the mean of the two networks.
    """
    return name.rpartition(".")[2] in _STATISTICS
