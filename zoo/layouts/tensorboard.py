"""TensorBoard: scalars in ``events.out.tfevents.*``, for metrics that live only there; combines with all layouts.

Writers make folders: ``add_scalars("loss", {"val": …})`` makes ``loss_val``, read as ``loss/val``; ``add_hparams`` one
that is named by the time, whose values are those of the whole run; Keras makes ``train`` and ``validation``. The files
are read by the ``tensorboard`` package, which is an optional part of epsopt.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts import lightning
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import rows_of
from epsopt.zoo.layouts.parsed import RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideError, SideFileReader
from epsopt.zoo.reading.remote import RemotePath
from epsopt.zoo.reading.source import Source, open_source
from epsopt.zoo.reading.text import sanitize

_MARK = r"\.tfevents\."
_SUFFIX = r"\.[A-Za-z]\w{0,3}$"
_LOGS = ("runs", "logs", "log", "tb", "tb_logs", "tensorboard", "events")
_VERSION = b"brain.Event:"
_MOMENT = re.compile(r"\d{10}\.\d+")  # add_hparams makes a folder of its own for each call
_SPLIT = re.compile(r"train|training|val|valid|validation|test|dev|eval|evaluation")
_CHECKPOINT = (".pt", ".pth", ".ckpt", ".safetensors", ".tar")
_PLACEHOLDER = ("hp_metric", -1.0)  # what Lightning writes where nobody gave a metric of the hyperparameters
_FILES = 1_000
_BYTES = 1 << 30
_EVENTS = 2_000_000


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return event files of the run's folder, of its checkpoints' and its logs, and of folders that writers made."""
    logs = folders.those(run, _LOGS)
    deeper = [folder for top in logs for folder in _inside(top, folders, _MARK)]
    # Lightning's logger writes its events into a version, wherever a callback saves the checkpoints.
    version = lightning.log_elsewhere(run, held, folders)
    places = dict.fromkeys((run, *held, *logs, *deeper, *([] if version is None else [version])))
    for place in list(places):
        # A writer's own folders lie beside its file; others of the run's folder may be runs of their own.
        mine = any(re.search(_MARK, name) for name in folders.names(place))
        inside = _inside(place, folders, _MARK, _SUFFIX) if mine or place == run else []
        places |= dict.fromkeys(f for f in inside if mine or _MOMENT.fullmatch(f.name) or _SPLIT.fullmatch(f.name))
    return [file for place in places for file in _events(place, folders)][:_FILES]


def _inside(folder: Path, folders: Folders, *files: str) -> list[Path]:
    """Return the folders in a folder that hold no checkpoints (those that do are runs); no names as of these files."""
    found = (folder / name for name in sorted(folders.names(folder)) if not any(re.search(f, name) for f in files))
    return [f for f in found if not any(name.endswith(_CHECKPOINT) for name in folders.names(f))]


def _events(folder: Path, folders: Folders) -> list[Path]:
    return [folder / name for name in sorted(folders.names(folder)) if re.search(_MARK, name)]


@dataclass
class _File:
    """What one event file says.

    Attributes:
        scalars: values by tag and step, the last of each.
        hyperparameters: of add_hparams.
        declared: the tags that it says are metrics of the hyperparameters.
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read scalars by step, and what add_hparams wrote."""
    metadata = RunMetadata(failures=reader.failures, pooled=True)
    steps: dict[int, dict[str, float]] = {}
    places = {file.parent for file in reader.files}
    for file in reader.files:
        found = _File()
        reader.attempt(file, partial(_read, found, reader))
        metadata.hyperparameters.update(found.hyperparameters)
        for tag, values in found.scalars.items():
            if (other := _OTHER_CLOCK.fullmatch(tag)) is not None and other[1] in found.scalars:
                continue
            name = _name(tag, file.parent, reader.run, places)
            if tag in found.declared and set(values) == {0}:  # no step was given: it is a value of the whole run
                metadata.final[name] = values[0]
            else:
                for step, value in values.items():
                    steps.setdefault(step, {})[name] = value
    # What was logged at one step is one record: Lightning logs the epoch as one more scalar.
    metadata.rows = rows_of({**values, "step": step} for step, values in sorted(steps.items()))
    if len(reader.files) == _FILES:
        reader.record_failure(reader.files[-1], f"the run has more event files: only the first {_FILES:,} are read")
    return metadata


_OTHER_CLOCK = re.compile(r"(.+?)(?:/time| vs samples)")
"""Tags that say what another one does, by seconds (RSL-RL) or by samples (Megatron-LM)."""


def _name(tag: str, folder: Path, run: Path, places: Container[Path]) -> str:
    """Return what a tag is called: in the folders that a writer makes, the folder tells a part of it."""
    if folder == run:
        return tag
    main = f"{tag.replace('/', '_')}_"
    if folder.parent in places and folder.name.startswith(main) and len(folder.name) > len(main):
        return f"{tag}/{folder.name[len(main) :]}"
    split = _SPLIT.fullmatch(folder.name) and not tag.startswith(f"{folder.name}/")
    return f"{folder.name}/{tag}" if split else tag


def _read(found: _File, reader: SideFileReader, path: Path) -> None:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError as error:
        raise SideError("event files need the package tensorboard: pip install 'epsopt[tensorboard]'") from error
    with open_source(path, reader.limits) as source:
        if source.size > _BYTES:
            raise SideError(f"{source.size:,} bytes, more than the {_BYTES:,} that are read of an event file")
        if _VERSION not in source.read(0, min(256, source.size)):  # the loader takes garbage for an empty file
            raise SideError("not an event file: its first record does not say so")
        with _named(path, source) as name:
            for number, event in enumerate(EventFileLoader(name).Load()):
                if number > _EVENTS:
                    raise SideError(f"more than {_EVENTS:,} events")
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "hparams":
                        _hparams(found, value.metadata.plugin_data.content)
                    elif (scalar := _scalar(value)) is not None:
                        _keep(found, sanitize(value.tag), int(event.step), scalar)


def _keep(found: _File, tag: str, step: int, value: float) -> None:
    if (tag, value) == _PLACEHOLDER and step == 0:
        return
    values = found.scalars.setdefault(tag, {})
    if tag in found.declared and step > 0 and set(values) == {0}:
        values.clear()  # Lightning writes a placeholder at step 0 for metrics that come later
    values[step] = value


@contextmanager
def _named(path: Path, source: Source) -> Iterator[str]:
    """Give the name of a local file for the loader, which opens its files itself: of a remote one, that of a copy."""
    if not isinstance(path, RemotePath):
        yield str(path)
        return
    with tempfile.NamedTemporaryFile() as copy:
        source.file.seek(0)
        shutil.copyfileobj(source.file, copy)
        copy.flush()
        yield copy.name


def _scalar(value: Any) -> float | None:
    """Return the number of a scalar summary, as PyTorch (simple_value) and TensorFlow 2 (a tensor) write it."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor") and value.metadata.plugin_data.plugin_name == "scalars":
        numbers = value.tensor.float_val or value.tensor.double_val
        return float(numbers[0]) if len(numbers) == 1 else None
    return None


def _hparams(found: _File, content: bytes) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData.FromString(content)
    found.declared.update(sanitize(info.name.tag) for info in data.experiment.metric_infos)
    for name, value in data.session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("number_value", "string_value", "bool_value"):
            found.hyperparameters[sanitize(name)] = getattr(value, kind)


LAYOUT = Layout("tensorboard", side_files=side_files, parse_side_files=parse_side_files, combines=True)
