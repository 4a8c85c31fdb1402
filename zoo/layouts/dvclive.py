"""DVCLive: a folder ``dvclive/`` beside the checkpoints, with a table of steps for each metric; combines with others.

``plots/metrics/train/loss.tsv`` holds the metric ``train/loss`` (``scalars/`` in version 1), ``params.yaml`` the
hyperparameters. What ``metrics.json`` says is the last row of the tables, and counts where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from epsopt.zoo.layouts.checkpoint_folders import HOLDERS
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import flat, place_of, rows_of
from epsopt.zoo.layouts.parsed import Row, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.reading.plain_values import metrics_of, no_tensor

FOLDER = "dvclive"
_TABLES = (("plots", "metrics"), ("scalars",))
_HOLDERS = HOLDERS | {"model"}
_DEPTH = 3  # folders that the parts of a metric's name make
_FILES = 1_000


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the folder that holds ``dvclive/`` and the checkpoint, or its folder ``model/`` or ``checkpoints/``."""
    folder = file.parent
    if FOLDER in folders.names(folder):
        return folder
    if folder.name.lower() in _HOLDERS and FOLDER in folders.names(folder.parent):
        return folder.parent
    return None


def side_files(run: Path, _held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return parameters, the latest values, and the table of each metric."""
    if FOLDER not in folders.names(run):
        return []
    top = run / FOLDER
    found = folders.those(top, ("params.yaml", "metrics.json"))
    for parts in _TABLES:
        found += _tables(top.joinpath(*parts), folders, _DEPTH)
    return found[:_FILES]


def _tables(folder: Path, folders: Folders, depth: int) -> list[Path]:
    names = sorted(folders.names(folder))
    found = [folder / name for name in names if name.endswith(".tsv")]
    if depth:
        found += [path for name in names if "." not in name for path in _tables(folder / name, folders, depth - 1)]
    return found


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read the tables, each by its step."""
    metadata = RunMetadata(failures=reader.failures)
    latest: Row | None = None
    for file in reader.files:
        if file.suffix == ".yaml":
            metadata.hyperparameters.update(flat(reader.structure(file)))
        elif file.suffix == ".json":
            tree = reader.json(file)
            if isinstance(tree, Mapping):
                values = {name.replace(".", "/"): value for name, value in flat(tree).items() if name != "step"}
                latest = Row(*place_of(tree), metrics_of(values, no_tensor))
        else:
            metadata.rows += _rows(reader, file)
    if latest is not None:
        known = {name for row in metadata.rows for name in row.metrics}
        left = {name: value for name, value in latest.metrics.items() if name not in known}
        metadata.rows += [Row(latest.epoch, latest.step, left)] if left else []
    return metadata


def _rows(reader: SideFileReader, file: Path) -> list[Row]:
    """Return a row for each step of one metric, called by the folders below that of all metrics."""
    place = file.relative_to(reader.run / FOLDER)
    inside = next((place.relative_to(Path(*parts)) for parts in _TABLES if place.is_relative_to(Path(*parts))), place)
    name = inside.with_suffix("").as_posix()
    return [
        Row(row.epoch, row.step, {name: row.metrics[file.stem]})
        for row in rows_of(reader.table(file))
        if file.stem in row.metrics
    ]


LAYOUT = Layout("dvclive", run_of=run_of, side_files=side_files, parse_side_files=parse_side_files)
