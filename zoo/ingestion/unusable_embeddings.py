"""Anchor embeddings that cannot be compared with the others: of another shape, or not finite. They count as none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.formatting import count

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Embedded:
    """What is known of one checkpoint's embedding without the embedding itself.

    Attributes:
        path: of the checkpoint.
        shape: of its embedding.
        finite: whether all of its numbers are.
    """

    path: str
    shape: Shape
    finite: bool


def embedded(path: str, embedding: NDArray[np.float32]) -> Embedded:
    """Describe an embedding."""
    return Embedded(path, embedding.shape, bool(np.isfinite(embedding).all()))


def usual_shape(shapes: Iterable[Shape]) -> Shape | None:
    """Return the most frequent shape, of several the one that comes first; None without any."""
    most = Counter(shapes).most_common(1)
    return most[0][0] if most else None


def unusable(found: Sequence[Embedded], usual: Shape) -> list[tuple[str, str]]:
    """Say which embeddings count as none, once a reason.

    Args:
        found: embeddings, in any order.
        usual: the shape that others have.

    Returns:
        The path of the first checkpoint and a sentence, for each reason that there is.
    """
    infinite = [e for e in found if not e.finite]
    others: dict[Shape, list[Embedded]] = {}
    for e in found:
        if e.finite and e.shape != usual:
            others.setdefault(e.shape, []).append(e)
    again = "mend the hook and give it another name under [hooks], then 'epsopt ingest' embeds all checkpoints again"
    out = []
    if infinite:
        what = "holds NaN or infinite numbers"
        out.append((infinite[0].path, f"its embedding {what}{_more(infinite)}, and counts as none: {again}"))
    for shape, members in others.items():
        what = f"has the shape {shape} where most have {usual}"
        out.append((members[0].path, f"its embedding {what}{_more(members)}, and counts as none: {again}"))
    return out


def _more(members: Sequence[Embedded]) -> str:
    others = len(members) - 1
    return f" (so {'does' if others == 1 else 'do'} {count(others, 'other checkpoint')})" if others else ""
