"""Weights & Biases' local folders: ``wandb/run-DATE-ID/{run-ID.wandb, files/{config.yaml, wandb-summary.json}}``.

Checkpoints under ``files`` belong to that run. Those of another layout belong to it if the folder ``wandb`` lies in
their run's folder and holds one run, or if a run in a folder ``wandb`` above has the name of their run's folder as its
id (as Lightning's WandbLogger does it).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout, Undecided
from epsopt.zoo.layouts.log_rows import flat, rows_of
from epsopt.zoo.layouts.parsed import RunMetadata
from epsopt.zoo.layouts.side_file_reader import TABLE_BYTES, SideError, SideFileReader
from epsopt.zoo.layouts.wandb_log import RunLog, parse
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import open_source

_RUN = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(.+)")
_AGAIN = re.compile(r"-\d{1,3}$")
_ABOVE = 3
_SAVED = (".pt", ".pth", ".ckpt", ".safetensors")
_ADVICE = "save each run's checkpoints to a folder that has W&B's id of the run as its name, or with wandb.save"


def run_of(file: Path, _folders: Folders) -> Path | None:
    """Return the folder of the run that holds the file."""
    return next((folder for folder in file.parents if _RUN.fullmatch(folder.name)), None)


def side_files(run: Path, _held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the log of the run, and what an online run leaves beside it."""
    return _files([run] if _RUN.fullmatch(run.name) else _logged(run, folders), folders)


def _files(found: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the files of the folders of one run, the oldest first."""
    logs = [place / name for place in found for name in sorted(folders.names(place)) if name.endswith(".wandb")]
    # The newest first: what it says counts.
    files = [f for place in found[::-1] for f in folders.those(place / "files", ("config.yaml", "wandb-summary.json"))]
    return [*logs, *files]


def _logged(run: Path, folders: Folders) -> list[Path]:
    """Return W&B's folders of a run whose checkpoints lie elsewhere, the oldest first."""
    for folder in (run, *run.parents[:_ABOVE]):
        if "wandb" not in folders.names(folder):
            continue
        known = run_ids(folders.names(folder / "wandb"))
        named = [name for name, ident in known.items() if ident == run.name]
        ours = named or (list(known) if folder == run else [])
        if len({known[name] for name in ours}) == 1:  # a run that was resumed has a folder for each time
            return [folder / "wandb" / name for name in sorted(ours, key=_date)]
    return []


def run_ids(names: Collection[str]) -> dict[str, str]:
    """Return the id of the run of each folder; one that began in the second of another has its name and a number."""
    found = {name: m[1] for name in names if (m := _RUN.fullmatch(name))}
    return {name: found.get(_AGAIN.sub("", name), ident) for name, ident in found.items()}


def undecided(run: Path, _held: Sequence[Path], folders: Folders) -> Undecided | None:
    """Return W&B's runs in a folder ``wandb`` beside or above a run, where none has its name and there are several."""
    for folder in (run, *run.parents[:_ABOVE]):
        if "wandb" in folders.names(folder):
            place = folder / "wandb"
            names = [name for name in folders.names(place) if _RUN.fullmatch(name)]
            # Runs whose files hold checkpoints are those of these, and no others'.
            free = [n for n in names if not any(f.endswith(_SAVED) for f in folders.names(place / n / "files"))]
            known = run_ids(names)
            idents = {name: known[name] for name in sorted(free, key=_date)}
            ours: dict[str, list[Path]] = {}
            for name, ident in idents.items():
                if ident not in folders.names(folder):
                    ours.setdefault(ident, []).append(place / name)
            logs = tuple((("wandb", tuple(_files(found, folders))),) for found in ours.values())
            return Undecided(place, logs, _ADVICE) if logs else None
    return None


def _date(name: str) -> str:
    return name.removeprefix("offline-")


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read configuration and history from the log; from the other files what the log does not say."""
    metadata = RunMetadata(failures=reader.failures)
    log = RunLog()
    for file in reader.files:
        if file.suffix == ".wandb":
            later = reader.attempt(file, lambda path: parse(_bytes(path, reader)))
            if later is not None:
                history = [*log.history, *later.history]
                log = RunLog({**log.config, **later.config}, history, {**log.summary, **later.summary})
        elif file.name == "config.yaml":
            tree = reader.yaml(file)
            values = {k: v.get("value") for k, v in tree.items() if isinstance(v, Mapping)} if tree else {}
            log.config = {**values, **log.config}
        else:
            log.summary = {**(flat(reader.json(file))), **log.summary}
    metadata.hyperparameters = flat({k: v for k, v in log.config.items() if not str(k).startswith("_wandb")})
    metadata.rows = rows_of(log.history)
    if not metadata.rows:  # the summary is the history's last row
        for row in rows_of([{k: v for k, v in log.summary.items() if not str(k).startswith("_")}]):
            metadata.final, metadata.ended = row.metrics, row.epoch
    return metadata


def _bytes(path: Path, reader: SideFileReader) -> bytes:
    with open_source(location(path), reader.limits) as source:
        if source.size > TABLE_BYTES:
            raise SideError(f"{source.size:,} bytes, more than the {TABLE_BYTES:,} that are read of a log")
        return bytes(source.read(0, source.size))


LAYOUT = Layout(
    "wandb",
    run_of=run_of,
    side_files=side_files,
    undecided=undecided,
    parse_side_files=parse_side_files,
    combines=True,
    tracks=True,
)
