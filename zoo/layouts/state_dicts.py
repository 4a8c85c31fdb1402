"""Find the state dict of the model in what a checkpoint holds: under the usual keys, or the only one there is.

A state dict is a mapping from names to tensors, some of floating point, with names as modules give them (dotted, or
``weight`` and ``bias``). What an optimiser, a scheduler or a scaler keeps is none, nor are measured numbers. An
exponential moving average of the weights counts only where there is nothing else, or where timm measured it. State
dicts under two of the usual keys are one model only if their tensors are equal, or one is a part of the other.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.plain_values import without_prefixes
from epsopt.zoo.reading.text import sanitize

if TYPE_CHECKING:
    import torch

WEIGHTS = ("model_state_dict", "state_dict", "model", "model_state")
"""Keys of the model's state dict, in the order of preference."""
SETTING = 'under [runs] in epsopt.toml, as weights_key = "{}"'
TIMM_AVERAGE = "state_dict_ema"
AVERAGE = re.compile(r"(^|[_.-])(ema|swa|polyak|averaged?|shadow|teacher_ema|target)([_.-]|\d|$)", re.IGNORECASE)
"""Names of moving averages and of target networks."""
SUFFIX = re.compile(r"\.(?:pt|pth|ckpt|safetensors|bin|zip)(?:\.tar)?$", re.IGNORECASE)
_NO_WEIGHTS = re.compile(
    r"(^|[_.-])(optim\w*|opts?|lr|\w*schedulers?|scalers?|rngs?|\w*metrics?|logs?|history|callbacks|loops|cfg|config|"
    r"hparams|args|hyper_?param\w*|stat(istic)?s)([_.-]|\d|$)",
    re.IGNORECASE,
)
_MOMENTS = frozenset("exp_avg exp_avg_sq max_exp_avg_sq momentum_buffer square_avg acc_delta exp_inf".split())
_NAMES = frozenset("weight bias kernel scale embedding gamma beta running_mean running_var".split())
_LEVELS = 2  # mappings around a state dict
_DEPTH = 16
_LISTED = 8


@dataclass(frozen=True)
class StateDict:
    """A state dict in a checkpoint: where it lies, and its tensors.

    Attributes:
        key: the keys that lead to it, joined with dots; empty for the top level.
        tensors: by name, nested ones by dotted names.
    """

    key: str
    tensors: dict[str, torch.Tensor]


def find_state_dict(
    tree: Mapping[Any, Any],
    path: Path,
    weights_key: str = "",
    equal: Callable[[torch.Tensor, torch.Tensor], bool] = operator.is_,
) -> StateDict:
    """Return the state dict that is the model.

    Args:
        tree: what the file holds.
        path: of the file, for errors.
        weights_key: the keys that lead to the weights, joined with dots; empty to find them.
        equal: compares the values of two tensors of the file; asked only of those of equal name, type and shape under
            two of the usual keys.

    Raises:
        UnreadableCheckpoint: there is none, several could be it, or the model is an object and no state dict; it names
            the keys, and the setting that decides.
    """
    if weights_key:
        found = _named_state_dict(tree, path, weights_key)
        if found is not None:
            return found
    if averaged := _averaged_by_timm(tree, path):
        return averaged
    known = _under_usual_keys(tree, path)
    if known:
        return _whole(known, path, equal)
    loose = _loose(tree)
    several = list(_candidates(tree, path))
    models = [c for c in several if not AVERAGE.search(c.key)] or several
    usual = [c for c in models if c.key.rpartition(".")[2] in WEIGHTS]
    models = usual if len(usual) == 1 else models
    if loose and _is_named(loose):
        models = [StateDict("", loose), *[c for c in models if _is_named(c.tensors)]]
    elif strong := [c for c in models if _is_named(c.tensors)]:
        models = strong
    elif not models and loose and _are_weights(loose, tree):
        models = [StateDict("", loose)]
    if len(models) == 1:
        if not models[0].key:
            for name, value in tree.items():
                require_no_object(value, sanitize(str(name)), path)
        return models[0]
    if models:
        raise UnreadableCheckpoint(path, _several(models))
    for name, value in tree.items():
        require_no_object(value, sanitize(str(name)), path)
    raise UnreadableCheckpoint(path, _none(tree, loose))


def _averaged_by_timm(tree: Mapping[Any, Any], path: Path) -> StateDict | None:
    """Return the moving average that timm keeps beside the weights with ``--model-ema``.

    timm's train.py writes the metrics of the average to summary.csv, and its loader takes the average; only
    ``--model-ema-force-cpu`` leaves it unmeasured.
    """
    held, arguments = tree.get(TIMM_AVERAGE), tree.get("args")
    if not isinstance(held, Mapping) or not isinstance(tree.get("arch"), str) or "state_dict" not in tree:
        return None
    if isinstance(arguments, Mapping) and arguments.get("model_ema_force_cpu"):
        return None
    tensors = tensors_in(held, path)
    return StateDict(TIMM_AVERAGE, tensors) if tensors else None


def _under_usual_keys(tree: Mapping[Any, Any], path: Path) -> list[StateDict]:
    """Return the state dicts under the usual keys; where some are named as a module's, tensors of other names are none.

    Raises:
        UnreadableCheckpoint: the first of these keys that holds tensors holds an object.
    """
    found: list[StateDict] = []
    for key in WEIGHTS:
        held = tree.get(key)
        try:
            if isinstance(held, Mapping) and (tensors := tensors_in(held, path)):
                found.append(StateDict(key, tensors))
            else:
                require_no_object(held, key, path)
        except UnreadableCheckpoint:
            if not found:  # later ones say nothing about the weights that are there
                raise
    return [c for c in found if _is_named(c.tensors) and "param_groups" not in tree[c.key]] or found[:1]


def _whole(known: Sequence[StateDict], path: Path, equal: Callable[[torch.Tensor, torch.Tensor], bool]) -> StateDict:
    """Return the state dict that holds all the others, the most usual of equal ones.

    Raises:
        UnreadableCheckpoint: two have different tensors.
    """
    named = {c.key: dict(zip(without_prefixes(list(c.tensors)), c.tensors.values(), strict=True)) for c in known}
    chosen = max(known, key=lambda c: len(c.tensors))  # the first of those of one size
    whole = named[chosen.key]
    for other in known:
        if other is chosen:
            continue
        for name, tensor in named[other.key].items():
            same = whole.get(name)
            if same is None or (same.dtype, same.shape) != (tensor.dtype, tensor.shape) or not equal(same, tensor):
                raise UnreadableCheckpoint(path, _several(known, f", which differ (tensor {name!r})"))
    return chosen


def held_under(tree: Mapping[Any, Any], key: str) -> Any:
    """Return what lies under keys that are joined with dots, None where nothing does; all of it for an empty key."""
    if not key or key in tree:
        return tree[key] if key else tree
    held: Any = tree
    for part in key.split("."):
        held = held.get(part) if isinstance(held, Mapping) else None
    return held


def _named_state_dict(tree: Mapping[Any, Any], path: Path, weights_key: str) -> StateDict | None:
    """Return what lies under the key that the user names; None for a file that holds nothing but tensors."""
    held = held_under(tree, weights_key)
    if isinstance(held, Mapping) and (tensors := tensors_in(held, path)):
        return StateDict(weights_key, tensors)
    if held is not None:
        require_no_object(held, weights_key, path)
    # Merged and exported checkpoints are nothing but tensors; where files are named as the model, the key names a file.
    if len(_loose(tree)) == len(tree) or bears(path, weights_key):
        return None
    where = f"no state dict under {sanitize(weights_key)!r}, the weights_key {SETTING.format(sanitize(weights_key))}"
    raise UnreadableCheckpoint(path, f"{where}; {_keys(tree)}")


def bears(path: PurePath | str, key: str) -> bool:
    """Tell whether a file, or the folder that holds it, is named by a key: as a word of its own."""
    inside = PurePath(path)
    name = f"{inside.parent.name}/{SUFFIX.sub('', inside.name)}"
    return bool(key) and re.search(rf"(?:^|[/_.=-]){re.escape(key)}(?=[/_.=-]|$)", name) is not None


def _candidates(tree: Mapping[Any, Any], path: Path, before: str = "", level: int = 0) -> Iterator[StateDict]:
    """Go through the mappings that could be a state dict, and through those that hold some."""
    import torch  # in the child only: whoever looks at names needs none of it

    for name, held in tree.items():
        if not isinstance(name, str) or not isinstance(held, Mapping) or getattr(held, "opaque", False):
            continue
        if _NO_WEIGHTS.search(name) or "param_groups" in held:
            continue
        key = f"{before}{name}"
        inner = [v for v in held.values() if isinstance(v, Mapping)]
        bare = any(isinstance(v, torch.Tensor) and v.dim() for v in held.values())
        dotted = any(isinstance(v, torch.Tensor) and "." in str(k) for m in inner for k, v in m.items())
        if not bare and (dotted or any("param_groups" in m for m in inner)) and level + 1 < _LEVELS:
            yield from _candidates(held, path, f"{key}.", level + 1)
            continue
        tensors = _flat(held)
        if any(n.rpartition(".")[2] in _MOMENTS for n in tensors):
            continue
        if any(t.is_floating_point() and t.numel() and t.dim() for t in tensors.values()):
            require_no_object(held, sanitize(key), path)
            yield StateDict(sanitize(key), tensors_in(held, path))


def _loose(tree: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    import torch

    return {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _is_named(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether tensors are named as modules name them, and some are of floating point."""
    named = any("." in n or n.lower() in _NAMES for n in tensors)
    return named and any(t.is_floating_point() and t.numel() for t in tensors.values())


def _are_weights(loose: Mapping[str, torch.Tensor], tree: Mapping[Any, Any]) -> bool:
    """Tell whether loose tensors of other names are weights: arrays, or nothing but tensors; no measured numbers."""
    floating = [t for t in loose.values() if t.is_floating_point() and t.numel()]
    return bool(floating) and (len(loose) == len(tree) or any(t.dim() for t in floating))


def _several(models: Sequence[StateDict], how: str = "") -> str:
    keys = [m.key or "the top level" for m in models]
    shown = ", ".join(keys[:_LISTED]) + (f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else "")
    example = next(m.key for m in models if m.key)
    return (
        f"holds several state dicts ({shown}){how}, and nothing says which is the model: name it "
        f"{SETTING.format(example)}"
    )


def _none(tree: Mapping[Any, Any], loose: Mapping[str, torch.Tensor]) -> str:
    reason = f"no weights under {', '.join(WEIGHTS)} or at the top level; {_keys(tree)}"
    if loose:
        return f"{reason} (the tensors there are measured numbers or counters)"
    return reason


def _keys(tree: Mapping[Any, Any]) -> str:
    keys = ", ".join(sanitize(str(k))[:40] for k in list(tree)[:_LISTED] if isinstance(k, str | int))
    return f"its keys are: {keys or 'none'}"


def require_no_object(value: Any, name: str, path: Path) -> None:
    """Refuse what an object of a foreign class holds of the weights: without its class, nobody knows what it means."""
    from epsopt.zoo.reading.foreign_objects import Module, Recovered, Unusual

    if isinstance(value, Unusual):
        how = "save it dense and unquantised" if "own class" not in value.title else "save it as a plain tensor"
        raise UnreadableCheckpoint(path, f"tensor {name!r} is {value.title}, not plain dense numbers: {how}")
    if isinstance(value, Module) and _flat(value):
        reason = f"{name!r} is an object of {value.title}, which is code: save its state_dict() instead"
        raise UnreadableCheckpoint(path, reason)
    if isinstance(value, Recovered) and value.holds_tensors:
        reason = f"tensor {name!r} is inside an object of {value.title}, which is code: save it as a plain tensor"
        raise UnreadableCheckpoint(path, reason)


def _flat(tree: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Collect tensors at any depth, whatever holds them."""
    return _collected(tree, lambda _name, _value: None)


def tensors_in(tree: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """Collect the tensors of a state dict, nested ones by dotted names, each container once.

    Raises:
        UnreadableCheckpoint: some are inside objects of foreign classes, or are no plain dense tensors.
    """
    return _collected(tree, lambda name, value: require_no_object(value, name or "model", path))


def _collected(tree: Mapping[Any, Any], check: Callable[[str, Any], None]) -> dict[str, torch.Tensor]:
    """Collect tensors by dotted names, each container once, after a check of every container."""
    import torch

    out: dict[str, torch.Tensor] = {}
    visited: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", tree, 0)]
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, torch.Tensor):
            out[sanitize(name)] = value
        elif isinstance(value, Mapping) and id(value) not in visited and depth < _DEPTH:
            check(sanitize(name), value)
            visited.add(id(value))
            prefix = f"{name}." if name else ""
            stack.extend((prefix + k, v, depth + 1) for k, v in reversed(list(value.items())) if isinstance(k, str))
    return out
