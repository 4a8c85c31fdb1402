"""SpeechBrain: ``results/SEED/save/CKPT+2026-05-01+12-30-01+00/{model.ckpt, CKPT.yaml}``; the run is ``results/SEED``.

Such a folder is one checkpoint. ``counter.ckpt`` in it is a text with the epoch, ``brain.ckpt`` one with the step of
the optimiser, ``CKPT.yaml`` has what the recipe kept the checkpoint for. ``train_log.txt`` of the run has a line for
each epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from epsopt.zoo.layouts import plain
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import flat
from epsopt.zoo.layouts.parsed import ParsedCheckpoint, Row, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.reading.plain_values import metrics_of, no_tensor, number_or_text

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint

_FOLDER = re.compile(r"CKPT\+.+")
_SAVE = "save"
META = "CKPT.yaml"
CONFIG, LOG = "hyperparams.yaml", "train_log.txt"
_NO_MODEL = re.compile(
    r"(?:brain|counter|epoch_counter|.*(?:optim|scheduler|anneal|normali[sz]er|scaler|tokenizer|dataloader).*)\.ckpt",
    re.IGNORECASE,
)
_ABOUT = frozenset(("unixtime", "end-of-epoch", "epoch"))
_BYTES = 1 << 20
_LINE = re.compile(r"\s*epoch(?: loaded)?: (\d{1,15})\b", re.IGNORECASE)
_PAIR = re.compile(r"([A-Za-z][\w -]{0,60}): ([^,\s]+)")


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder's name is that of one checkpoint."""
    return _FOLDER.fullmatch(folder.name) is not None


def run_of(file: Path, _folders: Folders) -> Path | None:
    """Return the folder above ``save/``, or above a checkpoint's folder elsewhere."""
    if not is_checkpoint(file.parent):
        return None
    holder = file.parent.parent
    return holder.parent if holder.name == _SAVE else holder


def ignores(file: Path, _folders: Folders) -> bool:
    """Tell what a recipe saves beside its models: counters, optimisers, normalisers."""
    return is_checkpoint(file.parent) and _NO_MODEL.fullmatch(file.name) is not None


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return the recipe's hyperparameters, its log, and what each checkpoint was kept for."""
    ours = [folder for folder in held if is_checkpoint(folder)]
    if not ours:
        return []
    return [*folders.those(run, (CONFIG, LOG)), *(file for folder in ours for file in folders.those(folder, (META,)))]


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read hyperparameters, the values at each epoch, and those of single checkpoints."""
    metadata = RunMetadata(failures=reader.failures)
    for file in reader.files:
        if file.name == LOG:
            metadata.rows += _rows(reader.attempt(file, lambda path: reader.text(path, _BYTES, lines=True)) or "")
            continue
        tree = reader.yaml(file)
        if not isinstance(tree, Mapping):
            continue
        if file.name == CONFIG:
            metadata.hyperparameters.update(flat(tree))
        elif kept := metrics_of({k: v for k, v in tree.items() if k not in _ABOUT}, no_tensor):
            metadata.own[str(file.parent)] = kept
    return metadata


def _rows(text: str) -> list[Row]:
    """Return the rows of ``epoch: 1, lr: 1.0 - train loss: 2.3 - valid loss: 1.2, valid WER: 9.1``."""
    out = []
    for line in text.splitlines():
        if (found := _LINE.match(line)) is None:
            continue
        pairs = {name.strip().replace(" ", "_"): number_or_text(v) for name, v in _PAIR.findall(line[found.end() :])}
        if metrics := metrics_of(pairs, no_tensor):
            out.append(Row(int(found[1]), None, metrics))
    return out


def interpret(checkpoint: OpenCheckpoint) -> ParsedCheckpoint | None:
    """Read the model, and its epoch and step from the files beside it.

    A checkpoint from within an epoch has a step alone: the log's values are of the epoch's end.
    """
    folder = checkpoint.source.path.parent
    if not is_checkpoint(folder):
        return None
    reading = plain.interpret(checkpoint)
    reader = SideFileReader(folder, ())
    counter = (reader.attempt(folder / "counter.ckpt", lambda path: reader.text(path, _BYTES)) or "").strip()
    trees = [reader.yaml(folder / name) for name in ("brain.ckpt", META)]
    state, meta = (tree if isinstance(tree, Mapping) else {} for tree in trees)
    step = next((n for key in ("optimizer_step", "step") if isinstance(n := state.get(key), int)), None)
    within = meta.get("end-of-epoch") is False
    epoch = int(counter) if counter.isdecimal() and len(counter) < 16 and not within else None
    return replace(reading, epoch=epoch, step=step)


LAYOUT = Layout("speechbrain", run_of, ignores, side_files, interpret, parse_side_files)
