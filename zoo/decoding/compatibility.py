"""What must hold of checkpoints that are merged or compared: they are those of the catalogue, and alike."""

from __future__ import annotations

from collections.abc import Sequence

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.parsed import ParsedCheckpoint
from epsopt.zoo.reading.source import Identity
from epsopt.zoo.reading.tensors import OpenCheckpoint

# Checkpoints whose content was compared with the catalogue before, by path: thirty evaluations hash them once.
_COMPARED: dict[str, tuple[Identity, str]] = {}


def require_content(checkpoint: OpenCheckpoint, sha256: str) -> None:
    """Refuse a file whose content is not what was ingested.

    Raises:
        UnreadableCheckpoint: names the file.
    """
    path = str(checkpoint.source.path)
    if _COMPARED.get(path) == (checkpoint.source.identity, sha256):
        return
    if checkpoint.source.sha256() != sha256:
        raise UnreadableCheckpoint(
            path, "its content is not what was ingested: read the runs again with 'epsopt ingest', then 'epsopt fit'"
        )
    _COMPARED[path] = (checkpoint.source.identity, sha256)


def require_compatible(opened: Sequence[tuple[OpenCheckpoint, ParsedCheckpoint]]) -> None:
    """Refuse checkpoints that have other tensors than the first.

    Raises:
        UnreadableCheckpoint: names both files and the tensor.
    """
    first, wanted = opened[0]
    for other, reading in opened[1:]:
        for name in {**wanted.weights, **reading.weights}:
            a, b = wanted.weights.get(name), reading.weights.get(name)
            if a is None or b is None or a.shape != b.shape:
                shapes = ["none" if t is None else str(tuple(t.shape)) for t in (a, b)]
                raise UnreadableCheckpoint(
                    other.source.path,
                    f"cannot be merged with {first.source.path}: tensor {name!r} has shape {shapes[1]} here and "
                    f"{shapes[0]} there",
                )
