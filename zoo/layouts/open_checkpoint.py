"""Open a checkpoint of any suffix, and read its weights for those who need the tensors themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.registry import interpret
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.safetensors_format import open_safetensors
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source
from epsopt.zoo.reading.tensors import OpenCheckpoint
from epsopt.zoo.reading.torch_format import open_torch


@contextmanager
def open_checkpoint(path: Path, limits: Limits, weights_key: str = "") -> Iterator[OpenCheckpoint]:
    """Open a checkpoint by its suffix; open_source, open_torch and open_safetensors say what is refused.

    Args:
        path: the file.
        limits: what it may cost.
        weights_key: the keys that lead to its weights, joined with dots; empty to find them.
    """
    with open_source(path, limits) as source:
        opener = open_safetensors if path.suffix.lower() == ".safetensors" else open_torch
        yield replace(opener(source, limits), weights_key=weights_key)


def load_weights(
    path: Path | str,
    names: Collection[str] | None = None,
    *,
    limits: Limits | None = None,
    weights_key: str = "",
) -> dict[str, torch.Tensor]:
    """Read tensors of one checkpoint into this process, with the same checks as the reader's children make.

    Args:
        path: a checkpoint file or its URL, best one that was ingested before and so was read in a child process first.
        names: the tensors wanted, None for all; prefixes of wrappers (``module.``) are stripped.
        limits: budgets; the defaults when None.
        weights_key: the keys that lead to the weights in the file, joined with dots; empty to find them.

    Returns:
        Tensors by name, in state-dict order, dtypes as saved.

    Raises:
        UnreadableCheckpoint: not, or not safely, a checkpoint; or it lacks one of the names.
    """
    path = location(path)
    try:
        with open_checkpoint(path, limits or Limits(), weights_key) as checkpoint:
            weights = interpret(checkpoint).weights
            missing = [n for n in names or () if n not in weights]
            if missing:
                raise UnreadableCheckpoint(path, f"has no tensor {missing[0]!r}; its first is {next(iter(weights))!r}")
            return {n: checkpoint.read(n, t) for n, t in weights.items() if names is None or n in names}
    except ChangedWhileReadError:
        raise UnreadableCheckpoint(path, "was written to while it was read: try again when it is complete") from None
