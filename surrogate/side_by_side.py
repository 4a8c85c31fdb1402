"""Calls of one function that do not depend on one another, made side by side: on this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import joblib
import torch

from epsopt.zoo.child_processes import safe_children
from epsopt.zoo.ray_cluster import RayCluster

T = TypeVar("T")


def completed(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], cluster: RayCluster | None = None
) -> Iterator[tuple[int, T]]:
    """Call a function in processes of its own, one a core, and give what it returns as calls end.

    Args:
        function: of a module; it depends on nothing but its arguments.
        calls: the arguments of each.
        cluster: where to, in place of this machine.

    Yields:
        The number of a call, and what it returned.
    """
    if cluster is not None:
        yield from cluster.completed(function, calls)
        return
    # loky's, because they do not run the caller's script again.
    workers = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(calls)), return_as="generator_unordered")
    with safe_children():
        yield from workers(joblib.delayed(_numbered)(i, function, call) for i, call in enumerate(calls))


def in_order(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    cluster: RayCluster | None = None,
    *,
    threads: bool = False,
) -> list[T]:
    """Call a function side by side and return what it returned, in the order of the calls.

    Args:
        function: of a module; it depends on nothing but its arguments.
        calls: the arguments of each.
        cluster: where to, in place of this machine.
        threads: whether threads do on this machine, because it is mostly in libraries that let go of the interpreter.
    """
    if cluster is not None:
        found = dict(cluster.completed(function, calls))
        return [found[i] for i in range(len(calls))]
    workers = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(calls)), prefer="threads" if threads else None)
    with contextlib.nullcontext() if threads else safe_children(), warnings.catch_warnings():
        # Processes that had nothing to do for five minutes end, and others take their place.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        return list(workers(joblib.delayed(function)(*call) for call in calls))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, so that results do not depend on how many a machine gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _numbered(place: int, function: Callable[..., T], call: tuple[Any, ...]) -> tuple[int, T]:
    return place, function(*call)
