"""Mix many checkpoints of one lineage: parts of the network stretched and exchanged, each mixture measured.

Where merging weighs a few parents against each other (merges.py), this takes up to two dozen checkpoints, and lets a
process over weight space choose what to make of them (optimize/loop/mixing.py). A mixture that was measured is known
from then on as any checkpoint is: what it has in common with all others follows from its coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epsopt.optimize.loop.credit import Credit, worth_staying
from epsopt.optimize.loop.mixing import Mixture, WeightSpace, choose_mixture
from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.optimize.scoring import CAUTION, measured_table
from epsopt.optimize.targets import Objective
from epsopt.studies.merges import disagreements, front_lineage
from epsopt.studies.project.file import Project
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.patterns import separating_patterns
from epsopt.zoo.decoding.products import WeightProducts
from epsopt.zoo.decoding.provenance import Provenance, labels
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError, UsageError
from epsopt.zoo.reading.remote import RemotePath, location
from epsopt.zoo.records import Checkpoint, Lineage

MOST_SOURCES = 24
"""Checkpoints that are mixed: each is read once, and any of them may be read again for a mixture."""

KIND = "mixture"
"""What credit calls these steps."""

_FROM_FRONT = 16  # of the sources, where the front has more; ends of runs take the rest
_DRAWS = 64  # of what a mixture may measure
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """What is mixed.

    Attributes:
        base: the lineage's reference, which differences are taken from.
        base_checkpoint: the same in the catalogue; None: it is not there.
        checkpoints: others of the lineage, all measured; those of the front come first.
        n_front: how many those are.
    """

    base: Parent
    base_checkpoint: Checkpoint | None
    checkpoints: tuple[Checkpoint, ...]
    n_front: int

    @property
    def labels(self) -> dict[str, str]:
        """Names of all, by content hash."""
        known = [*self.checkpoints, *([self.base_checkpoint] if self.base_checkpoint else [])]
        return {self.base.sha256: Path(self.base.path).name, **labels(known)}


@dataclass(frozen=True)
class Part:
    """Tensors that are mixed alike.

    Attributes:
        patterns: of their names; none: all that no other part's fit.
        tensors: how many there are.
        coefficients: of the recombination's parents.
    """

    patterns: tuple[str, ...]
    tensors: int
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Tried:
    """A mixture that was measured.

    Attributes:
        recombination: what it is made of.
        parts: the same, part by part.
        predicted: ``{"value", "low", "high"}`` of each objective before it was measured, with 90 % intervals.
        promised: hypervolume that it was expected to add to the measured front.
        brought: what it added.
        measured: metrics by name.
    """

    recombination: Recombination
    parts: tuple[Part, ...]
    predicted: Mapping[str, Mapping[str, float]]
    promised: float
    brought: float
    measured: Mapping[str, float | None]


@dataclass(frozen=True)
class Mixed:
    """What mixing came to.

    Attributes:
        sources: what was mixed.
        tried: every mixture that was measured, in order.
        joined: places of those that nothing measured dominates.
        saved: files of these, by place.
        reference: reference point of the hypervolumes: the worst that was measured without mixtures.
        before: hypervolume of all that was measured without them.
        after: and with them.
        stopped: why fewer were measured than the budget has; None: all were.
        disagreements: sentences about a source of which the hook says something else than its file.
    """

    sources: Sources
    tried: tuple[Tried, ...]
    joined: tuple[int, ...]
    saved: Mapping[int, Path]
    reference: tuple[float, ...]
    before: float
    after: float
    stopped: str | None
    disagreements: tuple[str, ...]

    @property
    def shares(self) -> list[tuple[float, float]]:
        """What each mixture promised and brought, in shares of the hypervolume before."""
        unit = self.before if self.before > 0.0 else 1.0
        return [(t.promised / unit, t.brought / unit) for t in self.tried]


def choose_sources(
    checkpoints: Sequence[Checkpoint], lineages: Sequence[Lineage], objectives: Sequence[Objective]
) -> Sources:
    """Choose what is mixed, of the lineage that holds most of the measured front: its own front, its newest runs' ends.

    Args:
        checkpoints: the catalogue's.
        lineages: likewise.
        objectives: what counts.

    Raises:
        EmptyCatalogue: fewer than two measured checkpoints, the base left out.
    """
    lineage_id, rows = front_lineage(checkpoints, objectives)
    lineage = next(known for known in lineages if known.id == lineage_id)
    base = Parent(lineage.reference_path, lineage.reference_sha256)
    unique = {checkpoints[i].sha256: checkpoints[i] for i in rows if checkpoints[i].sha256 != base.sha256}
    own = [c for c in unique.values() if _is_there(c)]
    table = measured_table([c.metrics for c in own], objectives)
    indices = non_dominated(table, [o.maximize for o in objectives]).indices
    front = [own[i] for i in indices[np.argsort(table[indices, 0], kind="stable")]]
    ends = [c for c in _ends(own) if c not in front]
    most = max(_FROM_FRONT, MOST_SOURCES - len(ends))
    if len(front) > most:
        front = [front[i] for i in np.linspace(0, len(front) - 1, most).round().astype(int)]
    chosen = [*front, *ends[: MOST_SOURCES - len(front)]]
    if len(chosen) < 2:
        raise EmptyCatalogue(
            f"there is only one measured checkpoint besides the base {base.path}, so there is nothing to mix: ingest "
            "more runs that start from it, or more checkpoints of this one"
        )
    founder = next((c for c in checkpoints if c.sha256 == base.sha256), None)
    return Sources(base, founder, tuple(chosen), len(front))


def mix(
    decoder: WeightDecoder,
    project: Project,
    checkpoints: Sequence[Checkpoint],
    sources: Sources,
    files: Callable[[int], Path],
    *,
    budget: int = 30,
    give_up: bool = True,
    credit: Credit | None = None,
    seed: int = 0,
    made_by: str = "merge --wide",
    progress: Callable[[str, float], None] | None = None,
) -> Mixed:
    """Measure mixtures of checkpoints, and save those that nothing measured dominates.

    One source is measured again beside the budget, to see whether the hook says what its file says.

    Args:
        decoder: decodes, and measures with the project's hook.
        project: objectives and bounds.
        checkpoints: the catalogue's; what was measured on them is the front to be widened.
        sources: what is mixed (:func:`choose_sources`).
        files: the file of a mixture, by its place among those that were measured.
        budget: mixtures to measure at most.
        give_up: stop when the next one is expected to gain less than training elsewhere would (Credit, worth_staying).
        credit: what mixtures were worth so far, in shares of the hypervolume at the time, which learns from these;
            None begins anew.
        seed: the same seed and the same measurements give the same mixtures.
        made_by: the command, as saved mixtures tell it.
        progress: called as ``progress(what, share done)``.

    Raises:
        UsageError: no evaluate hook, or one that does not measure an objective.
        HookError: the hook failed; nothing is saved.
        EmptyCatalogue: fewer than two sources hold finite weights.
        EpsoptError: a source or the base is gone or has changed, or the base's weights are not finite.
    """
    tell = progress or (lambda _what, _share: None)
    tell("comparing checkpoints", 0.0)
    parents = [Parent(c.path, c.sha256) for c in sources.checkpoints]
    sources, products = _finite(sources, decoder.products(parents, sources.base))
    known = _Known(sources, products, project, checkpoints)
    rng, credit = np.random.default_rng(seed), credit or Credit()
    differing = disagreements(sources.checkpoints[0], known.measure(decoder, known.alone(0)), project.objectives)
    epochs = sum(1 for c in checkpoints if c.metrics and not is_recombined(c))
    before, stopped = known.volume(), None
    unit = before if before > 0.0 else 1.0
    tried: list[Tried] = []
    while len(tried) < budget and stopped is None:
        tell("measuring mixtures", len(tried) / budget)
        mixture = known.choose(rng)
        if mixture is None:
            stopped = "none of the checkpoints moved away from the base"
            break
        volume, promised = known.volume(), known.promise(mixture, rng)
        if give_up and promised * credit.trust(KIND, volume / unit) < worth_staying(volume, epochs):
            stopped = "the next one is expected to gain less than training elsewhere would"
            break
        rows = known.expanded(mixture.coefficients)
        recombination, parts = known.recombination(rows)
        measured = known.measure(decoder, recombination)
        known.add(rows, measured)
        brought, predicted = known.volume() - volume, _predicted(mixture, project.objectives)
        credit.learn(KIND, promised / unit, brought / unit)
        tried.append(Tried(recombination, parts, predicted, promised, brought, measured))
    joined = known.joined()
    for place in joined:
        tell("saving mixtures", place / budget)
        decoded = decoder.decode(tried[place].recombination)
        origin = Provenance(made_by, tried[place].predicted, tried[place].measured, decoder.hook, sources.labels)
        decoder.save(decoded, files(place), origin)
        decoder.forget(decoded)
    return Mixed(
        sources=sources,
        tried=tuple(tried),
        joined=tuple(joined),
        saved={place: files(place) for place in joined},
        reference=tuple(known.reference.tolist()),
        before=before,
        after=known.volume(),
        stopped=stopped,
        disagreements=tuple(differing),
    )


class _Known:
    """Sources and measured mixtures: what they are made of, block by block, and what was measured on them."""

    def __init__(
        self, sources: Sources, products: WeightProducts, project: Project, checkpoints: Sequence[Checkpoint]
    ) -> None:
        self._sources, self._products = sources, products
        self._objectives, self._bounds = project.objectives, project.bounds
        n = len(sources.checkpoints)
        # (known, blocks, sources): of each source, how much of its difference from the base is in a block.
        self._made = np.broadcast_to(np.eye(n)[:, None, :], (n, len(products.names), n)).copy()
        self._values = measured_table([c.metrics for c in sources.checkpoints], self._objectives)
        others = measured_table([c.metrics for c in checkpoints], self._objectives)
        self._others = others[np.isfinite(others).all(axis=1)]
        self.reference: Floats = np.where(self._maximize, self._others.min(axis=0), self._others.max(axis=0))

    @property
    def _maximize(self) -> list[bool]:
        return [o.maximize for o in self._objectives]

    @cached_property
    def _base_values(self) -> Floats | None:
        base = self._sources.base_checkpoint
        values = None if base is None else measured_table([base.metrics], self._objectives)[0]
        return values if values is not None and np.isfinite(values).all() else None

    def choose(self, rng: np.random.Generator) -> Mixture | None:
        """Choose the next mixture, by what is known of all others."""
        return choose_mixture(
            self._space, self._values, self._objectives, base=self._base_values, reference=self.reference,
            bounds=self._bounds, rng=rng,
        )  # fmt: skip

    @property
    def _space(self) -> WeightSpace:
        made = self._made.swapaxes(0, 1)
        return WeightSpace(made @ self._products.products @ made.swapaxes(1, 2), self._products.norms)

    def promise(self, mixture: Mixture, rng: np.random.Generator) -> float:
        """Return the hypervolume that a mixture is expected to add to all that was measured.

        The process knows the sources alone; where the front has more, not all that it promises is new.
        """
        draws = rng.standard_normal((_DRAWS, len(self._objectives)))
        up, down = mixture.high - mixture.predicted, mixture.predicted - mixture.low
        values = mixture.predicted + draws * np.where(draws > 0.0, up, down) / CAUTION
        for j, objective in enumerate(self._objectives):
            values[:, j] = values[:, j].clip(*self._bounds.get(objective.name, (-np.inf, np.inf)))
        table = self._table
        front = table[non_dominated(table, self._maximize).indices]
        before = hypervolume(front, self.reference, self._maximize)
        gains = [hypervolume(np.vstack([front, v]), self.reference, self._maximize) - before for v in values]
        return float(np.mean(gains))

    def expanded(self, coefficients: Floats) -> Floats:
        """Turn ``(parts, known)`` coefficients into ``(blocks, sources)``."""
        of_block = coefficients[self._space.parts]
        # Rounded, so that blocks that are mixed alike have the same numbers to the last bit.
        return np.asarray(np.einsum("bk,kbs->bs", of_block, self._made).round(12))

    def alone(self, place: int) -> Recombination:
        """Return a source by itself."""
        source = self._sources.checkpoints[place]
        return Recombination((Parent(source.path, source.sha256),), ((1.0,),))

    def recombination(self, rows: Floats) -> tuple[Recombination, tuple[Part, ...]]:
        """Write ``(blocks, sources)`` as a recombination of the base and the sources, with its parts."""
        names = np.array(self._products.names, dtype=object)
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        whole = np.column_stack([1.0 - distinct.sum(axis=1), distinct])
        used = np.flatnonzero(np.abs(whole).max(axis=0) > 0.0)
        parents = [self._sources.base, *(Parent(c.path, c.sha256) for c in self._sources.checkpoints)]
        members = [names[which.reshape(-1) == i].tolist() for i in range(len(distinct))]
        order = sorted(range(len(distinct)), key=lambda i: len(members[i]))  # the largest is the rest
        parts = []
        for i in order:
            others = [n for j in order if j != i for n in members[j]]
            patterns = separating_patterns(members[i], others) if i != order[-1] else []
            parts.append(Part(tuple(patterns), len(members[i]), tuple(whole[i, used].tolist())))
        rows_of_patterns = [part.coefficients for part in parts for _ in part.patterns]
        recombination = Recombination(
            parents=tuple(parents[i] for i in used),
            coefficients=(*rows_of_patterns, parts[-1].coefficients),
            groups=tuple(pattern for part in parts for pattern in part.patterns),
        )
        return recombination, tuple(parts)

    def measure(self, decoder: WeightDecoder, recombination: Recombination) -> dict[str, float | None]:
        """Decode and measure; every objective must be among what the hook measures."""
        decoded = decoder.decode(recombination)
        try:
            metrics = decoder.measure(decoded, "a mixture")
        finally:
            decoder.forget(decoded)
        for objective in self._objectives:
            if objective.name not in metrics:
                raise UsageError(
                    f"the evaluate hook measures {', '.join(metrics) or 'nothing'}, but not {objective.name}, "
                    "which is an objective"
                )
        return metrics

    def add(self, rows: Floats, measured: Mapping[str, float | None]) -> None:
        """Take a measured mixture for one more that is known."""
        self._made = np.concatenate([self._made, rows[None]])
        self._values = np.vstack([self._values, measured_table([dict(measured)], self._objectives)])

    @property
    def _mixed(self) -> Floats:
        return self._values[len(self._sources.checkpoints) :]

    @property
    def _table(self) -> Floats:
        return np.vstack([self._others, self._mixed])

    def volume(self) -> float:
        """Hypervolume of all that was measured."""
        return hypervolume(self._table, self.reference, self._maximize)

    def joined(self) -> list[int]:
        """Places of the mixtures that nothing measured dominates."""
        front = non_dominated(self._table, self._maximize).indices
        return [int(i) - len(self._others) for i in front if i >= len(self._others)]


def _is_there(checkpoint: Checkpoint) -> bool:
    """Whether a file was not removed since; behind a URL it is not asked."""
    place = location(checkpoint.path)
    return isinstance(place, RemotePath) or place.is_file()


def _finite(sources: Sources, products: WeightProducts) -> tuple[Sources, WeightProducts]:
    """Leave out checkpoints of a run that diverged: anything that is mixed with NaN is NaN."""
    if not np.isfinite(products.norms).all():
        raise EpsoptError(f"the base {sources.base.path} holds weights that are not finite: nothing can be mixed")
    kept = np.flatnonzero(np.isfinite(np.diagonal(products.products, axis1=1, axis2=2)).all(axis=0))
    if len(kept) < 2:
        raise EmptyCatalogue("fewer than two of the checkpoints hold finite weights, so there is nothing to mix")
    chosen = tuple(sources.checkpoints[i] for i in kept)
    n_front = int((kept < sources.n_front).sum())
    inner = products.products[:, kept[:, None], kept[None, :]]
    return replace(sources, checkpoints=chosen, n_front=n_front), replace(products, products=inner)


def _ends(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the last checkpoint of each run that was trained, the newest runs first."""
    last: dict[int, Checkpoint] = {}
    for c in checkpoints:
        former = last.get(c.run_id)
        if not is_recombined(c) and (former is None or _age(c) > _age(former)):
            last[c.run_id] = c
    return sorted(last.values(), key=lambda c: c.id, reverse=True)


def _age(checkpoint: Checkpoint) -> tuple[int, int]:
    return (-1 if checkpoint.epoch is None else checkpoint.epoch, checkpoint.id)


def _predicted(mixture: Mixture, objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    return {
        o.name: {"value": float(mixture.predicted[j]), "low": float(mixture.low[j]), "high": float(mixture.high[j])}
        for j, o in enumerate(objectives)
    }
