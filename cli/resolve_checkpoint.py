"""Which checkpoint is meant: a file, a run or its epoch by any name that tells it, a folder, or part of a SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.cli.run_labels import RunLabels
from epsopt.zoo.catalogue.run_names import hint, named_run
from epsopt.zoo.errors import UnreadableCheckpoint, UsageError

if TYPE_CHECKING:
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint


@dataclass(frozen=True)
class Located:
    """A checkpoint that somebody named.

    Attributes:
        title: how to call it, by the whole name of its run.
        shown: what tables call it.
        checkpoint: its record; one that is not in the catalogue has id 0, and lineage 0 where no known one fits.
        fingerprint: of its weights.
    """

    title: str
    shown: str
    checkpoint: Checkpoint
    fingerprint: Fingerprint


def locate(what: str, catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> Located:
    """Find the checkpoint that is meant.

    Raises:
        UsageError: nothing, or several checkpoints, may be meant.
        UnreadableCheckpoint: it is a file that cannot be read.
    """
    meant = find_known(what, catalogue, checkpoints)
    if meant is None:
        return _stranger(Path(what), catalogue)
    shown = RunLabels.of(checkpoints)(meant.run, meant.epoch)
    return Located(title(meant), shown, meant, catalogue.fingerprints([meant.id])[0])


def find_known(what: str, catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Find the checkpoint of the catalogue that is meant; None: it is a file that the catalogue does not hold.

    Raises:
        UsageError: nothing, or several checkpoints, may be meant.
    """
    path = Path(what)
    if not path.is_file():
        return named(what, checkpoints)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    held = set(catalogue.holding(sha256))
    same = [c for c in checkpoints if c.id in held]  # several, where runs share the file: the one that it lies in
    return next((c for c in same if str(path.absolute()) in c.paths), same[0] if same else None)


def title(checkpoint: Checkpoint) -> str:
    """Call a checkpoint by the whole name of its run."""
    return checkpoint.run if checkpoint.epoch is None else f"{checkpoint.run}:{checkpoint.epoch}"


def _stranger(path: Path, catalogue: Catalogue) -> Located:
    from epsopt.cli.render import short_path
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.errors import Failure
    from epsopt.zoo.ingestion.ingest import read_fingerprints

    content = read_fingerprints([path.resolve()], catalogue, jobs=1)[0]
    if isinstance(content, Failure):
        raise UnreadableCheckpoint(content.path, content.reason)
    record = Checkpoint(
        id=0,
        run_id=0,
        run=path.parent.name or str(path),
        path=str(path.resolve()),
        sha256=content.sha256,
        epoch=content.epoch,
        metrics=content.metrics,
        hyperparameters=dict(content.hyperparameters),
        signature=content.signature,
        lineage_id=content.lineage or 0,
        n_parameters=content.n_parameters,
    )
    return Located(short_path(path), short_path(path), record, content.fingerprint)


def named(what: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Find a checkpoint of the catalogue by run, run and epoch, or SHA-256 prefix.

    Raises:
        UsageError: nothing, or several checkpoints, may be meant.
    """
    runs = _by_run(checkpoints)
    whole = find_run(what, checkpoints)
    if whole is not None:
        return runs[whole][-1]
    run_name, colon, epoch = what.rpartition(":")
    run = find_run(run_name, checkpoints) if colon else None
    if run is not None:
        for c in runs[run]:
            if str(c.epoch) == epoch:
                return c
        epochs = ", ".join(str(c.epoch) for c in runs[run])
        raise UsageError(f"run {run} has no checkpoint of epoch {epoch}, it has {epochs}")
    if re.fullmatch(r"[0-9a-fA-F]{6,64}", what):
        fitting = [c for c in checkpoints if c.sha256.startswith(what.lower())]
        if len({c.sha256 for c in fitting}) == 1:
            return fitting[0]
        if fitting:
            raise UsageError(f"{len(fitting)} checkpoints have a SHA-256 that begins with {what}: write more of it")
    meant = hint(run_name or what, runs)
    raise UsageError(f"{what} is no file, no run, and begins no SHA-256 of the catalogue: {meant}")


def find_run(what: str, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Return the name of the run that is meant; None: none is.

    It may be called as tables call it, by its name or any part of it that only one run has, or by its folder.

    Raises:
        UsageError: several runs may be meant.
    """
    runs = _by_run(checkpoints)
    labels = RunLabels.of(checkpoints).shown
    if what in runs:
        return what
    called = next((run for run, label in labels.items() if label == what), None)
    if called is not None:
        return called
    folder = Path(what)
    if folder.is_dir():
        place = str(folder.resolve())
        inside = sorted({c.run for c in checkpoints if any(p.startswith(f"{place}/") for p in c.paths)})
        if len(inside) > 1 and named_run(what, runs) is None:
            raise UsageError(f"{what} holds {len(inside)} runs: name one of them, such as {inside[0]}")
        if len(inside) == 1:
            return inside[0]
    return named_run(what, runs)


def require_run(what: str, checkpoints: Sequence[Checkpoint]) -> str:
    """Return the name of the run that is meant, also where it is named with an epoch.

    Raises:
        UsageError: no run, or several, may be meant.
    """
    found = find_run(what, checkpoints)
    if found is None and ":" in what:
        found = find_run(what.rpartition(":")[0], checkpoints)
    if found is None:
        meant = hint(what, _by_run(checkpoints))
        raise UsageError(f"the catalogue has no run {what}: {meant}")
    return found


def _by_run(checkpoints: Sequence[Checkpoint]) -> dict[str, list[Checkpoint]]:
    runs: dict[str, list[Checkpoint]] = {}
    for c in checkpoints:
        runs.setdefault(c.run, []).append(c)
    return runs
