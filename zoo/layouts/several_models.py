"""Several models that one run saved at one moment: a generator and a discriminator, raw weights and their average.

A log speaks of one training, and its values belong to one model. Where a run saved networks of different tensors at one
moment, nothing says which, so none has the log's values until ``weights_key`` names one: a word of its file's or
folder's name. A moving average or a target network that is named as one, beside other weights of the same moment, is
not the model, as within one file (:mod:`epsopt.zoo.layouts.state_dicts`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from epsopt.zoo.layouts.parsed import Position
from epsopt.zoo.layouts.state_dicts import AVERAGE, SETTING, SUFFIX, bears

_LISTED = 4


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run: where it stands, and the digest of its tensors' names and shapes."""

    position: Position
    signature: str


def with_models(run: Sequence[Saved], weights_key: str = "") -> list[Position]:
    """Say of each checkpoint of one run whether its log may speak of it, or why not.

    Args:
        run: its checkpoints.
        weights_key: as the project file has it; where files of one moment bear it in their names, those are the model.
    """
    moments: dict[tuple[int | None, int | None], list[Saved]] = {}
    steps = all(s.position.step is not None for s in run)
    for saved in run:
        moments.setdefault((saved.position.epoch, saved.position.step if steps else None), []).append(saved)
    why: dict[int, str] = {}
    for those in moments.values():
        why.update(_of_moment(those, weights_key))
    return [replace(s.position, rival=why.get(id(s))) for s in run]


def _of_moment(those: Sequence[Saved], weights_key: str) -> dict[int, str]:
    """Return why the log may not speak of some of the checkpoints of one moment, by their identity."""
    if len(those) < 2:
        return {}
    named = _named(those, weights_key)
    if named:
        return {id(s): "" for s in those if s not in named}
    averages = [s for s in those if _average(s, those)]
    raw = [s for s in those if s not in averages]
    out = {}
    if raw and averages:
        text = f"a moving average or a target network beside {_names(raw, those)}, and {_ask(averages[0], those)}"
        out = {id(s): text for s in averages}
    rest = raw or averages
    if len({s.signature for s in rest}) > 1:
        text = f"{_names(rest, those)} are different networks of one moment, and {_ask(rest[0], those)}"
        out.update({id(s): text for s in rest})
    return out


def _named(those: Sequence[Saved], key: str) -> list[Saved]:
    found = [s for s in those if bears(s.position.path, key)]
    exact = [s for s in found if _word(s, those) == key]
    return exact or found


def _ask(one: Saved, those: Sequence[Saved]) -> str:
    return (
        "nothing says of which the log speaks, so it has none of the log's values: name the model "
        f"{SETTING.format(_word(one, those))}"
    )


def _names(some: Sequence[Saved], those: Sequence[Saved]) -> str:
    names = sorted("/".join(_parts(s, those)) for s in some)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _parts(saved: Saved, those: Sequence[Saved]) -> tuple[str, ...]:
    """Return the names by which a checkpoint differs from the others of its moment: folders, and the file."""
    paths = [PurePath(s.position.path).parts for s in those]
    common = 0
    while all(len(p) > common + 1 and p[common] == paths[0][common] for p in paths):
        common += 1
    return PurePath(saved.position.path).parts[common:]


def _average(saved: Saved, those: Sequence[Saved]) -> str:
    """Return the word that names an average or a target in what tells a checkpoint from the others, or nothing."""
    found = [m[2] for part in _parts(saved, those) if (m := AVERAGE.search(SUFFIX.sub("", part)))]
    return found[0] if found else ""


def _word(saved: Saved, those: Sequence[Saved]) -> str:
    """Return what tells a checkpoint from the others: the folder that is its own, or the file's name without numbers.

    Numbers that stand alone say the moment; those of ``model_1`` beside ``model`` say which.
    """
    parts = _parts(saved, those)
    if len(parts) > 1:
        return parts[0]
    if average := _average(saved, those):
        return average
    stems = [SUFFIX.sub("", _parts(s, those)[-1]) for s in those]
    stem = SUFFIX.sub("", parts[-1])
    words = [w for w in re.split(r"[_.=-]+", stem) if w]
    others = [{w for w in re.split(r"[_.=-]+", other) if w} for other in stems if other != stem]
    own = [w for w in words if not w.isdigit() and any(w not in o for o in others)]
    return own[0] if own else stem
