"""Mixtures of the catalogue's checkpoints: decoded, placed on the map by their own weights, measured if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from epsopt.optimize.assess import Assessment, assess
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.decoding.decoder import Decoded, WeightDecoder
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion import read_fingerprints
from epsopt.zoo.records import Checkpoint, Failure

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Mixture:
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


def decode_mixtures(
    decoder: WeightDecoder,
    catalogue: Catalogue,
    checkpoints: Sequence[Checkpoint],
    surrogate: Surrogate,
    recombinations: Sequence[Recombination],
    *,
    level: float = 0.9,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> list[Mixture]:
    """Decode mixtures and predict them from their own fingerprints.

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
        One mixture for each recombination.

    Raises:
        UnreadableCheckpoint: a parent is gone or has changed.
        HookError: the evaluate hook failed.
    """
    say = progress or (lambda _what, _share: None)
    decoded = []
    for i, recombination in enumerate(recombinations):
        say("mixing weights", i / len(recombinations))
        decoded.append(decoder.decode(recombination))
    contents = []
    for content in read_fingerprints([d.path for d in decoded], catalogue, jobs=1):
        if isinstance(content, Failure):
            raise UnreadableCheckpoint(content.path, content.reason)
        contents.append(content)
    prints = [content.fingerprint for content in contents]
    z = surrogate.encode(prints)
    found = assess(surrogate, checkpoints, prints, level=level) if prints else []
    mixtures = [Mixture(d.recombination, d, z[i], found[i]) for i, d in enumerate(decoded)]
    if not evaluate:
        return mixtures
    out = []
    for i, mixture in enumerate(mixtures):
        say("measuring", i / len(mixtures))
        out.append(replace(mixture, measured=decoder.measure(mixture.decoded, f"mixture {i + 1}")))
    return out
