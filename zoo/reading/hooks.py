"""The user's own hook on the weights (``package.module:function``): it runs in the child, by their own wish."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.errors import HookError
from epsopt.zoo.layouts.reading import Reading
from epsopt.zoo.reading.tensors import OpenCheckpoint

_HOOKS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {}


def load_hook(spec: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Import the user's function, given as ``package.module:function``; once per child.

    Raises:
        HookError: the form is wrong, or the import fails.
    """
    if spec not in _HOOKS:
        module, _, name = spec.partition(":")
        if not module or not name:
            raise HookError(f"the embed hook {spec!r} has the wrong form: expected 'package.module:function'")
        try:
            _HOOKS[spec] = getattr(importlib.import_module(module), name)
        except Exception as error:
            raise HookError(
                f"the embed hook {spec!r} cannot be imported ({type(error).__name__}: {error}): "
                "install its package or run from the folder that holds it"
            ) from error
    return _HOOKS[spec]


def embed(
    function: Callable[[dict[str, torch.Tensor]], Any],
    spec: str,
    checkpoint: OpenCheckpoint,
    reading: Reading,
) -> NDArray[np.float32]:
    """Apply the user's function to all tensors of a checkpoint; return (anchors, dimensions) float32.

    Raises:
        HookError: it raised, or returned another shape; names hook, path and exception.
    """
    path = checkpoint.source.path
    state = {n: checkpoint.read(n, t) for n, t in reading.weights.items()}
    try:
        with torch.inference_mode(False):
            result = function(state)
        raw = result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else result
        embedding = np.asarray(raw, dtype=np.float32)
    except Exception as error:
        raise HookError(f"the embed hook {spec!r} failed on {path}: {type(error).__name__}: {error}") from error
    if embedding.ndim != 2 or embedding.size == 0:
        raise HookError(
            f"the embed hook {spec!r} returned shape {embedding.shape} on {path}: expected (anchors, dimensions)"
        )
    return embedding
