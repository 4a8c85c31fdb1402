"""Hyperparameters in the name of a run's folder: ``lr=0.1_wd=0.01``, Hydra's ``lr=0.1,optimizer=adam``.

They count where nothing else says any: a name may be rounded, and its values are of few things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from epsopt.zoo.layouts.series import REPEAT
from epsopt.zoo.layouts.training_state import is_score
from epsopt.zoo.reading.plain_values import numeral

_PAIR = re.compile(r"([A-Za-z][\w./]*)=([^=]*)")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_PREFIX = re.compile(r"(?:\w*\d[A-Za-z0-9]*_)(?=[A-Za-z])")
"""What stands before the first name: ``run3_lr``, ``resnet50_lr``."""
_REPEAT = re.compile(r"([a-z]+)[-_=]?(\d{1,9})", re.IGNORECASE)
_SEEDS = ("random_seed", "manual_seed", "rng_seed", "random_state")
_MOMENTS = frozenset("epoch ep step iter iteration version run trial".split())


def named_values(run: str) -> dict[str, Any]:
    """Return the hyperparameters that a run's folder is named by; none where the name can be read in two ways.

    Args:
        run: the path of its folder; of a repeat (``lr=0.1/seed_0``) the folder above counts.
    """
    path = PurePath(run)
    name = path.parent.name if REPEAT.fullmatch(path.name) else path.name
    if "=" not in name:
        return {}
    pieces = re.split(r"[,;&+ ]+", name) if re.search(r"[,;&]", name) else _pieces(name)
    found = {}
    for piece in pieces:
        pair = _PAIR.fullmatch(piece)
        if pair is None or not pair[2]:
            if "=" in piece:
                return {}
            continue  # a word beside the pairs
        if pair[1].lower() not in _MOMENTS and not is_score(pair[1]):
            found[_PREFIX.sub("", pair[1])] = numeral(pair[2])
    return found


def with_own_number(run: PurePath, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that lies above a repeat (``seed_1``), with the number that the repeat's name says.

    The configuration has that of one repeat, or of none: ``seed: 0`` above ``seed_0`` and ``seed_1``.

    Args:
        run: the folder of the repeat.
        inherited: the configuration, flat.
    """
    found = _REPEAT.fullmatch(run.name)
    if found is None:
        return dict(inherited)
    word, number = found[1].lower(), int(found[2])
    keys = {*(f"{word}{end}" for end in ("", "_id", "_idx", "_index")), *(_SEEDS if word == "seed" else ())}
    return {
        name: number if name.rpartition(".")[2].lower() in keys and _is_whole(value) else value
        for name, value in inherited.items()
    }


def _is_whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool)) or str(value).isdecimal()


def _pieces(name: str) -> list[str]:
    """Part a name at underscores and dashes; after a number the rest belongs to the next name (``wd=0_batch_size=8``).

    After a word nothing tells whether it does (``act=leaky_relu_lr=1``): then there are no pieces.
    """
    first, *rest = re.split(r"(?<=[A-Za-z0-9])=", name)
    names, out = [re.split(r"[-_ ]", first)[-1] if "-" in first else first], []
    for i, part in enumerate(rest):
        number = _NUMBER.match(part)
        last = i == len(rest) - 1
        value = number[0] if number is not None and part[number.end() :][:1] in ("", "-", "_", " ") else part
        if not last and number is None:
            parts = re.split(r"[-_ ]", part)
            if len(parts) != 2:
                return []
            value = parts[0]
        out.append(f"{names[-1]}={value}")
        names.append(part[len(value) :].strip("-_ "))
    return out
