"""PyTorch Lightning: ``version_N/{hparams.yaml, metrics.csv, checkpoints/*.ckpt}``; the run is ``version_N``.

LightningCLI keeps beside them the configuration with which it may be launched again, ``config.yaml``: its names
(``model.lr``, ``trainer.max_epochs``) are those that the command line takes.

A checkpoint is Lightning's if it says ``pytorch-lightning_version``, wherever it lies. A metric with a slash in the
pattern of its name (``{epoch}-{val/loss:.2f}``) makes folders, ``epoch=0-val/loss=0.50.ckpt``: they are no runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.layouts import plain
from epsopt.zoo.layouts.best import same_end
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout, Log, Undecided
from epsopt.zoo.layouts.log_rows import flat, rows_of
from epsopt.zoo.layouts.parsed import ParsedCheckpoint, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.reading.plain_values import metrics_of
from epsopt.zoo.reading.text import sanitize

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint

VERSION = "pytorch-lightning_version"


_HOLDER = "checkpoints"
_LOGGED = ("hparams.yaml", "metrics.csv")
CONFIG = "config.yaml"
_CLI_PARTS = ("trainer", "model")  # of every configuration that LightningCLI writes
_PLACES = ("trainer.logger", "trainer.default_root_dir", "trainer.callbacks")  # they say where, not how, it trains
_LOGGERS = ("csv", "csv_logs", "lightning_logs", "logs", "tb_logs", "tensorboard")
_ADVICE = "let ModelCheckpoint save without dirpath=, beside its log, or into a folder called as its version"
_ABOVE = 3
_VERSION = re.compile(r"version_\d+")
_DEPTH = 4
_LOOKED = 500  # folders
# "epoch=3-val", "step=10-train": a name in the making; "val", "best-val": what a metric in a file's name began with.
_BEGUN = re.compile(r"(?:.*[-_])?(?:epoch|step)=\d+(?:[-_].*)?")
_SPLIT = re.compile(r"(?:.*[-_])?(?:train|training|val|valid|validation|test|dev|eval)")
_CONTINUED = re.compile(r"(?!(?:epoch|step)=)[^=]+=-?[\d.]+.*")
# Saved between validations, so that the monitored value may be that of an older model.
_BETWEEN = re.compile(r"'every_n_train_steps': [1-9]|'train_time_interval': (?!None)")


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the folder above ``checkpoints``; of a name with slashes elsewhere, the folder in which it begins."""
    if file.suffix.lower() != ".ckpt":
        return None
    folder = _begins(file)
    if folder.name == _HOLDER:
        return folder.parent
    for above in file.parents[1:_DEPTH]:
        # Callbacks with folders of their own ("checkpoints/best") below one version of a logger.
        if above.name == _HOLDER and _is_version(above.parent, folders):
            return above.parent
    return folder if folder != file.parent else None


def _begins(file: Path) -> Path:
    """Return the folder in which a file's name begins, where a metric with a slash made folders of it."""
    folder, name = file.parent, file.name
    for _ in range(_DEPTH):
        if not (_BEGUN.fullmatch(folder.name) or (_SPLIT.fullmatch(folder.name) and _CONTINUED.fullmatch(name))):
            break
        folder, name = folder.parent, folder.name
    return folder


def _is_version(folder: Path, folders: Folders) -> bool:
    return any(name in _LOGGED or ".tfevents." in name for name in folders.names(folder))


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return what the loggers wrote beside ``checkpoints``, or elsewhere where nothing else can be meant."""
    ours = [folder for folder in held if folder.is_relative_to(run) and _HOLDER in folder.relative_to(run).parts]
    if not any(name.endswith(".ckpt") for folder in ours for name in folders.names(folder)):
        log = log_elsewhere(run, held, folders)
        return [] if log is None else folders.those(log, (*_LOGGED, CONFIG))
    # A logger with a folder of its own, as in lightning-hydra-template: of several versions nothing says which it is.
    tops = folders.those(run, _LOGGERS)
    versions = [top / name for top in tops for name in folders.names(top) if _VERSION.fullmatch(name)]
    nested = versions if len(versions) == 1 else [] if versions else tops
    missing = [name for name in _LOGGED if name not in folders.names(run)]
    return [*folders.those(run, (*_LOGGED, CONFIG)), *(f for top in nested for f in folders.those(top, missing))]


def undecided(run: Path, held: Sequence[Path], folders: Folders) -> Undecided | None:
    """Return versions of logs near checkpoints that a callback saved elsewhere (``dirpath=``)."""
    if not _saved_elsewhere(run, held, folders):
        return None
    _, places = _nearby(run, folders)
    logs = tuple(_files(log, folders) for found in places.values() for log in found)
    return Undecided(Path(os.path.commonpath(places)), logs, _ADVICE) if logs else None


def _files(log: Path, folders: Folders) -> Log:
    events = tuple(log / name for name in sorted(folders.names(log)) if ".tfevents." in name)
    found = (("lightning", tuple(folders.those(log, _LOGGED))), ("tensorboard", events))
    return tuple((layout, files) for layout, files in found if files)


def _saved_elsewhere(run: Path, held: Sequence[Path], folders: Folders) -> bool:
    saved = any(name.endswith(".ckpt") for folder in held for name in folders.names(folder))
    return saved and not folders.those(run, _LOGGED)


def log_elsewhere(run: Path, held: Sequence[Path], folders: Folders) -> Path | None:
    """Return the log of checkpoints that a callback saved elsewhere, if its name tells it; None otherwise.

    It is the version that the checkpoints' folder is called by, or the only version of a logger that it is called by,
    or the only log where there are checkpoints of one run only.
    """
    if not _saved_elsewhere(run, held, folders):
        return None
    above, places = _nearby(run, folders)
    if above is None:
        return None
    called = set(run.relative_to(above).parts)
    logs = [log for found in places.values() for log in found]
    of_version = [log for log in logs if log.name in called]
    of_name = [
        log for place, found in places.items() for log in found if place.name in called and place.parent != above
    ]
    for found in (of_version, of_name):
        if found:
            return found[0] if len(found) == 1 else None
    return logs[0] if len(logs) == 1 and _n_saved(above, folders) == 1 else None


def _nearby(run: Path, folders: Folders) -> tuple[Path | None, dict[Path, list[Path]]]:
    """Return the nearest folder above a run in which loggers wrote, and versions without checkpoints by their place."""
    for above in (run, *run.parents[:_ABOVE]):
        places: dict[Path, list[Path]] = {}
        for top in folders.those(above, _LOGGERS):
            named = (top, *(top / name for name in sorted(folders.names(top)) if not _VERSION.fullmatch(name)))
            for place in named:
                logs = [place / name for name in sorted(folders.names(place)) if _VERSION.fullmatch(name)]
                logs = [log for log in logs if _is_version(log, folders) and _HOLDER not in folders.names(log)]
                if logs:
                    places[place] = logs
        if places:
            return above, places
    return None, {}


def _n_saved(above: Path, folders: Folders) -> int:
    """Count the folders that hold checkpoints, those inside of others left out, up to two."""
    key = f"lightning: checkpoints below {above}"
    if key not in folders.known:
        found, looked, waiting = 0, 0, [(above, 0)]
        while waiting and found < 2:
            folder, depth = waiting.pop()
            looked += 1
            if looked > _LOOKED:
                found = 2
            elif any(name.endswith(".ckpt") for name in folders.names(folder)):
                found += 1
            elif depth < _DEPTH:
                inside = (n for n in folders.names(folder) if "." not in n or _BEGUN.fullmatch(n))
                waiting += [(folder / name, depth + 1) for name in inside]
        folders.known[key] = found
    return int(str(folders.known[key]))


def interpret(checkpoint: OpenCheckpoint) -> ParsedCheckpoint | None:
    """Read as a plain checkpoint; the monitored metric is what ModelCheckpoint kept of this very file."""
    tree = checkpoint.tree
    if checkpoint.metadata is not None or not isinstance(tree, Mapping) or VERSION not in tree:
        return None
    reading = plain.interpret(checkpoint)
    metrics = {**_monitored(checkpoint), **reading.metrics}
    return replace(reading, metrics=metrics, layout="lightning", best=_best(_callbacks(checkpoint)))


def _callbacks(checkpoint: OpenCheckpoint) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the states of ModelCheckpoint callbacks, in the order of the trainer."""
    callbacks = checkpoint.tree.get("callbacks")
    return [
        (str(name), state)
        for name, state in (callbacks.items() if isinstance(callbacks, Mapping) else ())
        if str(name).startswith("ModelCheckpoint") and isinstance(state, Mapping)
    ]


def _best(states: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Return the path that ``trainer.test(ckpt_path="best")`` takes: that of the first callback."""
    best = next((state.get("best_model_path") for _, state in states), None)
    return sanitize(best) if isinstance(best, str) and best else None


def _monitored(checkpoint: OpenCheckpoint) -> dict[str, float | None]:
    """Return the scores that callbacks have of this file: ``current_score`` is that of the last file they saved."""

    def scalar(tensor: Any) -> Any:
        checkpoint.check({"a number": tensor})
        return checkpoint.read("a number", tensor).reshape(()).item()

    states = _callbacks(checkpoint)
    path = checkpoint.source.path
    # The file may have moved since; what has most of its path in common with it is it.
    known = [p for _, s in states for p in (*_scores(s), s.get("best_model_path"), s.get("last_model_path"))]
    most = max((same_end(path, other) for other in known if isinstance(other, str)), default=0)
    found: dict[str, float | None] = {}
    for name, state in states:
        own = [score for other, score in _scores(state).items() if most and same_end(path, other) == most]
        if len(own) == 1 and isinstance(monitor := state.get("monitor"), str) and not _BETWEEN.search(name):
            found.update(metrics_of({monitor: own[0]}, scalar))
    return found


def _scores(state: Mapping[str, Any]) -> dict[str, Any]:
    kept = state.get("best_k_models")
    return {k: v for k, v in kept.items() if isinstance(k, str)} if isinstance(kept, Mapping) else {}


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read hparams.yaml, metrics.csv and LightningCLI's config.yaml."""
    metadata = RunMetadata(failures=reader.failures)
    for file in reader.named("hparams.yaml"):
        metadata.hyperparameters = flat(reader.yaml(file))
    for file in reader.named(CONFIG):
        metadata.hyperparameters |= cli_parameters(reader.yaml(file))
    for file in reader.named("metrics.csv"):
        metadata.rows = rows_of(reader.table(file))
    return metadata


def is_cli_config(tree: object) -> bool:
    """Whether a configuration is one that LightningCLI wrote."""
    return isinstance(tree, Mapping) and all(isinstance(tree.get(part), Mapping) for part in _CLI_PARTS)


def cli_parameters(tree: object) -> dict[str, Any]:
    """Return the hyperparameters of LightningCLI's configuration, called as its command line calls them.

    What is not set is left out, and so is where a run writes; none of a configuration of another program.
    """
    if not is_cli_config(tree):
        return {}
    return {n: v for n, v in flat(tree).items() if v is not None and not n.startswith(_PLACES)}


LAYOUT = Layout(
    "lightning",
    run_of=run_of,
    side_files=side_files,
    undecided=undecided,
    interpret=interpret,
    parse_side_files=parse_side_files,
)
