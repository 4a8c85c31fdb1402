"""The plain layout: a run is a folder that directly holds checkpoint files, which say the rest, or files beside them.

It is the last one asked: whatever no other layout recognises is plain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.reading import Reading, Told
from epsopt.zoo.layouts.rows import EPOCH as EPOCH_COLUMNS
from epsopt.zoo.layouts.rows import STEP as STEP_COLUMNS
from epsopt.zoo.layouts.rows import flat, rows_of
from epsopt.zoo.reading.side import Sides
from epsopt.zoo.reading.text import clean
from epsopt.zoo.reading.values import flatten, metrics_of, without_prefixes

if TYPE_CHECKING:
    import torch

    from epsopt.zoo.reading.tensors import OpenCheckpoint

WEIGHTS = ("model_state_dict", "state_dict", "model", "model_state")
HYPERPARAMETERS = ("config", "cfg", "args", "hparams", "hyperparams", "hyper_parameters")
METRICS = ("metrics", "val_metrics")
EPOCH = ("epoch", "step", "global_step")
STEP = ("global_step", "step")
BASE = ("init_from", "base")
CONFIGS = tuple(
    f"{stem}.{suffix}"
    for stem in ("config", "hparams", "args", "params", "hyperparameters")
    for suffix in ("yaml", "yml", "json")
)
LOGS = tuple(f"{stem}.{suffix}" for stem in ("metrics", "log", "logs") for suffix in ("csv", "jsonl", "json"))
HOLDERS = frozenset("checkpoint checkpoints ckpt ckpts weights models snapshots".split())
_NO_MODEL = re.compile(r"(optim(izer)?|(lr_?)?scheduler|rng_state|scaler)(_state)?(s?)([_-]?\d+)?\.\w+", re.IGNORECASE)
_DEPTH = 16


def run_of(file: Path, folders: Folders) -> Path:
    """Return the folder that holds the file, or the one above a folder ``checkpoints`` if that one says more."""
    folder = file.parent
    if folder.name.lower() in HOLDERS and folders.those(folder.parent, CONFIGS + LOGS):
        return folder.parent
    return folder


def leaves_alone(file: Path, _folders: Folders) -> bool:
    """Tell the state of an optimiser, scheduler or random generator that was saved beside a model."""
    return _NO_MODEL.fullmatch(file.name) is not None


def beside(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return configurations and logs in the run's folder, or beside its checkpoints."""
    return [file for folder in dict.fromkeys((run, *held)) for file in folders.those(folder, CONFIGS + LOGS)]


def tell(sides: Sides) -> Told:
    """Read hyperparameters from configurations and metrics from logs; where two say the same, the first file counts."""
    told = Told(troubles=sides.troubles)
    for file in sides.files:
        if file.name in CONFIGS:
            told.hyperparameters = {**flat(sides.structure(file)), **told.hyperparameters}
        elif file.suffix == ".csv":
            told.rows += rows_of(sides.table(file))
        elif file.suffix == ".jsonl":
            told.rows += rows_of(sides.json_lines(file))
        else:
            _tell_json(told, sides.json(file))
    return told


def _tell_json(told: Told, tree: Any) -> None:
    """Take a metrics.json: a list of records, columns of equal length, or the values of the run's end."""
    if isinstance(tree, list):
        told.rows += rows_of([r for r in tree if isinstance(r, Mapping)])
    elif isinstance(tree, Mapping):
        columns = {k: v for k, v in tree.items() if isinstance(v, list)}
        if columns and len(columns) == len(tree):
            length = min(map(len, columns.values()))
            told.rows += rows_of({k: v[i] for k, v in columns.items()} for i in range(length))
        elif any(name in tree for name in EPOCH_COLUMNS + STEP_COLUMNS):
            told.rows += rows_of([tree])
        else:
            for row in rows_of([tree]):
                told.final.update(row.metrics)


def interpret(checkpoint: OpenCheckpoint) -> Reading:
    """Find weights, hyperparameters, metrics and epoch under the names that people use (FACTS.md).

    Raises:
        UnreadableCheckpoint: no weights under any known name, or tensors that claim more than the file holds.
    """

    def scalar(tensor: torch.Tensor) -> Any:
        checkpoint.check({"a number": tensor})
        return checkpoint.read("a number", tensor).reshape(()).item()

    about = checkpoint.tree if checkpoint.metadata is None else _about_safetensors(checkpoint.metadata)
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
        epoch=epoch_of(said := flatten({k: about[k] for k in EPOCH if k in about}, scalar), checkpoint.source.path),
        base=str(declared) if declared else None,
        step=_whole(next((said[k] for k in STEP if k in said), None)),
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
    path = checkpoint.source.path
    found = next((w for c in candidates if (w := _tensors(c, path))), None)
    import torch  # in the child only: whoever looks at names needs none of it

    if not found:
        found = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        for name, value in tree.items() if found else ():
            _require_no_object(value, clean(str(name)), path)
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


def _require_no_object(value: Any, name: str, path: Path) -> None:
    """Refuse what an object of a foreign class holds of the weights: without its class, nobody knows what it means."""
    from epsopt.zoo.reading.inert import Recovered

    if isinstance(value, Recovered) and _tensors(dict(value), path):
        reason = f"tensor {name!r} is inside an object of {value.title}, which is code: save it as a plain tensor"
        raise UnreadableCheckpoint(path, reason)


def _tensors(tree: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """Collect the tensors of a state dict, nested ones by dotted names, each container once."""
    import torch

    out: dict[str, torch.Tensor] = {}
    visited: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", tree, 0)]
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, torch.Tensor):
            out[clean(name)] = value
        elif isinstance(value, Mapping) and id(value) not in visited and depth < _DEPTH:
            _require_no_object(value, clean(name) or "model", path)
            visited.add(id(value))
            prefix = f"{name}." if name else ""
            stack.extend((prefix + k, v, depth + 1) for k, v in reversed(list(value.items())) if isinstance(k, str))
    return out


def _about_safetensors(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a .safetensors header says in JSON strings."""
    about: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except (ValueError, RecursionError):
            about[key] = text
    return about


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:18])
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53:
        return int(value)
    return None


def epoch_of(said: Mapping[str, Any], path: Path) -> int | None:
    """Return the epoch (or step) that the file says, or else that its name tells."""
    for key in EPOCH:
        if (value := _whole(said.get(key))) is not None:
            return value
    named = re.search(r"epoch[=_-]?(\d{1,15})", path.stem) or re.search(r"(\d{1,15})(?!.*\d)", path.stem)
    return int(named[1]) if named else None


LAYOUT = Layout("plain", run_of, leaves_alone, beside, interpret, tell)
