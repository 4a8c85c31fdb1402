"""Which log is a run's, where names do not tell: the one that says what the run's checkpoints say of themselves.

Lightning's callback saves to a folder of its own (``dirpath=``), and nothing in its name leads to the logger's version.
A checkpoint keeps its hyperparameters and the score that a callback monitored; the log has both. A log is a run's if
nothing in it contradicts the run's checkpoints, something agrees, it reaches them, and neither the run has another such
log nor the log another such run. Whatever is less than that stays undecided, and is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Log, Undecided
from epsopt.zoo.reading.plain_values import is_placeholder
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import ask
from epsopt.zoo.reading.remote import location
from epsopt.zoo.side_files.discover import SideFiles
from epsopt.zoo.side_files.run_tables import RunTableRows
from epsopt.zoo.side_files.store import OwnMetadata, RunInCatalogue, metadata_of_checkpoints

_MOST = 500  # logs of one folder that are compared
_SINGLE = 1e-5  # relative: a score went through float32 and a CSV file


@dataclass(frozen=True)
class Candidates:
    """Logs of which one may be that of a run.

    Attributes:
        run_path: of the run's folder.
        run_name: as it is shown.
        layout: that found them.
        logs: the candidates.
        side_files: the side files that are the run's in any case.
        folders: what lies where.
    """

    run_path: str
    run_name: str
    layout: str
    logs: Undecided
    side_files: SideFiles
    folders: Folders

    def with_log(self, log: Log) -> SideFiles:
        """Return the run's side files, those of a log included."""
        added = {
            layout: [(f, identity) for f in files if (identity := self.folders.identity(f)) is not None]
            for layout, files in log
        }
        return SideFiles(
            self.side_files.run, {**self.side_files.files, **{name: found for name, found in added.items() if found}}
        )


def logs_by_content(
    catalogue: Catalogue,
    pool: ReaderPool,
    candidates: Sequence[Candidates],
    known: Mapping[str, RunInCatalogue],
    given: Mapping[str, RunTableRows],
) -> dict[str, SideFiles]:
    """Find the logs of runs among candidates.

    Args:
        catalogue: that holds the runs.
        pool: the children that read the logs.
        candidates: by run; a run may have several, of several layouts.
        known: the runs of the catalogue by the path of their folder.
        given: what tables of runs say, by the path of the run's folder.

    Returns:
        The side files of each run that has its log now, by the path of its folder.
    """
    chosen: dict[str, SideFiles] = {}
    taken: set[Log] = set()
    waiting = []
    for one in candidates:
        run = known.get(one.run_path)
        if run is None or not run.positions or one.run_path in chosen or len(one.logs.logs) > _MOST:
            continue
        for log in one.logs.logs:
            side_files = one.with_log(log)
            if run.state is not None and run.state == side_files.state(run.positions, given.get(one.run_path, {})):
                chosen[one.run_path] = side_files  # as an earlier ingest found, and nothing has changed
                taken.add(log)
                break
        else:
            waiting.append((one, run))
    if not waiting:
        return chosen
    own = metadata_of_checkpoints(catalogue, {run.id for _, run in waiting})
    waiting = [(one, run) for one, run in waiting if run.id in own]
    fits: dict[tuple[str, str], list[Log]] = {}
    claimed: dict[Log, set[str]] = {}
    for log, found in _compared(pool, waiting, own, taken).items():
        for one in found:
            fits.setdefault((one.run_path, one.layout), []).append(log)
            claimed.setdefault(log, set()).add(one.run_path)
    for one, _ in waiting:
        logs = fits.get((one.run_path, one.layout), [])
        if len(logs) == 1 and len(claimed[logs[0]]) == 1 and one.run_path not in chosen:
            chosen[one.run_path] = one.with_log(logs[0])
    return chosen


def _compared(
    pool: ReaderPool,
    waiting: Sequence[tuple[Candidates, RunInCatalogue]],
    own: Mapping[int, OwnMetadata],
    taken: set[Log],
) -> dict[Log, list[Candidates]]:
    """Return the runs that each log agrees with."""
    runs_of: dict[Log, list[tuple[Candidates, RunInCatalogue]]] = {}
    for one, run in waiting:
        for log in one.logs.logs:
            if log not in taken:
                runs_of.setdefault(log, []).append((one, run))
    questions, whose = [], []
    for log, runs in runs_of.items():
        for layout, files in log:
            asked = [
                {
                    "positions": [astuple(p) for p in run.positions],
                    "names": sorted({n for metrics in own[run.id].metrics.values() for n in metrics}),
                }
                for _, run in runs
            ]
            header = {"kind": "compare", "layout": layout, "files": [str(f) for f in files], "runs": asked}
            size = sum(i.size for f in files if (i := runs[0][0].folders.identity(f)) is not None)
            questions.append((location(runs[0][0].run_path), size, header))
            whose.append(log)
    answers_by_log: dict[Log, list[dict[str, Any]]] = {}
    for log, answer in zip(whose, ask(pool, questions), strict=True):
        answers_by_log.setdefault(log, []).append(answer)
    return {
        log: [
            one
            for i, (one, run) in enumerate(runs_of[log])
            if all(answer["status"] == "compared" for answer in answers)
            and _agree(own[run.id], [(a["hyperparameters"], a["runs"][i]) for a in answers])
        ]
        for log, answers in answers_by_log.items()
    }


def _agree(own: OwnMetadata, parts: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> bool:
    """Tell whether a log, in the parts that layouts read, says what a run's checkpoints say."""
    counts = [part["matched"] for _, part in parts if part["matched"] is not None]
    pairs = [
        (value, hyperparameters[name])
        for hyperparameters, _ in parts
        for name, value in own.hyperparameters.items()
        if name in hyperparameters and not (is_placeholder(value) or is_placeholder(hyperparameters[name]))
    ]
    pairs += [
        (value, row[name])
        for _, part in parts
        for key, row in part["values"].items()
        for name, value in own.metrics.get(key, {}).items()
        if value is not None and row.get(name) is not None
    ]
    return bool(pairs) and (not counts or max(counts) > 0) and all(_same(one, other) for one, other in pairs)


def _same(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_SINGLE)
    return str(one) == str(other)
