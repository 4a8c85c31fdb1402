"""Merges of the catalogue's checkpoints: decoded, placed on the map by their own weights, measured if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from epsopt.optimize.latent.predict_checkpoint import Assessment, assess
from epsopt.optimize.latent.search import Answer
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Recombination, recombination
from epsopt.zoo.decoding.saving import Decoded
from epsopt.zoo.errors import Failure, UnreadableCheckpoint
from epsopt.zoo.ingestion.ingest import read_fingerprints

Progress = Callable[[str, float], None]
_ROUNDS = 3
_STRIDE = 0.7  # of what is missing: the answer of a merge to its target is not linear


@dataclass(frozen=True, eq=False)
class MergedCheckpoint:
    """Decoded weights and what is known of them.

    Attributes:
        recombination: what they are made of.
        decoded: the temporary file; it lasts as long as the decoder.
        z: ``(latent,)`` of the decoded weights themselves, not of the point that was asked for.
        assessment: predicted metrics and where it lies.
        measured: by the evaluate hook; None: it was not asked.
    """

    recombination: Recombination
    decoded: Decoded
    z: Tensor
    assessment: Assessment
    measured: dict[str, float | None] | None = None


def decode_merges(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    recombinations: Sequence[Recombination],
    *,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> list[MergedCheckpoint]:
    """Decode merges and predict them from their own fingerprints.

    Args:
        decoder: decodes, and measures with the project's hook.
        catalogue: its lineages give the fingerprints their reference.
        checkpoints: the catalogue's.
        surrogate: the fitted map.
        recombinations: what to decode.
        level: coverage of the intervals.
        evaluate: measure them as well.
        progress: called as ``progress(what, share done)``.

    Returns:
        One merge for each recombination.

    Raises:
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
    """
    say = progress or (lambda _what, _share: None)
    decoded = []
    for i, wanted in enumerate(recombinations):
        say("merging weights", i / len(recombinations))
        decoded.append(decoder.decode(wanted))
    contents = []
    for content in read_fingerprints([d.path for d in decoded], catalogue, jobs=1):
        if isinstance(content, Failure):
            raise UnreadableCheckpoint(content.path, content.reason)
        contents.append(content)
    prints = [content.fingerprint for content in contents]
    z = surrogate.encode(prints)
    found = assess(surrogate, checkpoints, prints, level=level) if prints else []
    merges = [MergedCheckpoint(d.recombination, d, z[i], found[i]) for i, d in enumerate(decoded)]
    return _measured(decoder, merges, progress) if evaluate else merges


def _measured(
    decoder: WeightDecoder, merges: Sequence[MergedCheckpoint], progress: Progress | None
) -> list[MergedCheckpoint]:
    out = []
    for i, merged in enumerate(merges):
        if progress is not None:
            progress("measuring", i / len(merges))
        out.append(replace(merged, measured=decoder.measure(merged.decoded, f"merge {i + 1}")))
    return out


def decode_points(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    z: Tensor,
    lineage: int,
    *,
    parents: int = 8,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> list[MergedCheckpoint]:
    """Decode points of the latent space, look at what came out, and correct the aim.

    The z of a merge is not the merge of its parents' z. So each point is decoded from its best single parent, from a
    local reconstruction, and from two more that aim further by what the one before missed; the one counts whose
    predicted metrics are nearest to those of the point.

    Args:
        decoder: decodes, and measures with the project's hook.
        catalogue: its lineages give the fingerprints their reference.
        checkpoints: the catalogue's.
        surrogate: the fitted map.
        z: ``(n, latent)``.
        lineage: whose checkpoints are merged.
        parents: at most so many for each point.
        level: coverage of the intervals.
        evaluate: measure what is kept.
        progress: called as ``progress(what, share done)``.

    Returns:
        One merge for each point.

    Raises:
        UsageError: the map holds no checkpoint of the lineage.
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
    """
    by_key = {c.sha256: c for c in checkpoints}
    wanted = surrogate.posterior_moments(z)[0]
    best: list[MergedCheckpoint] = []
    misses = torch.full((len(z),), torch.inf, dtype=torch.float64)
    aim = z
    for attempt in range(_ROUNDS + 1):
        parts = surrogate.recombine(aim, lineage, 1 if attempt == 0 else parents)
        found = decode_merges(
            decoder, catalogue, checkpoints, surrogate,
            [recombination([by_key[key] for key, _ in part], [[c for _, c in part]]) for part in parts],
            level=level, progress=progress,
        )  # fmt: skip
        reached = torch.stack([m.z for m in found])
        miss = (surrogate.posterior_moments(reached)[0] - wanted).abs().sum(dim=1)
        best = [new if m < old else kept for new, kept, m, old in zip(found, best or found, miss, misses, strict=True)]
        for merged in found:
            if merged not in best:
                decoder.forget(merged.decoded)
        misses = torch.minimum(misses, miss)
        if attempt > 0:
            aim = aim + _STRIDE * (z - reached)
    return _measured(decoder, best, progress) if evaluate else best


def decode_samples(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    points: Sequence[Answer],
    *,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> list[MergedCheckpoint | None]:
    """Decode sampled points, each out of the lineage of the real checkpoint nearest to it.

    Args:
        decoder: decodes, and measures with the project's hook.
        catalogue: its lineages give the fingerprints their reference.
        checkpoints: the catalogue's.
        surrogate: the fitted map.
        points: each with at least one neighbour.
        level: coverage of the intervals.
        evaluate: measure them as well.
        progress: called as ``progress(what, share done)``.

    Returns:
        One merge for each point; None where the nearest checkpoint belongs to no lineage.

    Raises:
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
    """
    lineage_of = {c.sha256: c.lineage_id for c in checkpoints}
    lineages = [lineage_of[p.nearest[0].sha256] for p in points]
    out: list[MergedCheckpoint | None] = [None] * len(points)
    for lineage in sorted(set(lineages) - {0}):
        rows = [i for i, own in enumerate(lineages) if own == lineage]
        merges = decode_points(
            decoder, catalogue, checkpoints, surrogate, torch.stack([points[i].z for i in rows]), lineage,
            level=level, evaluate=evaluate, progress=progress,
        )  # fmt: skip
        for i, merged in zip(rows, merges, strict=True):
            out[i] = merged
    return out
