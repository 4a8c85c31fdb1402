"""Ray Tune and Train: ``TRIAL/{params.json, progress.csv, result.json, checkpoint_000003/…}``; the run is the trial.

Ray names the checkpoint in the row of its report (``checkpoint_dir_name``). Before 2.7 it does not: rows have a
``training_iteration`` that starts at 1, and where a ``checkpoint_000000`` lies, checkpoints are counted from 0.
``params.pkl`` is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import flat, rows_of
from epsopt.zoo.layouts.parsed import Row, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader

PARAMS, PROGRESS, RESULT, MANAGER = "params.json", "progress.csv", "result.json", "checkpoint_manager_snapshot.json"
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,9}|\d{4}-\d\d-\d\d_[\d.-]+)")
_TRIAL = frozenset({RESULT, PROGRESS, "params.pkl", MANAGER})
_NAME = "checkpoint_dir_name"
# When, where and as what a report came: nothing of it is a quality of a model.
_ABOUT = frozenset(
    "time_this_iter_s time_total_s time_since_restore iterations_since_restore timesteps_since_restore pid"
    " should_checkpoint done warmup_time experiment_tag episodes_total trial_id hostname node_ip date".split()
)
_ALWAYS = frozenset(("training_iteration", "trial_id", "time_this_iter_s"))
_DEPTH = 4
_LISTED = 3


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the trial's folder, above ``checkpoint_N``."""
    for folder in file.parents[:_DEPTH]:
        if _CHECKPOINT.fullmatch(folder.name) and _TRIAL & folders.names(folder.parent):
            return folder.parent
    return None


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the parameters, and the reports in the two forms in which Ray keeps them: none is another layout's."""
    if not any(_CHECKPOINT.fullmatch(p.name) for folder in held for p in (folder, *folder.parents[:_DEPTH])):
        return []
    return folders.those(run, (PARAMS, RESULT, PROGRESS, MANAGER))


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read parameters, and each report with the checkpoint that it came with."""
    metadata = RunMetadata(failures=reader.failures, starts=1)
    for file in reader.files:
        if file.name == PARAMS:
            metadata.hyperparameters.update(flat(reader.json(file)))
        elif file.name == RESULT:
            add_reports(metadata, map(flat, reader.json_lines(file)), file)
        elif not metadata.rows and file.name == PROGRESS:  # else the same reports once more
            add_reports(metadata, reader.table(file), file)
        elif not metadata.rows and file.name == MANAGER:
            metadata.rows += _managed(reader.json(file))
    return metadata


def are_reports(records: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether the rows of a table are reports of Ray, by the columns that it gives to all of them."""
    return bool(records) and records[0].keys() >= _ALWAYS


def add_reports(metadata: RunMetadata, records: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Add the metrics of reports, and the hyperparameters that stand in them; `file` holds them."""
    kept = []
    first: dict[str, Any] = {}
    changed: dict[str, str] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith(("config.", "config/")):
                name = key[7:].replace("/", ".")
                metadata.hyperparameters.setdefault(name, value)
                if first.setdefault(name, value) != value:
                    changed.setdefault(name, f"{name} (from {first[name]} to {value})")
        kept.append({k: v for k, v in record.items() if k not in _ABOUT and not k.startswith(("config.", "config/"))})
    metadata.rows += rows_of(kept, checkpoint=_NAME)
    if changed:  # population-based training
        names = ", ".join(list(changed.values())[:_LISTED])
        reason = f"hyperparameters changed on the way: {names}; all checkpoints of the trial have those of its {PARAMS}"
        metadata.failures.append((str(file), reason))


def _managed(tree: Any) -> list[Row]:
    """Read what Ray Train 2 keeps of its checkpoints."""
    results = tree.get("checkpoint_results") if isinstance(tree, Mapping) else None
    records = [
        {**flat(r.get("metrics")), _NAME: r.get(_NAME)}
        for r in (results if isinstance(results, list) else [])
        if isinstance(r, Mapping)
    ]
    return rows_of(records, checkpoint=_NAME)


LAYOUT = Layout("ray", run_of=run_of, side_files=side_files, parse_side_files=parse_side_files)
