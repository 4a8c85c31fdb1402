"""Which hyperparameters are recorded twice, or follow from another one: whoever sets one of them sets them all.

A framework above another one records what it passes down: Hydra's ``optimizer.lr`` becomes Lightning's ``lr``. And
where a configuration is put together from groups, the choice of a group (``model=wide``) decides what stands in it.
And what a library writes beside its checkpoints says again, under the library's name, what a program was given under
its own: an adapter's ``r`` is the program's ``rank``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from epsopt.optimize.space import identity
from epsopt.surrogate.ranges import words

_FEWEST = 3  # runs; of fewer, that two names agree says nothing
_EACH = 2  # runs of each choice, on average, for what stands in its group to be seen to follow from it
_PARTS = re.compile(r"[./]")
# What peft's adapter_config.json and the Trainer's trainer_state.json call it, and a word in what a program may.
_WRITTEN_BY_LIBRARIES = {
    "r": {"rank", "r"},
    "lora_alpha": {"alpha"},
    "train_batch_size": {"batch", "batchsize", "bs"},
    "num_train_epochs": {"epochs", "batch", "batchsize", "bs", "steps"},
}


def copied_parameters(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return hyperparameters that are copies of others, with the name of what each is set by.

    Args:
        runs: one mapping per run; None is a value, and the same as no value.

    Returns:
        By name: ``lr`` is set by ``optimizer.lr`` where the two are the same in every run and one name ends as the
        other; ``model.width`` is set by ``model`` where that is a choice which decides it in every run; ``lora_alpha``
        is set by ``alpha`` where the two are the same in every run, and ``num_train_epochs`` by ``batch_size`` where
        that decides it.
    """
    names = sorted({name for run in runs for name in run})
    values = {n: tuple(None if r.get(n) is None else identity(r[n]) for r in runs) for n in names}
    varying = {n for n in names if len({v for v in values[n] if v is not None}) > 1}
    if len(runs) < _FEWEST:
        return {}
    found: dict[str, str] = {}
    groups = sorted(n for n in varying if any(other.startswith(f"{_dotted(n)}.") for other in map(_dotted, names)))
    for group in groups:
        chosen = values[group]
        if None in chosen or _EACH * len(set(chosen)) > len(runs):
            continue
        for name in names:
            if _dotted(name).startswith(f"{_dotted(group)}.") and _decides(chosen, values[name]):
                found[name] = group
    ends: dict[str, list[str]] = {}
    for name in varying:
        ends.setdefault(_last(name), []).append(name)
    for alike in ends.values():
        # The name with most parts is the one that a person sets: others were made from it.
        for name in sorted(alike, key=lambda n: len(_parts(n))):
            longer = (n for n in alike if len(_parts(n)) > len(_parts(name)) and values[n] == values[name])
            if name not in groups and (other := next(longer, None)) is not None:
                found.setdefault(name, found.get(other, other))
    for name, hints in _WRITTEN_BY_LIBRARIES.items():
        for other in sorted(varying - {name}) if name in varying else ():
            if hints.isdisjoint(words(_last(other))) or found.get(other) == name:
                continue
            several = _EACH * len(set(values[other])) <= len(runs) and None not in values[other]
            follows = name == "num_train_epochs" and several and _decides(values[other], values[name])
            if values[other] == values[name] or follows:
                found.setdefault(name, other)
    return {name: _first(name, found) for name in found if name in varying}


def _first(name: str, found: Mapping[str, str]) -> str:
    seen = {name}
    while name in found and found[name] not in seen:
        name = found[name]
        seen.add(name)
    return name


def _decides(chosen: Sequence[Any], values: Sequence[Any]) -> bool:
    by_choice: dict[Any, set[Any]] = {}
    for choice, value in zip(chosen, values, strict=True):
        by_choice.setdefault(choice, set()).add(value)
    return all(len(found) == 1 for found in by_choice.values())


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _parts(name: str) -> list[str]:
    return [p for p in _PARTS.split(name) if p]


def _last(name: str) -> str:
    parts = _parts(name)
    return parts[-1] if parts else name
