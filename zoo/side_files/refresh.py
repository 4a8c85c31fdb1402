"""Bring what side files tell up to date: of runs in the catalogue, or of files that are only looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import Failure
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.best import Claim, named_best, with_best
from epsopt.zoo.layouts.checkpoint_folders import by_name
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.parsed import Position, known_metrics
from epsopt.zoo.layouts.plain import epoch_of
from epsopt.zoo.layouts.registry import shown, undecided
from epsopt.zoo.layouts.scan import Scan, is_checkpoint_name, locate_run, order
from epsopt.zoo.layouts.several_models import Saved, with_models
from epsopt.zoo.reading.plain_values import finite_metrics, with_defaults
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import CheckpointContents
from epsopt.zoo.reading.remote import location
from epsopt.zoo.side_files.discover import SideFileResult, SideFiles, read_side_files, side_files_by_run, side_files_of
from epsopt.zoo.side_files.logs_by_content import Candidates, logs_by_content
from epsopt.zoo.side_files.run_tables import RunTable, RunTableRows, match
from epsopt.zoo.side_files.store import RunInCatalogue, delete_metadata, runs_by_path, upsert_metadata
from epsopt.zoo.side_files.unclaimed_logs import unclaimed_logs

_BATCH = 64  # runs whose answers are written together


@dataclass
class RefreshReport:
    """What came of it.

    Attributes:
        layouts: runs by the name of their layout.
        failures: side files that cannot be read.
        refreshed: runs whose side files were read.
        unmatched: rows of tables that belong to no run found, by the table's name.
    """

    layouts: dict[str, int]
    failures: list[Failure]
    refreshed: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)


def refresh_runs(
    catalogue: Catalogue, seen: Scan, pool: ReaderPool, sheets: Sequence[RunTable] = (), roots: Sequence[Path] = ()
) -> RefreshReport:
    """Read the side files of the runs that were seen, where they changed or speak of other checkpoints than before.

    Tables of runs are matched to them; what an earlier ingest was given by a table that is not here now stays.

    It rests on what is written alone, so an ingest that was killed before it comes to the same when run again.
    """
    known = runs_by_path(catalogue)
    counted: Counter[str] = Counter()
    out = RefreshReport({}, [])
    stale: list[tuple[RunInCatalogue, str, SideFiles, set[str], RunTableRows]] = []
    paths = dict.fromkeys(f.run_path for f in seen.files)
    found_runs = {path: run.positions for path in paths if (run := known.get(path)) is not None}
    matched = match(sheets, found_runs, roots)
    out.unmatched = matched.unmatched
    kept = {s.name for s in sheets}
    given_of = {
        path: {**{n: values for n, values in run.run_tables.items() if n not in kept}, **matched.given.get(path, {})}
        for path, run in known.items()
    }
    candidates = undecided_logs(seen)
    chosen = logs_by_content(catalogue, pool, candidates, known, given_of)
    claimed: set[Path] = {file for one in candidates for log in one.logs.logs for _, files in log for file in files}
    claimed |= {Path(s.folder, Path(s.name).name) for s in sheets}
    for files, named in side_files_by_run(seen):
        path = files[0].run_path
        side_files = chosen.get(path, named)
        claimed |= {file for held in side_files.files.values() for file, _ in held}
        run = known.get(path)
        names = {files[0].layout}
        if run is None or not run.positions:  # none of its files could be read
            counted[shown(names)] += 1
            continue
        names |= run.formats
        given = given_of[path]
        state = side_files.state(run.positions, given) if side_files.files or given else None
        if state is not None and state != run.state:
            stale.append((run, state, side_files, names, given))
            continue
        if state is None and run.state is not None:
            with catalogue.writing() as connection:
                delete_metadata(connection, run.id)
        elif state is not None:
            out.failures += run.failures
            names |= run.layouts
        counted[shown(names)] += 1
    out.failures += _still_undecided(candidates, chosen)
    out.failures += unclaimed_logs(seen.folders, roots, {location(p) for p in paths}, claimed)
    for start in range(0, len(stale), _BATCH):
        batch = stale[start : start + _BATCH]
        answers = read_side_files(pool, [(side_files, run.positions) for run, _, side_files, _, _ in batch])
        with catalogue.writing() as connection:
            for (run, state, side_files, names, given), answer in zip(batch, answers, strict=True):
                answer.give(given)
                # Written to a moment ago, and already damaged: it is half of something. Ask again the next time.
                unsure = answer.unfinished or (answer.failures and side_files.recently_modified())
                upsert_metadata(connection, run.id, "unsure" if unsure else state, answer)
                out.failures += answer.failures
                counted[shown(names | answer.layouts)] += 1
    out.layouts = dict(sorted(counted.items()))
    out.failures = sorted(set(out.failures), key=lambda f: f.path)
    out.refreshed = len(stale)
    return out


def undecided_logs(seen: Scan) -> list[Candidates]:
    """Return the logs that may be those of runs that were found, where no name says which are."""
    found = []
    for files, side_files in side_files_by_run(seen):
        held = list(dict.fromkeys(f.path.parent for f in files))
        for layout, logs in undecided(location(files[0].run_path), held, seen.folders, side_files.files):
            found.append(Candidates(files[0].run_path, files[0].run_name, layout, logs, side_files, seen.folders))
    return found


def _still_undecided(candidates: Sequence[Candidates], chosen: Mapping[str, SideFiles]) -> list[Failure]:
    """Say once a folder that nothing tells which of its logs are those of runs that were found, and have none."""
    taken = {path for side_files in chosen.values() for files in side_files.files.values() for path, _ in files}
    found: dict[Path, list[Candidates]] = {}
    for one in candidates:
        if one.run_path not in chosen:
            found.setdefault(one.logs.place, []).append(one)
    return [Failure(str(place), _undecided_text(those, taken)) for place, those in found.items()]


def _undecided_text(those: Sequence[Candidates], taken: Collection[Path]) -> str:
    layout, logs, runs = those[0].layout, those[0].logs, [one.run_name for one in those]
    left = [log for log in logs.logs if not any(file in taken for _, files in log for file in files)] or logs.logs
    return (
        f"holds {count(len(left), f'log of {layout}', f'logs of {layout}')}, and nothing says which "
        f"{'is that' if len(runs) == 1 else 'are those'} of {count(len(runs), 'run')} (such as {runs[0]}), which "
        f"{'is' if len(runs) == 1 else 'are'} left without: {logs.advice}, or give their metrics in a CSV "
        f'with a column run ([runs] table = "runs.csv" in epsopt.toml)'
    )


def attach_metadata(
    results: Sequence[CheckpointContents | Failure],
    pool: ReaderPool,
    folders: Folders,
    renamed: Callable[[dict[str, float | None]], dict[str, float | None]] | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    weights_key: str = "",
) -> list[CheckpointContents | Failure]:
    """Add to each checkpoint what the files beside it tell; what it says itself counts.

    Args:
        results: as they were read.
        pool: the children.
        folders: what lies where.
        renamed: gives metrics the names that the catalogue has for them.
        on_failure: called with each side file that cannot be read.
        weights_key: as the catalogue has it.
    """
    members: dict[str, list[tuple[int, CheckpointContents]]] = {}
    for i, result in enumerate(results):
        if isinstance(result, CheckpointContents):
            members.setdefault(locate_run(result.path, folders).run_path, []).append((i, result))
    asked = []
    for path, read in members.items():
        held = list(dict.fromkeys(c.path.parent for _, c in read))
        positions = with_models(
            [Saved(Position(str(i), str(c.path), c.epoch, c.step, c.layout), c.signature) for i, c in read], weights_key
        )
        claims = named_best([Claim(str(i), str(c.path), c.best) for i, c in read])
        asked.append(
            (side_files_of(location(path), held, folders), with_best([*positions, *_later(read, folders)], claims))
        )
    answers: list[SideFileResult] = (
        read_side_files(pool, asked)
        if any(side_files.files for side_files, _ in asked)
        else [SideFileResult()] * len(asked)
    )
    out = list(results)
    for failure in sorted({f for answer in answers for f in answer.failures}, key=lambda f: f.path):
        if on_failure is not None:
            on_failure(failure)
    for answer, read in zip(answers, members.values(), strict=True):
        for i, c in read:
            metrics = finite_metrics(known_metrics(c.layout, c.metrics, answer.metrics.get(str(i), {})))
            out[i] = replace(
                c,
                metrics=renamed(metrics) if renamed is not None else metrics,
                hyperparameters=with_defaults(c.hyperparameters, answer.hyperparameters),
            )
    return out


def _later(read: Sequence[tuple[int, CheckpointContents]], folders: Folders) -> list[Position]:
    """Stand in for the run's other checkpoints, which nobody asked about: how a log counts shows on all of them.

    Their epochs are guessed from their names. Metrics of the run's end belong to a newer one, if there is any.
    """
    newest = max((c for _, c in read), key=lambda c: order(c.path))
    asked = {c.path for _, c in read}
    others = [path for path in _alike(newest.path, folders) if path not in asked]
    named = epoch_of({}, newest.path)
    more = 0 if named is None or newest.epoch is None else newest.epoch - named
    out = [
        Position("", str(path), epoch + more, None, newest.layout)
        for path in others
        if (epoch := epoch_of({}, path)) is not None
    ]
    if len(out) < len(others) and any(order(path) > order(newest.path) for path in others):
        out.append(Position("", "", 2**60, None))
    return out


def _alike(file: Path, folders: Folders) -> list[Path]:
    """Return the checkpoints beside a file, or of its name in the folders beside its own."""
    single = by_name(file)
    if single is None:
        return [file.parent / name for name in sorted(folders.names(file.parent)) if is_checkpoint_name(name)]
    inside = file.relative_to(single)
    found = [single.with_name(name) / inside for name in sorted(folders.names(single.parent))]
    return [f for f in found if by_name(f) is not None and f.name in folders.names(f.parent)]
