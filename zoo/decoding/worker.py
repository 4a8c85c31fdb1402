"""What a reader's child process does for decoding: recombine parents into a file, and measure such a file."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.decoding.adapter_merge import MergedAdapter, merged_adapter
from epsopt.zoo.decoding.compatibility import open_parent, require_compatible
from epsopt.zoo.decoding.operator_names import LINEAR
from epsopt.zoo.decoding.parents import Parts, merged_tensor
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.tensor_file import TensorType, file_order, write_tensors
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.layouts.effective_weights import EffectiveWeights
from epsopt.zoo.layouts.hugging_face import CONFIG, MODELS, whole_name
from epsopt.zoo.layouts.lightning import VERSION
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.layouts.plain import interpret
from epsopt.zoo.layouts.state_dicts import held_under
from epsopt.zoo.layouts.training_state import hyperparameter_keys
from epsopt.zoo.reading.hooks import calibrated, load_hook, measure, wants_folder
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source
from epsopt.zoo.reading.tensors import OpenCheckpoint

_LONGEST = 1 << 20  # characters of the hyperparameters that are carried over
_DEPTH = 8
_LARGEST_CONFIG = 4 << 20
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
        opened = [
            None
            if p.path.startswith(ADAPTED)
            else open_parent(stack, {"path": p.path, "sha256": p.sha256}, limits, request.get("weights_key", ""))
            for p in recombination.parents
        ]
        there = [held for held in opened if held is not None]
        if not there:
            raise UnreadableCheckpoint(
                recombination.parents[0].path, "the base alone is no adapter: merge it with others"
            )
        base = None
        if recombination.operator != LINEAR:
            if there[0].updates or len(there) < len(opened):
                raise UnreadableCheckpoint(
                    there[0].checkpoint.source.path,
                    f"{recombination.operator} merges whole models, and this is an adapter: merge adapters linearly",
                )
            if recombination.base is not None:
                held = {"path": recombination.base.path, "sha256": recombination.base.sha256}
                base = open_parent(stack, held, limits, request.get("weights_key", ""))
        require_compatible([*there, *([] if base is None else [base])])
        parts = Parts(recombination, tuple(opened), base)
        merged = merged_adapter(parts, request.get("rank"))
        types = merged.types if merged is not None else _types(parts)
        try:
            with Path(request["to"]).open("wb") as file:
                write_tensors(file, types, _merged(parts, merged, types), {})
        except OSError as error:
            if error.errno in _NO_ROOM:  # no fault of the parents'
                raise UnreadableCheckpoint(
                    request["to"], "no space left for decoded weights: let TMPDIR name a folder that has room"
                ) from error
            raise
        layout = _layout(there, parts.leading)
        layout["adapter"] = None if merged is None else merged.config
        layout["whole"] = merged is None or merged.whole
        layout["config"] = _config(parts.leading, types, limits)
        adapter = parts.leading.adapter
        layout["base"] = None if adapter is None else adapter.base
        layout["adapter_config"] = None
        if adapter is not None:  # without it the file is read as one of no base, whose factors hold their scale
            values = adapter.values if merged is None or merged.config is None else merged.config
            layout["adapter_config"] = {**values, **({"base_model_name_or_path": adapter.base} if adapter.base else {})}
    return {
        "status": "recombined",
        "tensors": _listed(types),
        "layout": layout,
    }


def evaluate(path: Path, request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Apply the user's hooks to the weights in a file: calibrate, then evaluate.

    An evaluate hook that wants a folder is asked again, once the folder is there with what was calibrated.

    Returns:
        What it measured (``{"status": "folder"}`` where it wants a folder and none is given), and which tensors the
        hooks corrected; their values are in the file that the request names.

    Raises:
        HookError: a hook cannot be imported, raised, or returned nonsense.
    """
    function = load_hook(request["hook"], "evaluate")
    by_folder, folder, title = wants_folder(function), request.get("folder"), request["title"]
    with open_checkpoint(path, limits) as checkpoint:
        weights = interpret(checkpoint).weights
        names = request["names"] or list(weights)
        calibrate = request.get("calibrate") if folder is None else None
        # Where only a folder is wanted, tensors are read when they are asked for: a model may be larger than memory.
        state: Mapping[str, torch.Tensor] = _TensorsOnDemand(checkpoint, {n: weights[n] for n in names})
        corrected: dict[str, torch.Tensor] = {}
        if calibrate or not by_folder:
            read = dict(state)
            if calibrate:
                corrected = calibrated(load_hook(calibrate, "calibrate"), calibrate, read, title)
            state = read | corrected
        answer: dict[str, Any] = {"status": "folder"}
        if folder is not None or not by_folder:
            given = Path(folder) if folder is not None else dict(state)
            about = {**request.get("about", {}), "path": Path(request.get("file") or path), "slot": request["slot"]}
            metrics, more = measure(function, request["hook"], given, title, state, about)
            corrected |= more
            answer = {"status": "measured", "metrics": metrics}
    types = {n: TensorType(t.dtype, tuple(t.shape)) for n, t in corrected.items()}
    if types:
        with Path(request["corrected"]).open("wb") as file:
            write_tensors(file, types, ((n, corrected[n]) for n in file_order(types)), {})
    return {**answer, "corrected": _listed(types), "corrected_file": request["corrected"]}


class _TensorsOnDemand(Mapping[str, torch.Tensor]):
    """The tensors of an open checkpoint, each read when it is asked for and not kept."""

    def __init__(self, checkpoint: OpenCheckpoint, described: Mapping[str, torch.Tensor]) -> None:
        self._checkpoint, self._described = checkpoint, described

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._checkpoint.read(name, self._described[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __len__(self) -> int:
        return len(self._described)


def _listed(types: Mapping[str, TensorType]) -> list[dict[str, Any]]:
    return [{"name": n, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for n, t in types.items()]


def _types(parts: Parts) -> dict[str, TensorType]:
    """Return the tensors of a merge: of the first parent's shapes, of the widest type that a parent has."""
    return {n: TensorType(parts.dtype(n), tuple(t.shape)) for n, t in parts.there[0].reading.weights.items()}


def _merged(
    parts: Parts, merged: MergedAdapter | None, types: Mapping[str, TensorType]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in file_order(types):
        if merged is not None and name in merged.factors:
            yield name, merged.factor(name)
        elif merged is not None and name in merged.alphas:
            yield name, merged.alpha(name)
        elif merged is None and parts.there[0].updates:  # an adapter by itself, bit by bit
            yield name, parts.there[0].checkpoint.read(name, parts.there[0].reading.weights[name])
        else:
            yield name, merged_tensor(parts, name).to(types[name].dtype)


def _layout(opened: Sequence[EffectiveWeights], leading: EffectiveWeights) -> dict[str, Any]:
    """Say how the first parent keeps its weights, and which plain values all parents agree on."""
    checkpoint, reading = opened[0].checkpoint, opened[0].reading
    trees = [held.checkpoint.tree if held.checkpoint.metadata is None else {} for held in opened]
    tree = trees[0] if isinstance(trees[0], Mapping) else {}
    key = reading.weights_key
    held = held_under(tree, key) if checkpoint.metadata is None else None
    names = list(reading.weights)
    written = [k for k, v in held.items() if isinstance(v, torch.Tensor)] if isinstance(held, Mapping) else []
    about = {k: _agreed([t.get(k) for t in trees if isinstance(t, Mapping)]) for k in hyperparameter_keys(tree)}
    own = leading.checkpoint.tree
    keeps = {}
    if leading.checkpoint.metadata is None and isinstance(own, Mapping) and VERSION in own:
        # Lightning builds the model from these, so that what parents do not share has to be there, too.
        about = {k: _agreed([own.get(k)]) for k in about}
        keeps = {k: own[k] for k in (VERSION, "hparams_name") if isinstance(own.get(k), str)}
    kept = {k: v for k, v in about.items() if isinstance(v, dict) and v}
    if len(str(kept)) > _LONGEST:
        kept = {}
    return {
        "weights": key,
        "bare": not key and checkpoint.metadata is None,
        # A state dict of state dicts is written flat, under its dotted names.
        "names": dict(zip(names, written, strict=True)) if len(written) == len(names) else {n: n for n in names},
        "about": kept,
        "kept": keeps,
        "like": str(leading.checkpoint.source.path),
    }


def _config(leading: EffectiveWeights, types: Mapping[str, TensorType], limits: Limits) -> dict[str, Any] | None:
    """Return the configuration of a model whose weights are of another type than its parent's; None: it stays."""
    path = leading.checkpoint.source.path
    before = leading.reading.weights
    if whole_name(path) not in MODELS or all(types[n].dtype == t.dtype for n, t in before.items() if n in types):
        return None
    try:
        with open_source(path.with_name(CONFIG), limits) as source:
            values = json.loads(bytes(source.read(0, min(source.size, _LARGEST_CONFIG))))
    except (UnreadableCheckpoint, ChangedWhileReadError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    sizes: dict[torch.dtype, int] = {}
    for kind in types.values():
        if kind.dtype.is_floating_point:
            sizes[kind.dtype] = sizes.get(kind.dtype, 0) + kind.nbytes
    name = str(max(sizes, key=lambda k: sizes[k])).removeprefix("torch.")
    return {k: name if k in ("dtype", "torch_dtype") and isinstance(v, str) else v for k, v in values.items()}


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
