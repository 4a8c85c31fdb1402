"""Fingerprints as tokens: several views of a checkpoint, each standardised and reduced to its principal components.

One token is one view: what one block answers to its probes, the statistics of all blocks, how far they moved from the
lineage's base, and so on. Which of them matter is learned afterwards (``relevance.py``). Blocks are known by name and
shape; a zoo of mixed architectures has in addition views that every network has (its last layer, averages over its
blocks).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from epsopt.surrogate.map_format import OtherVersion
from epsopt.surrogate.thinning import evenly_spaced
from epsopt.zoo.fingerprints.fingerprint import SECTIONS, Fingerprint
from epsopt.zoo.fingerprints.formats import FORMAT, UNBOUNDED, WITHOUT_STREAMS

COMPONENTS = 16
"""Principal components of a view; 32 or 64 were no better on the development zoo (docs/decisions)."""
PROBE_COMPONENTS = 24

_CLIP = 6.0  # standard deviations: a block unlike any seen before must not throw the map off
_TAIL = 4.0  # standard deviations of most values: beyond, a value does not count in full towards a column's scale
_LONG = 2.0  # typical lengths of a standardised checkpoint: a longer one does not count in full towards directions
_QUARTILE_ROWS = 256
_ROWS = 768  # checkpoints that a view is learned from
_COPIES = 4  # of a view's table, while it is standardised
_TOGETHER = 256  # checkpoints that are looked at together
_SHARE_OF_RUNS = 0.2  # a kind of block that fewer runs have gets no view of its own
_PAIRED_ANCHORS = 128  # anchors whose distances are looked at
_STATISTICS = ("VALUES", "DELTA", "PRODUCT")
# Where the last two sections lie in a fingerprint's maps.
_PRODUCT, _RESPONSE = (
    slice(s.start - SECTIONS["PRODUCT"].start, s.stop - SECTIONS["PRODUCT"].start)
    for s in (SECTIONS["PRODUCT"], SECTIONS["RESPONSE"])
)

Floats = NDArray[np.float32]
Embeddings = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """How one view is standardised and reduced.

    Attributes:
        name: what is looked at; ``answers <block>``, ``values``, ``last answers``, ``probes distances`` and so on.
        mean: ``(columns,)`` over the training set.
        scale: ``(columns,)`` standard deviation; infinite for columns that never vary.
        basis: ``(columns, components)``; the components' total variance is one.
    """

    name: str
    mean: Floats
    scale: Floats
    basis: Floats


@dataclass(frozen=True, eq=False)
class Seen:
    """What trees and processes look at beside the statistics of ``n`` checkpoints.

    Attributes:
        answers: ``(n, c)`` tokens of embeddings, for trees; none without probes.
        tokens: ``(n, columns)`` of all views, for processes.
        slices: which of these columns belong to which view.
    """

    answers: NDArray[np.float64]
    tokens: NDArray[np.float64]
    slices: tuple[slice, ...]

    @classmethod
    def nothing(cls, n: int) -> Seen:
        """No view of ``n`` checkpoints."""
        return cls(np.zeros((n, 0)), np.zeros((n, 0)), ())


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """All views of a zoo.

    Attributes:
        kinds: blocks (name and shape) that a good share of the runs has.
        answering: those of them of which fingerprints keep a product and answers.
        views: in the order of the tokens.
        of_format: version of the fingerprints that it was learned from.
    """

    kinds: tuple[str, ...]
    answering: tuple[str, ...]
    views: tuple[View, ...]
    of_format: int = FORMAT

    @property
    def slices(self) -> tuple[slice, ...]:
        """Which columns of :meth:`__call__`'s result belong to which view."""
        edges = np.cumsum([0, *(v.basis.shape[1] for v in self.views)])
        return tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(edges))

    @property
    def probes(self) -> bool:
        """Whether embeddings are among the views."""
        return any(v.name.startswith("probes ") for v in self.views)

    def seen(self, tokens: torch.Tensor) -> Seen:
        """What trees and processes look at of ``(n, columns)`` tokens."""
        parts = [tokens[:, s] for v, s in zip(self.views, self.slices, strict=True) if v.name.startswith("probes ")]
        answers = torch.cat([tokens[:, :0], *parts], dim=1).double().numpy()
        return Seen(answers, tokens.double().numpy(), self.slices)

    def refusal(self, fingerprints: Sequence[Fingerprint]) -> str | None:
        """Say why these fingerprints cannot be compared with those that it was learned from; None: they can be.

        Args:
            fingerprints: of any version.
        """
        if self.of_format <= UNBOUNDED and any(f.kept.is_bounded for f in fingerprints):
            return "which kept more of networks with many tensors"
        if self.of_format <= WITHOUT_STREAMS and any(f.is_wired for f in fingerprints):
            return "which followed such networks in another way (run 'epsopt ingest' first)"
        return None

    def __call__(self, fingerprints: Sequence[Fingerprint], embeddings: Embeddings | None = None) -> torch.Tensor:
        """Turn ``n`` checkpoints into ``(n, columns)`` float32, view beside view; zero where a view has nothing to see.

        Args:
            fingerprints: ``n`` fingerprints.
            embeddings: ``(n, anchors, dim)`` with NaN where there is none; used only if :attr:`probes`.

        Raises:
            OtherVersion: it was learned from fingerprints that say something else (:meth:`refusal`).
        """
        if (why := self.refusal(fingerprints)) is not None:
            raise OtherVersion(
                f"the fitted map was written by another version of epsopt, {why}: run 'epsopt fit' again"
            )
        out = np.zeros((len(fingerprints), self.slices[-1].stop), dtype=np.float32)
        for start in range(0, len(fingerprints), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            raw = _Raw(self.kinds, self.answering, fingerprints[part], None if embeddings is None else embeddings[part])
            for view, place in zip(self.views, self.slices, strict=True):
                out[part, place] = _standardise(raw.table(view.name), view.mean, view.scale) @ view.basis
        return torch.from_numpy(out)


def fit_tokenizer(
    fingerprints: Sequence[Fingerprint], runs: NDArray[np.int64], embeddings: Embeddings | None = None
) -> FeatureEncoder:
    """Learn the views of a zoo.

    Args:
        fingerprints: ``n`` fingerprints.
        runs: ``(n,)`` run of each.
        embeddings: ``(n, anchors, dim)``, NaN where there is none; given, they become views as well.
    """
    seen: dict[str, set[int]] = {}
    for fingerprint, run in zip(fingerprints, runs.tolist(), strict=True):
        for kind in fingerprint.kinds:
            seen.setdefault(kind, set()).add(run)
    needed = _SHARE_OF_RUNS * len(np.unique(runs))
    kinds = tuple(kind for kind, where in seen.items() if len(where) >= needed)
    rows = evenly_spaced(len(fingerprints), _ROWS, np.floor)
    architectures = {(f.names, f.shapes): f for f in fingerprints}.values()
    answered = {kind for f in architectures for kind in map(f.kinds.__getitem__, f.answering)}
    answering = tuple(kind for kind in kinds if kind in answered)
    raw = _Raw(
        kinds, answering, [fingerprints[i] for i in rows.tolist()], None if embeddings is None else embeddings[rows]
    )
    views = [
        view
        for name in raw.names(mixed=len(kinds) < len(seen))
        if (view := _fit_view(name, raw.table(name))) is not None
    ]
    if not views:  # all checkpoints are alike: one empty column keeps what follows simple
        columns = raw.table("blocks").shape[1]
        nothing = np.zeros(columns, dtype=np.float32)
        views = [View("blocks", nothing, nothing + np.inf, np.zeros((columns, 1), dtype=np.float32))]
    return FeatureEncoder(kinds, answering, tuple(views), min(f.format for f in fingerprints))


def memory_of_fit(fingerprints: Sequence[Fingerprint]) -> int:
    """Return about how many bytes :func:`fit_tokenizer` needs beside these: a few copies of the widest view."""
    rows = max((len(f.maps) for f in fingerprints), default=0)
    blocks = max((len(f.statistics) for f in fingerprints), default=0)
    delta = SECTIONS["DELTA"].stop - SECTIONS["DELTA"].start
    widest: int = max(rows * (_PRODUCT.stop - _PRODUCT.start), blocks * delta)
    return 4 * widest * min(len(fingerprints), _ROWS) * _COPIES


class _Raw:
    """The views' tables before any standardisation; rows of NaN where a checkpoint lacks what a view looks at."""

    def __init__(
        self,
        kinds: Sequence[str],
        answering: Sequence[str],
        fingerprints: Sequence[Fingerprint],
        embeddings: Embeddings | None,
    ) -> None:
        self._kinds = tuple(kinds)
        self._fingerprints = fingerprints
        self._embeddings = embeddings
        self._index = {kind: k for k, kind in enumerate(self._kinds)}
        # Of each checkpoint, by kind, which of its blocks is of it.
        self._found = [
            {self._index[kind]: i for i, kind in enumerate(f.kinds) if kind in self._index} for f in fingerprints
        ]
        # The same of kinds that answer, and which row of the maps is of it.
        self._answering = {kind: k for k, kind in enumerate(answering)}
        self._answered = [
            {self._answering[own[row]]: i for i, row in enumerate(f.answering) if own[row] in self._answering}
            for f, own in ((f, f.kinds) for f in fingerprints)
        ]

    def names(self, *, mixed: bool) -> Iterable[str]:
        """All views that these checkpoints could have; `mixed`: architectures differ."""
        yield from (f"answers {kind}" for kind in self._answering)
        if self._kinds:
            yield from (section.lower() for section in _STATISTICS)
        if mixed:
            yield from ("sizes", "last answers", "last values", "first values", "blocks")
        if self._embeddings is not None:
            yield from (f"probes {name}" for name in ("points", "norms", "ranks", "distances"))
            known = self._embeddings[np.isfinite(self._embeddings).all(axis=(1, 2))]
            if len(known) and float(np.linalg.norm(known, axis=2).max()) < 1.0:
                yield from ("probes ball radii", "probes ball distances")

    def table(self, name: str) -> Floats:
        """(n, columns) of one view."""
        if name.startswith("answers "):
            return self._answers(self._answering[name.removeprefix("answers ")])
        if name.startswith("probes "):
            return self._probes(name.removeprefix("probes "))
        if name.upper() in _STATISTICS:
            return self._statistics(name)
        return np.stack([_of_any(name, f) for f in self._fingerprints])

    def _answers(self, kind: int) -> Floats:
        table = np.full((len(self._fingerprints), _RESPONSE.stop - _RESPONSE.start), np.nan, dtype=np.float32)
        for row, (fingerprint, found) in enumerate(zip(self._fingerprints, self._answered, strict=True)):
            if kind in found:
                table[row] = fingerprint.maps[found[kind], _RESPONSE]
        return table

    def _statistics(self, name: str) -> Floats:
        # One view at a time: all columns of all blocks together would take as much memory as the fingerprints.
        kinds, places = (self._answering, self._answered) if name == "product" else (self._index, self._found)
        columns = _PRODUCT if name == "product" else SECTIONS[name.upper()]
        shape = (len(self._fingerprints), len(kinds), columns.stop - columns.start)
        table = np.full(shape, np.nan, dtype=np.float32)
        for row, (fingerprint, found) in enumerate(zip(self._fingerprints, places, strict=True)):
            if found:
                values = fingerprint.maps if name == "product" else fingerprint.statistics
                table[row, list(found)] = values[list(found.values()), columns]
        return table.reshape(len(self._fingerprints), -1)

    def _probes(self, name: str) -> Floats:
        if self._embeddings is None:  # a map with probes, asked about a checkpoint without them
            return np.full((len(self._fingerprints), 1), np.nan, dtype=np.float32)
        points = np.asarray(self._embeddings, dtype=np.float32)
        norms = np.linalg.norm(points, axis=2)
        if name == "points":
            return points.reshape(len(points), -1)
        if name == "norms":
            return np.asarray(np.log(norms + 1e-6))
        if name == "ranks":
            ranks = rankdata(norms, axis=1, nan_policy="propagate") / norms.shape[1]
            return np.asarray(ranks, dtype=np.float32)
        if name == "ball radii":
            return np.asarray(np.arctanh(np.minimum(norms, 1.0 - 1e-6)))
        some = points[:, :: max(1, points.shape[1] // _PAIRED_ANCHORS)]
        left, right = np.triu_indices(some.shape[1], 1)
        gaps = np.linalg.norm(some[:, left] - some[:, right], axis=2)
        if name == "distances":  # in units of the checkpoint's own: only the pattern
            gaps = gaps / np.maximum(gaps.mean(axis=1, keepdims=True), 1e-9)
            return np.asarray(gaps, dtype=np.float32)
        room = np.maximum(1.0 - (some**2).sum(axis=2), 1e-6)
        return np.asarray(np.arcsinh(gaps / np.sqrt(room[:, left] * room[:, right])), dtype=np.float32)


def _of_any(name: str, fingerprint: Fingerprint) -> Floats:
    """A view that checkpoints of every architecture have."""
    own = fingerprint.statistics
    if len(own) == 0:
        return np.full(_WIDTHS[name], np.nan, dtype=np.float32)
    matrices = np.flatnonzero(own[:, SECTIONS["SHAPE"]][:, 1] > 1)
    if name == "last answers":
        answers = fingerprint.maps[:, _RESPONSE].astype(np.float32)
        speaking = np.flatnonzero(np.abs(answers).max(axis=1) > 0)
        return np.asarray(answers[speaking[-1]] if len(speaking) else np.zeros(answers.shape[1]), dtype=np.float32)
    if name in {"first values", "last values"}:
        return np.asarray(own[matrices[0 if name == "first values" else -1]] if len(matrices) else own[0])
    if name == "sizes":
        matrices_of_all = sum(len(shape) > 1 for shape in fingerprint.shapes)
        sizes = [len(fingerprint.names), matrices_of_all, np.log1p(fingerprint.n_parameters)]
        return np.array(sizes, dtype=np.float32)
    sizes_of_rows = [len(group) for group in fingerprint.kept.groups]
    if max(sizes_of_rows) > 1:  # every tensor counts
        own = np.repeat(own, sizes_of_rows, axis=0)
        matrices = np.flatnonzero(own[:, SECTIONS["SHAPE"]][:, 1] > 1)
    weights = own[matrices] if len(matrices) else own
    summary = [weights.mean(axis=0), weights.std(axis=0), weights.min(axis=0), weights.max(axis=0)]
    return np.concatenate([*summary, own.mean(axis=0)]).astype(np.float32)


def _width(*sections: str) -> int:
    return sum(SECTIONS[s].stop - SECTIONS[s].start for s in sections)


_OWN = _width("SHAPE", "VALUES", "DELTA")
_WIDTHS = {
    "sizes": 3,
    "last answers": _width("RESPONSE"),
    "first values": _OWN,
    "last values": _OWN,
    "blocks": 5 * _OWN,
}


def _fit_view(name: str, table: Floats) -> View | None:
    known = np.isfinite(table).all(axis=1)
    if not known.any():
        return None
    mean, std = _without_tails(table[known])
    # Relative to the column's size: rounding noise in a constant column must not be blown up to unit variance.
    scale = np.where(std > 1e-5 * (1.0 + np.abs(mean)), std, np.inf).astype(np.float32)
    if not np.isfinite(scale).any():
        return None
    standard = _standardise(table, mean, scale)
    length = np.linalg.norm(standard, axis=1)
    # Directions are those of most checkpoints: a diverged one lies far out along all columns at once.
    limit = _LONG * float(np.median(length[known]))
    if limit > 0.0:
        standard *= np.minimum(1.0, limit / np.maximum(length, 1e-12))[:, None].astype(np.float32)
    components = PROBE_COMPONENTS if name.startswith("probes ") else COMPONENTS
    return View(name, mean.astype(np.float32), scale, _principal(standard, components))


def _without_tails(table: Floats) -> tuple[Floats, Floats]:
    """``(n, columns)`` finite -> mean and standard deviation of each column, far-out values pulled in (winsorised).

    Weights of a diverged run, NaN or 1e8, give features a million times as large as all others.
    """
    some = table[evenly_spaced(len(table), _QUARTILE_ROWS, np.floor)]
    first, middle, third = np.quantile(some, (0.25, 0.5, 0.75), axis=0).astype(np.float32)
    reach = _TAIL * (third - first) / np.float32(1.349)  # a normal's interquartile range in standard deviations
    # Of a column whose quartiles are equal nothing says what is far out.
    reach = np.where(reach > 1e-5 * (1.0 + np.abs(middle)), reach, np.inf)
    pulled = np.clip(table, middle - reach, middle + reach)
    return pulled.mean(axis=0), pulled.std(axis=0)


def _standardise(table: Floats, mean: Floats, scale: Floats) -> Floats:
    if table.shape[1] != len(mean):
        return np.zeros((len(table), len(mean)), dtype=np.float32)
    out = (table - mean) / scale
    np.clip(out, -_CLIP, _CLIP, out=out)
    out[np.isnan(out)] = 0.0
    return out


def _principal(table: Floats, components: int) -> Floats:
    """(n, columns) -> (columns, components): leading directions, half-way between raw and whitened."""
    wanted = min(components, *table.shape)
    # A seeded range finder with two power iterations (Halko, Martinsson and Tropp 2011).
    probe = np.random.default_rng(0).standard_normal((table.shape[1], min(wanted + 10, *table.shape)))
    basis, _ = np.linalg.qr(table @ probe.astype(np.float32))
    for _ in range(2):
        basis, _ = np.linalg.qr(table @ (table.T @ basis))
    _, values, directions = np.linalg.svd(basis.T @ table, full_matrices=False)
    keep = np.flatnonzero(values[:wanted] > 1e-4 * max(float(values[0]), 1e-12))
    scaled = directions[keep].T / np.sqrt(values[keep] * values[0])
    spread = np.sqrt(((table @ scaled) ** 2).sum(axis=1).mean())
    return np.asarray(scaled / max(float(spread), 1e-12), dtype=np.float32)
