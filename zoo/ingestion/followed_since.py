"""Files to read again: of networks that fingerprints follow further than those of an earlier version did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import checkpoints, files, fingerprints
from epsopt.zoo.fingerprints.formats import header_of, is_outdated
from epsopt.zoo.layouts.adapters import factors_by_shape, low_rank


def files_followed_further(catalogue: Catalogue) -> dict[str, int]:
    """Return files whose fingerprints would be different ones if they were read now, and the checkpoint of each.

    Args:
        catalogue: whose fingerprints are looked at, one for each architecture.

    Raises:
        CatalogueError: a fingerprint is damaged.
    """
    held = select(checkpoints.c.signature, func.min(fingerprints.c.checkpoint_id)).join(fingerprints)
    with catalogue.reading() as connection:
        before = [
            signature
            for signature, one in connection.execute(held.group_by(checkpoints.c.signature)).all()
            if _is_followed_further(
                connection.execute(select(fingerprints.c.data).where(fingerprints.c.checkpoint_id == one)).scalar_one()
            )
        ]
        query = select(files.c.path, files.c.checkpoint_id).join(checkpoints, files.c.checkpoint_id == checkpoints.c.id)
        rows = connection.execute(query.where(checkpoints.c.signature.in_(before))).all() if before else []
    return {row.path: row.checkpoint_id for row in rows}


def with_their_copies(paths: set[str], checkpoint_of: dict[str, int]) -> set[str]:
    """Return some of these files and all others of the same checkpoints: a copy would keep what is read anew."""
    meant = {checkpoint_of[path] for path in paths & checkpoint_of.keys()}
    return {path for path, checkpoint in checkpoint_of.items() if checkpoint in meant}


def _is_followed_further(data: bytes) -> bool:
    header, _ = header_of(bytes(data))
    if _held_factors(dict(zip(header["names"], header["shapes"], strict=True))):
        return True
    return is_outdated(header["format"], header["names"], header["shapes"])


def _held_factors(shapes: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether factors of adapters of kohya's layout were looked at by themselves, and not as their product."""
    return any(
        pair.any_rank and name not in shapes and factors_by_shape(shapes[pair.down], shapes[pair.up])
        for name, pair in low_rank(shapes, None).items()
    )
