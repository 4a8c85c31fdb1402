"""TensorBoard: scalars in ``events.out.tfevents.*``, for metrics that live only there; combines with all layouts.

The files are read by the ``tensorboard`` package, which is an optional part of epsopt.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.reading import Told
from epsopt.zoo.layouts.rows import rows_of
from epsopt.zoo.reading.remote import RemotePath
from epsopt.zoo.reading.side import SideError, Sides
from epsopt.zoo.reading.source import Source, open_source
from epsopt.zoo.reading.text import clean

_MARK = ".tfevents."
_LOGS = ("runs", "logs", "log", "tb", "tensorboard", "events")
_VERSION = b"brain.Event:"
_MOMENT = re.compile(r"\d{10}\.\d+")  # add_hparams makes a folder of its own for each call
_FILES = 100
_BYTES = 1 << 30
_EVENTS = 2_000_000


def beside(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return event files in the run's folder, beside its checkpoints, and in its folder of logs one level deep."""
    logs = folders.those(run, _LOGS)
    deeper = [top / name for top in logs for name in sorted(folders.names(top)) if _MARK not in name]
    moments = [run / name for name in sorted(folders.names(run)) if _MOMENT.fullmatch(name)]
    places = dict.fromkeys((run, *held, *logs, *moments, *deeper[:_FILES]))
    return [file for place in places for file in _events(place, folders)][:_FILES]


def _events(folder: Path, folders: Folders) -> list[Path]:
    return [folder / name for name in sorted(folders.names(folder)) if _MARK in name]


def tell(sides: Sides) -> Told:
    """Read scalars by step, and what add_hparams wrote."""
    told = Told(troubles=sides.troubles)
    steps: dict[int, dict[str, float]] = {}
    for file in sides.files:
        sides.attempt(file, lambda path: _tell_events(told, steps, path, sides))
    # What was logged at one step is one record: Lightning logs the epoch as one more scalar.
    told.rows = rows_of({**values, "step": step} for step, values in sorted(steps.items()))
    return told


def _tell_events(told: Told, steps: dict[int, dict[str, float]], path: Path, sides: Sides) -> None:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError as error:
        raise SideError("event files need the package tensorboard: pip install 'epsopt[tensorboard]'") from error
    with open_source(path, sides.limits) as source:
        if source.size > _BYTES:
            raise SideError(f"{source.size:,} bytes, more than the {_BYTES:,} that are read of an event file")
        if _VERSION not in source.read(0, min(256, source.size)):  # the loader takes garbage for an empty file
            raise SideError("not an event file: its first record does not say so")
        with _named(path, source) as name:
            for number, event in enumerate(EventFileLoader(name).Load()):
                if number > _EVENTS:
                    raise SideError(f"more than {_EVENTS:,} events")
                for value in event.summary.value:
                    plugin = value.metadata.plugin_data
                    if plugin.plugin_name == "hparams":
                        told.hyperparameters.update(_hparams(plugin.content))
                    elif (scalar := _scalar(value)) is not None:
                        steps.setdefault(int(event.step), {})[clean(value.tag)] = scalar


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


def _hparams(content: bytes) -> Iterator[tuple[str, Any]]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData.FromString(content)
    for name, value in data.session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("number_value", "string_value", "bool_value"):
            yield clean(name), getattr(value, kind)


LAYOUT = Layout("tensorboard", beside=beside, tell=tell, combines=True)
