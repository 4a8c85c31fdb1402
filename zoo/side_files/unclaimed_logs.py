"""Logs that no run has: those in another folder than the checkpoints, which nobody would miss until a metric is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from epsopt.zoo.errors import Failure
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.plain import LOGS
from epsopt.zoo.layouts.scan import within

_EVENTS = ".tfevents."
_TRACKERS = frozenset(("wandb", "mlruns", "mlartifacts"))  # which say for themselves whose a log is
_ADVICE = (
    "put each log into the folder of its checkpoints, or that above checkpoints/, or give the metrics in a CSV with a "
    'column run ([runs] table = "runs.csv" in epsopt.toml)'
)


def unclaimed_logs(
    folders: Folders, roots: Sequence[Path], runs: Collection[Path], taken: Collection[Path]
) -> list[Failure]:
    """Name the logs in the folders that were scanned which are read for no run, in one sentence.

    Args:
        folders: as they were listed.
        roots: the folders that were scanned.
        runs: folders of the runs found; what lies inside one is its layout's to read.
        taken: files that are read for some run, or said to be undecided.
    """
    found: list[Path] = []
    known = set(runs)
    for folder in folders.listed():
        names = sorted(name for name in folders.names(folder) if name in LOGS or _EVENTS in name)
        if not names or _TRACKERS & set(folder.parts) or not within(str(folder), roots):
            continue
        if known.isdisjoint((folder, *folder.parents)):
            found += [path for name in names if (path := folder / name) not in taken]
    if not found:
        return []
    others = f" (the first of {len(found):,} such logs)" if found[1:] else ""
    return [Failure(str(found[0]), f"belongs to no run that was found{others}: {_ADVICE}")]
