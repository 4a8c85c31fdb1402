"""Read ``evaluations.npz``, the log of Stable-Baselines3's EvalCallback: rewards and lengths of episodes, by step."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from epsopt.zoo.layouts.log_rows import rows_of
from epsopt.zoo.layouts.parsed import Row
from epsopt.zoo.layouts.side_file_reader import SideError, SideFileReader
from epsopt.zoo.reading.source import open_source

EVALUATIONS = "evaluations.npz"
_BYTES = 64 << 20
_NAMES = (("results", "eval/mean_reward"), ("ep_lengths", "eval/mean_ep_length"), ("successes", "eval/success_rate"))
"""Arrays of shape (evaluations, episodes), and what the callback calls their means in its other logs."""


def evaluations(reader: SideFileReader, path: Path) -> list[Row]:
    """Return one row for each evaluation.

    Raises:
        SideError: too large, or not such a log.
    """
    import numpy as np

    with open_source(path, reader.limits) as source:
        if source.size > _BYTES:
            raise SideError(f"{source.size:,} bytes, more than the {_BYTES:,} that are read of such a log")
        data = bytes(source.read(0, source.size))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(record.file_size for record in archive.infolist()) > _BYTES:
                raise SideError(f"it unpacks into more than {_BYTES:,} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            steps = arrays["timesteps"].reshape(-1)
            means = {
                name: np.asarray(arrays[key], dtype=float).reshape(len(steps), -1).mean(axis=1)
                for key, name in _NAMES
                if key in arrays.files
            }
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise SideError(f"not a log of EvalCallback: {str(error)[:200]}") from error
    values = {name: [float(v) for v in series] for name, series in means.items()}
    return rows_of({"step": int(step), **{n: v[i] for n, v in values.items()}} for i, step in enumerate(steps))
