"""Look at a folder of runs without recording anything: what `epsopt init` writes the project file from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from epsopt.zoo.errors import Failure
from epsopt.zoo.ingestion.deleted_runs import set_aside
from epsopt.zoo.ingestion.ingest import read_fingerprints
from epsopt.zoo.layouts.named_values import named_values
from epsopt.zoo.layouts.nothing_found import nothing_found
from epsopt.zoo.layouts.plain import epoch_of
from epsopt.zoo.layouts.scan import CheckpointFile, order, scan
from epsopt.zoo.reading.plain_values import numeral
from epsopt.zoo.reading.pool import shared_pool
from epsopt.zoo.reading.reader import CheckpointContents

MOST_RUNS = 200
"""Runs that are opened: two hundred tell the range of hyperparameters, and take a few seconds."""

_ON_THE_WAY = 8  # runs of which an earlier checkpoint is opened, too
_OTHERS = 4  # files of other names that are opened in a run
_NUMBER = re.compile(r"\d+")
_PLACES = (0.5, 0.75, 0.25, 0.9)  # which one, of a run's earlier ones; the next only where metrics are missing so far


@dataclass(frozen=True)
class Survey:
    """What a folder of runs holds, judged by the newest checkpoint of each run.

    Attributes:
        n_runs: folders that hold checkpoints.
        n_checkpoints: checkpoint files.
        n_read: runs that were opened and could be read.
        metrics: finite values by metric name.
        hyperparameters: of each run that was read.
        ends: metrics of each of these runs at its newest checkpoint; None where one is not finite.
        measured: metrics of the checkpoints that were opened of each of these runs, those of the end first.
        newest: the checkpoint of each of these runs that was judged by.
        counts_steps: whether a number of steps stands for the epoch in all of them.
        at_ends: metrics that the ends of runs have and none of the earlier checkpoints that were opened.
        unnamed_model: metrics that no checkpoint has until ``weights_key`` names one of several networks of a moment.
        failed: checkpoints that could not be read.
        side_file_failures: files beside them that could not be read.
        outside_links: links that lead out of the folder and were not followed.
    """

    n_runs: int
    n_checkpoints: int
    n_read: int
    metrics: dict[str, list[float]]
    hyperparameters: list[dict[str, Any]]
    failed: list[Failure]
    side_file_failures: list[Failure]
    outside_links: list[str] = field(default_factory=list)
    ends: list[dict[str, float | None]] = field(default_factory=list)
    at_ends: tuple[str, ...] = ()
    unnamed_model: tuple[str, ...] = ()
    measured: list[list[dict[str, float | None]]] = field(default_factory=list)
    newest: tuple[Path, ...] = ()
    counts_steps: bool = False


def survey(runs: Path, progress: Callable[[int, int], None] | None = None, *, follow_links: bool = False) -> Survey:
    """Open the newest checkpoint of each run (by its numbers), of at most 200 runs spread evenly.

    Of a few runs an earlier checkpoint is opened, too: a metric may be measured at the ends of runs alone.

    Args:
        runs: folder of the runs.
        progress: called as ``progress(done, total)``.
        follow_links: whether links that lead out of the folder are followed.

    Raises:
        UsageError: there is no such folder.
        EmptyCatalogue: it holds no checkpoint that can be read.
    """
    seen = scan(runs, follow_links=follow_links)
    deleted = set_aside(seen, lambda: shared_pool(2))
    members: dict[str, list[CheckpointFile]] = {}
    for found in sorted(seen.files, key=lambda f: order(f.path), reverse=True):
        members.setdefault(found.run_path, []).append(found)
    chosen = sorted(members.values(), key=lambda files: files[0].run_name)
    if len(chosen) > MOST_RUNS:
        chosen = [chosen[i * len(chosen) // MOST_RUNS] for i in range(MOST_RUNS)]
    failures: list[Failure] = []

    def read(
        paths: list[Path], progress: Callable[[int, int], None] | None = None
    ) -> list[CheckpointContents | Failure]:
        if not paths:
            return []
        return read_fingerprints(paths, progress=progress, folders=seen.folders, on_failure=failures.append)

    results = read([files[0].path for files in chosen], progress)
    unread = [r for r in results if isinstance(r, Failure)]
    _read_others(chosen, results, read)
    # A copy of the weights under a name of its own ("final") is often the newest, and says nothing.
    silent = [i for i, r in enumerate(results) if len(chosen[i]) > 1 and not (isinstance(r, Failure) or r.metrics)]
    before = [chosen[i][1].path for i in silent]
    seconds = read(before)
    for i, second in zip(silent, seconds, strict=True):
        if not isinstance(second, Failure):
            results[i] = second
    contents = [r for r in results if not isinstance(r, Failure)]
    failed = seen.failures + unread
    if not contents:
        raise nothing_found([runs], failed=failed, deleted=deleted, others=seen.other.kinds.values())
    opened = [(files, r) for files, r in zip(chosen, results, strict=True) if not isinstance(r, Failure)]
    on_the_way = _on_the_way(opened, read)
    unnamed_model = tuple(sorted(_of_unnamed_models(opened, read)))
    metrics: dict[str, list[float]] = {}
    for content in (*contents, *on_the_way):
        for name, value in content.metrics.items():
            if value is not None:
                metrics.setdefault(name, []).append(value)
    return Survey(
        n_runs=len(members),
        n_checkpoints=len(seen.files),
        n_read=len(contents),
        metrics=dict(sorted(metrics.items())),
        hyperparameters=[
            {name: numeral(value) for name, value in c.hyperparameters.items()} or named_values(files[0].run_path)
            for files, c in opened
        ],
        failed=failed,
        side_file_failures=sorted(set(failures), key=lambda f: f.path),
        outside_links=sorted(seen.outside_links),
        ends=[dict(c.metrics) for c in contents],
        measured=_by_run(opened, on_the_way),
        newest=tuple(c.path for c in contents),
        counts_steps=all(c.epoch is not None and c.epoch == c.step for c in contents),
        at_ends=tuple(sorted(_names(contents) - _names(on_the_way))) if on_the_way else (),
        unnamed_model=unnamed_model,
    )


def _by_run(
    runs: Sequence[tuple[list[CheckpointFile], CheckpointContents]], on_the_way: Sequence[CheckpointContents]
) -> list[list[dict[str, float | None]]]:
    places = {file.path: i for i, (files, _) in enumerate(runs) for file in files}
    found = [[dict(end.metrics)] for _, end in runs]
    for content in on_the_way:
        found[places[content.path]].append(dict(content.metrics))
    return found


def _read_others(
    chosen: list[list[CheckpointFile]],
    results: list[CheckpointContents | Failure],
    read: Callable[[list[Path]], list[CheckpointContents | Failure]],
) -> None:
    """Read another file of each run whose newest one cannot be read: the state of a training, or half of a checkpoint.

    Args:
        chosen: files of each run, the newest first; what is read comes first afterwards.
        results: of the first file of each run; replaced where another one is read.
        read: reads files.
    """
    waiting = {i: _others(files) for i, files in enumerate(chosen) if isinstance(results[i], Failure)}
    while waiting := {i: files for i, files in waiting.items() if files and isinstance(results[i], Failure)}:
        tried = {i: files.pop(0) for i, files in waiting.items()}
        for (i, file), result in zip(tried.items(), read([f.path for f in tried.values()]), strict=True):
            if not isinstance(result, Failure):
                results[i] = result
                chosen[i] = [file, *(f for f in chosen[i] if f is not file)]


def _others(files: Sequence[CheckpointFile]) -> list[CheckpointFile]:
    """Return what to read in place of the first file: the first of each other name, and those next to it."""
    kinds = _kinds(files)[1:_OTHERS]
    return [*kinds, *(f for f in files[1:_OTHERS] if f not in kinds)]


def _kinds(files: Sequence[CheckpointFile]) -> list[CheckpointFile]:
    """Return the first file of each name, numbers aside."""
    found: dict[str, CheckpointFile] = {}
    for file in files:
        found.setdefault(_NUMBER.sub("", file.path.name), file)
    return list(found.values())


def _of_unnamed_models(
    runs: Sequence[tuple[list[CheckpointFile], CheckpointContents]],
    read: Callable[[list[Path]], list[CheckpointContents | Failure]],
) -> set[str]:
    """Return metrics that a file has alone, and not beside the other networks that its run saved at its moment."""
    neighbours: list[tuple[CheckpointContents, list[Path]]] = []
    for files, content in runs:
        moment = epoch_of({}, content.path)
        others = [f.path for f in _kinds(files) if f.path != content.path and epoch_of({}, f.path) == moment]
        if others and content.metrics and len(neighbours) < _ON_THE_WAY:
            neighbours.append((content, others[:_OTHERS]))
    together = {
        r.path: r
        for r in read([p for c, others in neighbours for p in (c.path, *others)])
        if not isinstance(r, Failure)
    }
    pairs = [(c.metrics, together[c.path].metrics) for c, _ in neighbours if c.path in together]
    return {name for alone, among_others in pairs for name in alone if name not in among_others}


def _on_the_way(
    runs: Sequence[tuple[list[CheckpointFile], CheckpointContents]],
    read: Callable[[list[Path]], list[CheckpointContents | Failure]],
) -> list[CheckpointContents]:
    """Return earlier checkpoints of a few runs; more of them while they lack a metric that the ends have.

    A copy of the last or the best checkpoint is none: a run's ``last.ckpt`` has what its end has.
    """
    several = [(files, end) for files, end in runs if len(files) > 1]
    few = (
        [several[i * len(several) // _ON_THE_WAY] for i in range(_ON_THE_WAY)]
        if len(several) > _ON_THE_WAY
        else several
    )
    found: list[CheckpointContents] = []
    opened: set[Path] = set()
    for place in _PLACES:
        earlier = [(files[1 + int(place * (len(files) - 1))].path, end) for files, end in few]
        new = [(path, end) for path, end in earlier if path not in opened | {end.path}]
        opened.update(path for path, _ in new)
        for content, (_, end) in zip(read([path for path, _ in new]), new, strict=True):
            if not isinstance(content, Failure) and not _is_of_the_end(content, end):
                found.append(content)
        if not _names([end for _, end in few]) - _names(found):
            break
    return found


def _is_of_the_end(content: CheckpointContents, end: CheckpointContents) -> bool:
    same_epoch = content.epoch is not None and content.epoch == end.epoch
    return same_epoch or np.array_equal(content.sketch, end.sketch, equal_nan=True)


def _names(contents: Sequence[CheckpointContents]) -> set[str]:
    return {name for content in contents for name in content.metrics}
