"""Several trainings in one folder: ``styleA-000002.safetensors`` beside ``styleB-000002.safetensors``.

kohya's scripts number the epochs of a training with six digits, and its steps with eight; the last file has no number.
Of other names the numbers tell: two names that were both saved at the same moments, and that are no words for a
callback (``best-1``, ``last-1``) or for a part of one model (``generator_1``, ``netD_1``), are two trainings. Words for
runs (``fold_0.pt`` beside ``fold_1.pt``, ``model_seed3.pt``) part a folder by themselves: their numbers are no epochs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.parsed import RunMetadata

CHECKPOINT = re.compile(r"\.(?:pt|pth|ckpt|safetensors)(?:\.tar)?$", re.IGNORECASE)
REPEAT = re.compile(r"(?:seed|fold|cv|rep|repeat|replica|split)[-_=]?\d{1,9}", re.IGNORECASE)
"""Names of runs that repeat one training on other data or from another seed."""
_KOHYA = re.compile(r"(.+)-(?:\d{6}|step\d{8})")
_NUMBERED = re.compile(
    r"(.*?)[-_.=]?(?:(?:epoch|ep|step|iter|iteration|ckpt|checkpoint)s?[-_=]?)?(\d{1,15})", re.IGNORECASE
)
_WORDS = frozenset(
    """acc accuracy actor actors adapter agent all at average averaged avg backbone backup base best bias checkpoint
    checkpoints ckpt ckpts classifier critic critics current dec decoder disc discriminator ema emb embedding
    embeddings enc encoder end ep epoch every f1 fid final full gen generator global good head interval iter
    iteration iters last late latest lora loss lowest max min model models module my net nets network new newest
    old opt optim optimizer periodic periodically policy pred predictor rank save saved score second snapshot
    stage state state_dict states step steps student swa target teacher temp text third tmp top train trained
    trainer training unet update vae val valid validation value weights worst""".split()
)
OF_RUNS = re.compile(
    r"(?:(?<=[-_.])|^)(?:run|trial|exp|experiment|seed|fold|cv|split|rep|repeat|try|attempt|replica)[-_=]?\d{1,9}"
    r"(?=[-_.]|$)",
    re.IGNORECASE,
)
"""A word for a run with its number, in the name of a file."""
SHARED = (
    "lies in a folder that holds the checkpoints of several trainings, and those that no column of it names have none "
    "of its values: move each training into a folder of its own, or give their metrics in a CSV with columns "
    'checkpoint and metric.NAME ([runs] table = "runs.csv")'
)
_FILES = " (files)"  # of a training that is called as a folder beside its files
_LEAST = 2  # numbers that two names have in common


def series_of(file: Path, folders: Folders) -> str | None:
    """Return the name of the training that a file belongs to, None where its folder holds one training."""
    names = folders.names(file.parent)
    key = f"series of {file.parent}"
    found = folders.known.get(key)
    if not isinstance(found, dict):
        found = folders.known[key] = _series(names)
    name = found.get(file.name)
    return None if name is None else f"{name}{_FILES}" if name in names else str(name)


def name_of(run: Path) -> str:
    """Return the name of a training, as its files have it."""
    return run.name.removesuffix(_FILES)


def leave_out_shared(metadata: RunMetadata) -> bool:
    """Leave out what a log says that lies among the checkpoints of several trainings; return whether it says anything.

    Values that the log gives to checkpoints by their names stay.
    """
    named = [row for row in metadata.rows if row.checkpoint]
    shared = len(named) < len(metadata.rows) or bool(metadata.final or metadata.ordered or metadata.after)
    metadata.rows, metadata.final, metadata.ordered, metadata.after = named, {}, [], None
    return shared


def _series(names: Iterable[str]) -> dict[str, str]:
    """Return the training of each file, by the file's name; empty where there are fewer than two."""
    stems = {name: CHECKPOINT.sub("", name) for name in names if CHECKPOINT.search(name)}
    named = {n: stem[: m.end()] for n, stem in stems.items() if (m := OF_RUNS.search(stem))}
    if len(set(named.values())) > 1:
        return named
    numbered = {n: m[1] for n, stem in stems.items() if n.endswith(".safetensors") and (m := _KOHYA.fullmatch(stem))}
    if len(set(numbered.values())) < 2:
        numbered = _of_common_moments(stems)
    series = set(numbered.values())
    return {**numbered, **{n: stem for n, stem in stems.items() if stem in series}} if len(series) > 1 else {}


def _of_common_moments(stems: dict[str, str]) -> dict[str, str]:
    moments: dict[str, dict[str, str]] = {}
    for name, stem in stems.items():
        found = _NUMBERED.fullmatch(stem)
        if found is not None and found[1]:
            moments.setdefault(found[1], {})[found[2]] = name
    if any(_is_word(before) for before in moments):
        return {}
    common = set.intersection(*(set(m) for m in moments.values())) if len(moments) > 1 else set()
    if len(common) < _LEAST:
        return {}
    return {name: before for before, held in moments.items() for name in held.values()}


def is_part(name: str) -> bool:
    """Tell whether a folder's name is a word for a part of a model or for a callback, and so no name of a run."""
    return name.lower() in _WORDS


def _is_word(before: str) -> bool:
    """Tell whether a name ends in words that say when or of what a file was saved, and not of which training."""
    parts = [p for p in re.split(r"[^a-z]+", before.lower()) if p]
    return not parts or len(parts[-1]) == 1 or parts[-1] in _WORDS or parts[0].startswith("net")
