"""A folder for each checkpoint: ``checkpoint_3/model.pt`` (accelerate, Ray), ``global_step100/``, ``checkpoints/500/``.

Such folders are checkpoints of one run, which is above them. Names of runs (``trial_3/model.pt``, ``fold_0/best.pth``,
``seed_1``) look the same but for the word, so only words that mean a moment of a training count by themselves; of
other numbered siblings the log or configuration tells that lies above them and not inside.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.reading.policy_archive import POLICY

_HOLDING = frozenset("checkpoint checkpoints ckpt ckpts snapshots".split())
HOLDERS = _HOLDING | frozenset("weights models nn nerfstudio_models saved saved_models trained_models".split())
"""Names of folders for checkpoints inside a run's, of rl_games and nerfstudio among others."""
_DEEP = frozenset("checkpoint ckpt chkpt iter iteration".split())
_WORDS = _DEEP | frozenset("cp epoch ep step update snapshot save state milestone".split())
# What is numbered and is a run, or a part of one model.
_RUNS = frozenset(
    "run trial exp experiment seed fold version job worker rank replica member model net agent task split config"
    " sweep group variant try attempt cv repeat rep idx id layer head expert part shard lr bs wd".split()
)
_PLAIN = _WORDS | frozenset("model weights global tune my best saved at".split())
_WHICH = frozenset("best last latest final".split())
_NAME = re.compile(r"(?:(.*)[-_.=])?([A-Za-z]+)[-_.=]?(\d{1,15})(?:-\d{1,15})?")
_MOMENT = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_[\d.-]+")  # Ray Train 2
_PART = re.compile(r"mp_rank_\d\d(?:_\d\d\d)?")  # Megatron-LM's, in the folder of a checkpoint
_LIGHTNING = ".ckpt"  # with DeepSpeed and FSDP, Lightning's files are folders
_STEPS = re.compile(r"(?:(.*)[-_.])?(\d{1,15})_steps")
_DEPTH = 3
_NUMBERED = _HOLDING


def number_of(folder: Path) -> int | None:
    """Return N of a folder that is one checkpoint by its name alone, None for other folders."""
    if folder.name.isdecimal() and len(folder.name) <= 15 and folder.parent.name.lower() in _NUMBERED:
        return int(folder.name)
    found = _parts(folder.name)
    return found.number if found is not None and found.word in _WORDS else None


def step_of(folder: Path) -> int | None:
    """Return N where the name says that it counts steps."""
    found = _parts(folder.name)
    return found.number if found is not None and found.word in ("step", "iter", "iteration") else None


def by_name(file: Path) -> Path | None:
    """Return the folder that is the checkpoint of a file, from names alone: its own, or one above it."""
    for depth, folder in enumerate(file.parents[:_DEPTH]):
        found = _parts(folder.name)
        if _MOMENT.fullmatch(folder.name):
            return folder
        if _PART.fullmatch(folder.name):
            continue
        if _STEPS.fullmatch(folder.name):
            if file.name == POLICY and not depth:
                return folder
            continue  # "resnet_1000_steps" and "resnet_2000_steps" may be two trainings
        deep = found is None or found.word in _DEEP or folder.name.endswith(_LIGHTNING)
        if number_of(folder) is not None and (not depth or deep):
            return folder
        if found is not None and found.word in _RUNS:
            return None
    return None


def checkpoint_folder(file: Path, folders: Folders, tells: Collection[str]) -> Path | None:
    """Return the folder that is the checkpoint of a file: its own, or one above it (``checkpoint-5/unet/…``).

    Args:
        file: a checkpoint file.
        folders: what lies where.
        tells: names of configurations and logs: of numbered siblings without them, below one, the numbers are moments.
    """
    named = by_name(file)
    if named is not None:
        found = _parts(named.name)
        return named if found is None or _of_one_run(found, named, folders) else None
    found = _parts(file.parent.name)
    if found is not None and _siblings(file, found, folders, tells):
        return file.parent
    return next((f for f in file.parents[:_DEPTH] if says_which(f.name) and _next_to_moments(file, f, folders)), None)


def says_which(name: str) -> bool:
    """Tell whether a folder is called as the best or the last checkpoint: ``checkpoint-best-acc``, ``final``."""
    words = re.split(r"[-_. ]+", name.lower())
    others = [w for w in words if w not in _WHICH]
    return len(others) < len(words) and (words[0] in _DEEP or all(w in _PLAIN or w in HOLDERS for w in others))


def _next_to_moments(file: Path, folder: Path, folders: Folders) -> bool:
    """Tell whether a folder beside this one is a checkpoint by its number, and holds a file of the same name."""
    inside = file.relative_to(folder)
    others = (folder.parent / name for name in folders.names(folder.parent))
    return any(
        file.name in folders.names((other / inside).parent)
        and ((found := _parts(other.name)) is None or _of_one_run(found, other, folders))
        for other in others
        if number_of(other) is not None and not _STEPS.fullmatch(other.name)  # which may be of two trainings
    )


def above(folder: Path, folders: Folders, tells: Collection[str]) -> Path:
    """Return the run of a checkpoint's folder: the one above, or above ``checkpoints`` if that one says more."""
    run = folder.parent
    return run.parent if run.name.lower() in HOLDERS and says_more(run.parent, folders, tells) else run


LOGGERS = frozenset("wandb runs tb tb_logs tensorboard lightning_logs mlruns logs log".split())


def says_more(folder: Path, folders: Folders, tells: Collection[str]) -> bool:
    """Tell whether a folder holds what a run writes beside its ``checkpoints``: logs, configurations, event files."""
    names = folders.names(folder)
    return any(name in tells or name in LOGGERS or ".tfevents." in name for name in names)


class _Parts(NamedTuple):
    before: str
    word: str
    number: int


def _parts(name: str) -> _Parts | None:
    """Return the last word before the number that ends a name, and what is before it."""
    if counted := _STEPS.fullmatch(name):
        return _Parts(counted[1] or "", "step", int(counted[2]))
    found = _NAME.fullmatch(name.removesuffix(_LIGHTNING))
    return None if found is None else _Parts(found[1] or "", found[2].lower(), int(found[3]))


def _of_one_run(found: _Parts, folder: Path, folders: Folders) -> bool:
    """Tell whether all folders of this kind begin alike: ``a_epoch_1`` and ``b_epoch_1`` are of two trainings."""
    if all(w.lower() in _PLAIN or w.isdecimal() for w in re.split(r"[-_.=]+", found.before) if w):
        return True
    others = (_parts(name) for name in folders.names(folder.parent))
    return all(o.before == found.before for o in others if o is not None and o.word == found.word)


def _siblings(file: Path, found: _Parts, folders: Folders, tells: Collection[str]) -> bool:
    """Tell whether numbered folders hold the same file each, and their log or configuration lies above them."""
    folder = file.parent
    if found.word in _RUNS or says_more(folder, folders, tells):
        return False
    others = [n for n in folders.names(folder.parent) if (p := _parts(n)) and p[:2] == (found.before, found.word)]
    if len(others) < 2 or any(file.name not in folders.names(folder.parent / n) for n in others):
        return False
    holder = folder.parent.name.lower() in HOLDERS
    return any(name in tells for name in folders.names(folder.parent.parent if holder else folder.parent))
