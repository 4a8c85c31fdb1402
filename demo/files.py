"""Checkpoint files: plain dictionaries of tensors, numbers and strings, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from epsopt.demo.errors import BadOptionError
from epsopt.demo.model import TernaryVAE
from epsopt.demo.space import Value


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch lies in a run folder."""
    return folder / f"epoch_{epoch:03d}.pt"


def save(path: Path, model: TernaryVAE, metrics: Mapping[str, float], config: Mapping[str, Value], epoch: int) -> None:
    """Write one checkpoint under a temporary name, then move it into place: readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {
        "model_state_dict": dict(model.state_dict()),
        "metrics": dict(metrics),
        "config": dict(config),
        "epoch": epoch,
    }
    try:
        torch.save(content, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this program, tensors and plain values only.

    Raises:
        BadOptionError: the file is missing or is no checkpoint of the ternary model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        TernaryVAE.from_state_dict(content["model_state_dict"])
    except FileNotFoundError:
        raise BadOptionError(f"there is no checkpoint at {path}") from None
    except Exception as error:  # noqa: BLE001  (torch raises half a dozen kinds for a file that is no checkpoint)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadOptionError(f"{path} is no checkpoint of the ternary model: {reason}") from None
    return dict(content)
