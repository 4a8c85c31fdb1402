"""Runs that their tracker has marked as deleted while their files are still there: said, and kept out of the catalogue.

What the tracker's files said is remembered in the catalogue with their identities, so that they are opened only after
they changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.identity import settle
from epsopt.zoo.catalogue.queries import refresh_run
from epsopt.zoo.catalogue.tables import checkpoints, files, runs
from epsopt.zoo.errors import Failure
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.mlflow import before_deletion, restore_experiment, trashed_experiment
from epsopt.zoo.layouts.registry import lifecycles
from epsopt.zoo.layouts.scan import CheckpointFile, Scan
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import ask
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Identity

_KIND, _KEY = "layouts", "deleted runs"
_RUNS = 500  # of one question


@dataclass(frozen=True)
class _TrackerRecord:
    """What a run's tracker said, and the file that said it as it was then."""

    identity: list[int]
    reason: str | None


def set_aside(seen: Scan, pool: Callable[[], ReaderPool], catalogue: Catalogue | None = None) -> list[Failure]:
    """Take runs that were deleted in their tracker out of a scan; return their folders, each with a sentence.

    Args:
        seen: loses the files of those runs; of experiments in MLflow's ``.trash`` it has none.
        pool: gives the children, if any file has to be opened.
        catalogue: where answers are remembered, and which loses the checkpoints of those runs.
    """
    members: dict[str, list[CheckpointFile]] = {}
    for found in seen.files:
        members.setdefault(found.run_path, []).append(found)
    known = {} if catalogue is None else _kept_records(catalogue)
    records: dict[str, _TrackerRecord] = {}
    questions: dict[tuple[str, Path], list[str]] = {}
    identities: dict[Path, Identity] = {}
    for run in members:
        for layout, file in lifecycles(location(run), seen.folders):
            identity = identities.get(file) or seen.folders.identity(file)
            if identity is None:
                continue
            identities[file] = identity
            before = known.get(run)
            if before is not None and before.identity == _listed(identity):
                records[run] = before
            else:
                questions.setdefault((layout, file), []).append(run)
    asked = [(layout, file, run) for (layout, file), about in questions.items() for run in _batches(about)]
    headers = [
        (file, identities[file].size, {"kind": "deleted", "layout": layout, "runs": about})
        for layout, file, about in asked
    ]
    for (_, file, about), answer in zip(asked, ask(pool(), headers) if headers else [], strict=True):
        if answer["status"] == "deleted":
            records |= {run: _TrackerRecord(_listed(identities[file]), answer["reasons"].get(run)) for run in about}
    gone = {run: s.reason for run, s in records.items() if s.reason is not None}
    seen.files = [found for found in seen.files if found.run_path not in gone]
    if catalogue is not None:
        if any(known.get(run) != s for run, s in records.items()):
            text = json.dumps({run: [s.identity, s.reason] for run, s in sorted({**known, **records}.items())})
            catalogue.put_artifact(_KIND, _KEY, text.encode(), {})
        _delete_checkpoints(catalogue, {*gone, *_former(seen)})
    named = [*(Failure(run, reason) for run, reason in gone.items()), *_trashed(seen)]
    return sorted(named, key=lambda f: f.path)


def _trashed(seen: Scan) -> list[Failure]:
    """Return the deleted experiments that hold checkpoints, each with how many."""
    members: dict[Path, list[CheckpointFile]] = {}
    for found in seen.trashed:
        if (experiment := trashed_experiment(location(found.run_path))) is not None:
            members.setdefault(experiment, []).append(found)
    return [
        Failure(
            str(experiment),
            f"an experiment deleted in MLflow, {count(len({f.run_path for f in held}), 'run')} with "
            f"{count(len(held), 'checkpoint')}: {restore_experiment(experiment)} brings it back",
        )
        for experiment, held in members.items()
    ]


def _former(seen: Scan) -> set[str]:
    """Return the folders that runs of deleted experiments had; where one is there again, it is another run."""
    there = {f.run_path for f in seen.files}
    held = (location(f.run_path) for f in seen.trashed)
    return {str(before_deletion(run)) for run in held if trashed_experiment(run) is not None} - there


def _batches(about: list[str]) -> list[list[str]]:
    return [about[i : i + _RUNS] for i in range(0, len(about), _RUNS)]


def _listed(identity: Identity) -> list[int]:
    return [identity.size, identity.mtime_ns, identity.inode]


def _kept_records(catalogue: Catalogue) -> dict[str, _TrackerRecord]:
    kept = catalogue.get_artifact(_KIND, _KEY)
    try:
        return (
            {run: _TrackerRecord(list(i), reason) for run, (i, reason) in json.loads(kept[0]).items()} if kept else {}
        )
    except (ValueError, TypeError, AttributeError):
        return {}  # damaged: the files are asked again


def _delete_checkpoints(catalogue: Catalogue, gone: Collection[str]) -> None:
    """Take checkpoints of deleted runs out of the catalogue; other runs keep their own of files that they share."""
    if not gone:
        return
    with catalogue.reading() as connection:
        query = select(checkpoints.c.id, checkpoints.c.run_id, runs.c.path.label("run")).join(runs)
        held = [r for r in connection.execute(query) if r.run in gone]
    if held:
        with catalogue.writing() as connection:
            touched: set[int] = set()
            for row in held:
                connection.execute(delete(files).where(files.c.checkpoint_id == row.id))
                settle(connection, row.id)
                touched.add(row.run_id)
            for run_id in sorted(touched):
                refresh_run(connection, run_id)
