"""What a reader's child process does for decoding: recombine parents into a file, and measure such a file."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.decoding.compatibility import require_compatible, require_content
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.tensor_file import TensorType, file_order, write_tensors
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.layouts.parsed import ParsedCheckpoint
from epsopt.zoo.layouts.plain import HYPERPARAMETERS, interpret
from epsopt.zoo.layouts.state_dicts import held_under
from epsopt.zoo.reading.hooks import load_hook, measure
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.reading.tensors import OpenCheckpoint

_PIECE = 1 << 18  # values that are merged at a time
_LONGEST = 1 << 20  # characters of the hyperparameters that are carried over
_DEPTH = 8
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def recombine(request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Merge the parents, tensor by tensor, into a .safetensors file.

    At any moment at most three tensors are held: the result's, and those of two parents (in the older format of
    torch.save, which cannot be read in pieces, whole parents).

    Returns:
        The tensors' types in the parents' order, and the layout of the parents' files.

    Raises:
        UnreadableCheckpoint: a parent is not what the catalogue says, or not like the others.
    """
    recombination = Recombination.from_json(request["recombination"])
    with contextlib.ExitStack() as stack:
        opened = []
        for parent in recombination.parents:
            checkpoint = stack.enter_context(
                open_checkpoint(location(parent.path), limits, request.get("weights_key", ""))
            )
            require_content(checkpoint, parent.sha256)
            opened.append((checkpoint, interpret(checkpoint)))
        require_compatible(opened)
        first = opened[0][1].weights
        types = {name: TensorType(t.dtype, tuple(t.shape)) for name, t in first.items()}
        try:
            with Path(request["to"]).open("wb") as file:
                write_tensors(file, types, _recombined(recombination, opened, types), {})
        except OSError as error:
            if error.errno in _NO_ROOM:  # no fault of the parents'
                raise UnreadableCheckpoint(
                    request["to"], "no space left for decoded weights: let TMPDIR name a folder that has room"
                ) from error
            raise
        layout = _layout(opened)
    return {
        "status": "recombined",
        "tensors": [
            {"name": n, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for n, t in types.items()
        ],
        "layout": layout,
    }


def evaluate(path: Path, request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Apply the user's evaluate hook to the weights in a file.

    Raises:
        HookError: it cannot be imported, raised, or returned nonsense.
    """
    function = load_hook(request["hook"], "evaluate")
    with open_checkpoint(path, limits) as checkpoint:
        weights = interpret(checkpoint).weights
        names = request["names"] or list(weights)
        state = {name: checkpoint.read(name, weights[name]) for name in names}
    return {"status": "measured", "metrics": measure(function, request["hook"], state, request["title"])}


def _recombined(
    recombination: Recombination,
    opened: Sequence[tuple[OpenCheckpoint, ParsedCheckpoint]],
    types: Mapping[str, TensorType],
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in file_order(types):
        coefficients = recombination.row(name)
        order = sorted(range(len(opened)), key=lambda i: -coefficients[i])
        yield name, weighted_sum(name, [(opened[i], coefficients[i]) for i in order])


def weighted_sum(name: str, parts: Sequence[tuple[tuple[OpenCheckpoint, ParsedCheckpoint], float]]) -> torch.Tensor:
    """``w_0 + sum_i c_i (w_i - w_0)``, w_0 of the largest coefficient.

    So a parent that counts alone comes out bit by bit, and so does a tensor that all parents share.
    """
    (checkpoint, reading), _ = parts[0]
    first = checkpoint.read(name, reading.weights[name])
    if not (first.is_floating_point() or first.is_complex()):  # counters and masks have no mean
        return first
    wide = first.dtype if first.dtype.itemsize >= 4 else torch.float32
    centre = first.reshape(-1)
    out = centre.to(wide, copy=True)
    for (other, its), coefficient in parts[1:]:
        if coefficient == 0.0:
            continue
        values = other.read(name, its.weights[name]).reshape(-1)
        for start in range(0, out.numel(), _PIECE):
            piece = slice(start, start + _PIECE)
            out[piece].add_(values[piece].to(wide) - centre[piece].to(wide), alpha=coefficient)
        del values
    return out.to(first.dtype).reshape(first.shape)


def _layout(opened: Sequence[tuple[OpenCheckpoint, ParsedCheckpoint]]) -> dict[str, Any]:
    """Say how the first parent keeps its weights, and which plain values all parents agree on."""
    checkpoint, reading = opened[0]
    trees = [c.tree if c.metadata is None else {} for c, _ in opened]
    tree = trees[0] if isinstance(trees[0], Mapping) else {}
    key = reading.weights_key
    held = held_under(tree, key) if checkpoint.metadata is None else None
    names = list(reading.weights)
    written = [k for k, v in held.items() if isinstance(v, torch.Tensor)] if isinstance(held, Mapping) else []
    about = {k: _agreed([t.get(k) for t in trees if isinstance(t, Mapping)]) for k in HYPERPARAMETERS if k in tree}
    kept = {k: v for k, v in about.items() if isinstance(v, dict) and v}
    if len(str(kept)) > _LONGEST:
        kept = {}
    return {
        "weights": key,
        "bare": not key and checkpoint.metadata is None,
        # A state dict of state dicts is written flat, under its dotted names.
        "names": dict(zip(names, written, strict=True)) if len(written) == len(names) else {n: n for n in names},
        "about": kept,
    }


def _agreed(values: Sequence[Any], depth: int = 0) -> Any:
    """Return what all parents say alike, None where they differ or it is no plain value."""
    first = values[0]
    if all(isinstance(v, Mapping) for v in values) and depth < _DEPTH:
        shared = {k: _agreed([v.get(k) for v in values], depth + 1) for k in first if isinstance(k, str)}
        return {k: v for k, v in shared.items() if v is not None}
    plain = all(type(v) is type(first) and isinstance(v, str | bool | int | float) for v in values)
    listed = all(isinstance(v, list | tuple) and _is_plain(v) for v in values)
    if plain and all(v == first for v in values):
        return first
    return list(first) if listed and all(list(v) == list(first) for v in values) else None


def _is_plain(values: Sequence[Any]) -> bool:
    return len(values) <= 64 and all(isinstance(v, str | bool | int | float) for v in values)
