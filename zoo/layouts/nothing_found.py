"""The one sentence about folders that hold nothing to read, for every command that looks for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from epsopt.zoo.errors import EmptyCatalogue, Failure
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.other_formats import OtherFormat


def nothing_found(
    folders: Sequence[Path | str],
    *,
    failed: Sequence[Failure] = (),
    deleted: Sequence[Failure] = (),
    others: Iterable[OtherFormat] = (),
) -> EmptyCatalogue:
    """Return the error that says that folders hold no checkpoint which can be read, and why as far as it is known.

    Args:
        folders: what was looked through.
        failed: files named like checkpoints that cannot be read.
        deleted: runs that were deleted where they were tracked.
        others: checkpoints of other formats.
    """
    kinds = list(others)
    failed = sorted(failed, key=lambda f: f.path)
    where = ", ".join(map(str, folders))
    text = f"no checkpoint file (.pt, .pth, .ckpt, .safetensors) that can be read under {where}"
    if failed:
        first = f"{failed[0].path}: {failed[0].reason}"
        text += f": {first}" if len(failed) == 1 else f": {count(len(failed), 'file')} failed, such as {first}"
    elif kinds:
        found = kinds[0]
        text += (
            f"; {count(sum(kind.count for kind in kinds), 'checkpoint')} of other formats, such as {found.example} "
            f"({found.kind}): {found.convert}"
        )
    elif deleted:
        gone = count(len(deleted), "run was", "runs were")
        text += f": {gone} deleted where they were tracked, such as {deleted[0].path}: {deleted[0].reason}"
    return EmptyCatalogue(text)
