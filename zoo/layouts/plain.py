"""The plain layout: a run is a folder that directly holds checkpoint files, which say the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.reading import Reading
from epsopt.zoo.reading.tensors import OpenCheckpoint
from epsopt.zoo.reading.text import clean
from epsopt.zoo.reading.values import flatten, metrics_of, without_prefixes

WEIGHTS = ("model_state_dict", "state_dict", "model", "model_state")
HYPERPARAMETERS = ("config", "cfg", "args", "hparams", "hyperparams")
METRICS = ("metrics", "val_metrics")
EPOCH = ("epoch", "step")
BASE = ("init_from", "base")
_DEPTH = 16
_BESIDE = 1 << 20  # bytes of a config.json or metrics.json that are read at most


def interpret(checkpoint: OpenCheckpoint) -> Reading:
    """Find weights, hyperparameters, metrics and epoch under the names that people use (FACTS.md).

    Raises:
        UnreadableCheckpoint: no weights under any known name, or tensors that claim more than the file holds.
    """

    def scalar(tensor: torch.Tensor) -> Any:
        checkpoint.check({"a number": tensor})
        return checkpoint.read("a number", tensor).reshape(()).item()

    about = checkpoint.tree if checkpoint.metadata is None else _about_safetensors(checkpoint)
    if not isinstance(about, Mapping):
        about = {}
    weights = _weights(checkpoint)
    hyperparameters = flatten(_first(about, HYPERPARAMETERS) or {}, scalar)
    hyperparameters.pop("", None)
    declared = next((hyperparameters[k] for k in BASE if isinstance(hyperparameters.get(k), str)), None)
    return Reading(
        weights=weights,
        hyperparameters=hyperparameters,
        metrics=metrics_of(_first(about, METRICS) or {}, scalar),
        epoch=_epoch(flatten({k: about[k] for k in EPOCH if k in about}, scalar), checkpoint.source.path),
        base=str(declared) if declared else None,
    )


def _first(tree: Mapping[Any, Any], keys: tuple[str, ...]) -> Any:
    return next((tree[k] for k in keys if isinstance(tree.get(k), Mapping)), None)


def _weights(checkpoint: OpenCheckpoint) -> dict[str, torch.Tensor]:
    tree = checkpoint.tree
    if not isinstance(tree, Mapping):
        raise UnreadableCheckpoint(
            checkpoint.source.path,
            f"holds a {type(tree).__name__}, expected a dictionary with a state dict in it",
        )
    candidates = [tree[k] for k in WEIGHTS if isinstance(tree.get(k), Mapping)] if checkpoint.metadata is None else []
    found = next((w for w in map(_tensors, candidates) if w), None)
    found = found or {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not any(t.is_floating_point() and t.numel() for t in found.values()):
        keys = ", ".join(clean(str(k))[:40] for k in list(tree)[:8] if isinstance(k, str | int))
        raise UnreadableCheckpoint(
            checkpoint.source.path,
            f"no weights under {', '.join(WEIGHTS)} or at the top level; its keys are: {keys or 'none'}",
        )
    names = without_prefixes(list(found))
    weights = dict(zip(names, found.values(), strict=True))
    checkpoint.check(weights)
    return weights


def _tensors(tree: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Collect the tensors of a state dict, nested ones by dotted names, each container once."""
    out: dict[str, torch.Tensor] = {}
    visited: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", tree, 0)]
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, torch.Tensor):
            out[clean(name)] = value
        elif isinstance(value, Mapping) and id(value) not in visited and depth < _DEPTH:
            visited.add(id(value))
            prefix = f"{name}." if name else ""
            stack.extend((prefix + k, v, depth + 1) for k, v in reversed(list(value.items())) if isinstance(k, str))
    return out


def _about_safetensors(checkpoint: OpenCheckpoint) -> dict[str, Any]:
    """Return what a .safetensors header says in JSON strings, else config.json and metrics.json beside it."""
    about: dict[str, Any] = {}
    for key, text in (checkpoint.metadata or {}).items():
        try:
            about[key] = json.loads(text)
        except (ValueError, RecursionError):
            about[key] = text
    folder = checkpoint.source.path.parent
    for keys, name in ((HYPERPARAMETERS, "config.json"), (METRICS, "metrics.json")):
        if _first(about, keys) is None:
            about[keys[0]] = _json_beside(folder / name)
    return about


def _json_beside(path: Path) -> Any:
    try:
        if path.is_file() and path.stat().st_size <= _BESIDE:
            return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        pass  # a stray file that is not ours to judge: the checkpoint itself is readable
    return None


def _epoch(said: Mapping[str, Any], path: Path) -> int | None:
    for key in EPOCH:
        value = said.get(key)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value[:18])
        if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53:
            return int(value)
    named = re.search(r"epoch[=_-]?(\d{1,15})", path.stem) or re.search(r"(\d{1,15})(?!.*\d)", path.stem)
    return int(named[1]) if named else None
