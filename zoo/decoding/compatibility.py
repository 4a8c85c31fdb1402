"""What must hold of checkpoints that are merged or compared: they are those of the catalogue, and alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.layouts.adapters import why_no_sum
from epsopt.zoo.layouts.effective_weights import EffectiveWeights, effective_weights
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Identity, Limits
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


def open_parent(stack: ExitStack, parent: Mapping[str, str], limits: Limits, weights_key: str) -> EffectiveWeights:
    """Open a checkpoint that is merged or compared, for as long as a stack lasts.

    Args:
        stack: closes it.
        parent: its path and the content hash that the catalogue has of it.
        limits: what reading it may cost.
        weights_key: the keys that lead to its weights, joined with dots; empty to find them.

    Raises:
        UnreadableCheckpoint: it is not what the catalogue says.
    """
    checkpoint = stack.enter_context(open_checkpoint(location(parent["path"]), limits, weights_key))
    require_content(checkpoint, parent["sha256"])
    return effective_weights(checkpoint, limits)


def require_compatible(opened: Sequence[EffectiveWeights]) -> None:
    """Refuse checkpoints that have other tensors than the first, and adapters that are no sums of what they hold.

    Raises:
        UnreadableCheckpoint: names both files and the tensor.
    """
    first = opened[0]
    for held in opened if len(opened) > 1 else ():
        reason = why_no_sum(held.reading.weights, held.adapter)
        if reason is not None:
            raise UnreadableCheckpoint(held.checkpoint.source.path, reason)
    for other in opened[1:]:
        for name in {**first.tensors, **other.tensors}:
            a, b = first.tensors.get(name), other.tensors.get(name)
            if a is None or b is None or a.shape != b.shape:
                shapes = ["none" if t is None else str(tuple(t.shape)) for t in (a, b)]
                raise UnreadableCheckpoint(
                    other.checkpoint.source.path,
                    f"cannot be merged with {first.checkpoint.source.path}: tensor {name!r} has shape {shapes[1]} "
                    f"here and {shapes[0]} there",
                )
