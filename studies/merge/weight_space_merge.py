"""Merge many checkpoints of one lineage: parts of the network stretched and exchanged, each merge measured.

Two models say what to try. One knows what lies between the three checkpoints of the front that dominate most
(optimize/merge/simplex_merge.py): it is nearly always right, and soon has no more to offer. The other, a process over
weight space, takes all of up to two dozen checkpoints, along the way from one to another or to the base, and part by
part beyond them (optimize/merge/weight_space_gp.py): the gains that it predicts beyond are larger and mostly not
realized. Each of the three kinds of step counts by its reliability so far.

A merge that was measured is known from then on as any checkpoint is: what it has in common with all others follows
from its coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsopt.optimize.merge.patience import Patience
from epsopt.optimize.schedule.gain_calibration import Reliability, marginal_value_threshold
from epsopt.studies.merge.merge_candidates import ALONG, BETWEEN, BEYOND, Floats, MergeSearch, MergeStep, Part
from epsopt.studies.merge.merge_sources import Sources, only_finite
from epsopt.studies.merge.simplex_merge import disagreements
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined
from epsopt.zoo.errors import EpsoptError, UsageError

_DOUBT = 0.4  # of Reliability's: where much is trained already a merge adds tenths of a percent, and dozens may fail
_STEPS, _EXPERIENCE = 12, (0.028, 0.002)  # predicted and realized gain of each step beyond, on the demo's zoo
_NO_FIT = "no model could be fitted to what was measured so far"
_FIRST = {BEYOND: 0.075}  # and so the reliability where that is forgotten


@dataclass(frozen=True)
class Tried:
    """A merge that was measured.

    Attributes:
        kind: whose idea it was: ``between``, ``along`` or ``beyond`` (:mod:`epsopt.studies.merge.merge_candidates`).
        reason: it was tried, in words.
        recombination: what it is made of.
        parts: the same, part by part.
        predicted: ``{"value", "low", "high"}`` of each objective before it was measured, with 90 % intervals;
            None: no model had said anything.
        predicted_gain: hypervolume that it was expected to add to the measured front.
        realized_gain: what it added.
        measured: metrics by name.
    """

    kind: str
    reason: str
    recombination: Recombination
    parts: tuple[Part, ...]
    predicted: Mapping[str, Mapping[str, float]] | None
    predicted_gain: float
    realized_gain: float
    measured: Mapping[str, float | None]


@dataclass(frozen=True)
class WeightSpaceMerge:
    """What merging came to.

    Attributes:
        sources: checkpoints that were merged.
        tried: every merge that was measured, in order.
        joined: places of those that nothing measured dominates.
        saved: files of these, by place.
        reference: reference point of the hypervolumes: the worst that was measured without merges.
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
    def shares(self) -> list[tuple[str, float, float]]:
        """Whose idea each merge was, its predicted and realized gain, in shares of the hypervolume before."""
        unit = self.before if self.before > 0.0 else 1.0
        return [(t.kind, t.predicted_gain / unit, t.realized_gain / unit) for t in self.tried]


def prior_reliability() -> Reliability:
    """Return the reliability of each kind of step before any was measured."""
    reliability = Reliability(_FIRST)
    for _ in range(_STEPS):
        reliability.learn(BEYOND, *_EXPERIENCE)
    return reliability


def merge_in_weight_space(
    decoder: WeightDecoder,
    project: Project,
    checkpoints: Sequence[Checkpoint],
    sources: Sources,
    files: Callable[[int], Path],
    *,
    budget: int = 30,
    give_up: bool = True,
    reliability: Reliability | None = None,
    seed: int = 0,
    made_by: str = "merge --wide",
    progress: Callable[[str, float], None] | None = None,
) -> WeightSpaceMerge:
    """Measure merges of checkpoints, and save those that nothing measured dominates.

    One source is measured again beside the budget, to see whether the hook says what its file says.

    Args:
        decoder: decodes, and measures with the project's hook.
        project: objectives and bounds.
        checkpoints: the catalogue's; what was measured on them is the front to be widened.
        sources: checkpoints to merge (:func:`epsopt.studies.merge.merge_sources.choose_sources`).
        files: the file of a merge, by its place among those that were measured.
        budget: merges to measure at most.
        give_up: stop when the next one is expected to gain less than training elsewhere (`marginal_value_threshold`).
        reliability: of merges so far, in shares of the hypervolume at the time; it learns from these. None begins anew.
        seed: the same seed and the same measurements give the same merges.
        made_by: the command, as saved merges name it.
        progress: called as ``progress(what, share done)``.

    Raises:
        UsageError: no evaluate hook, or one that does not measure an objective, or finds it not finite on a source.
        HookError: the hook failed on the source that is measured first.
        EmptyCatalogue: fewer than two sources hold finite weights.
        EpsoptError: a source or the base is gone or has changed, or the base's weights are not finite.
    """
    notify = progress or (lambda _what, _share: None)
    notify("comparing checkpoints", 0.0)
    parents = [Parent(c.path, c.sha256) for c in sources.checkpoints]
    sources, products = only_finite(sources, decoder.products(parents, sources.base))
    known = MergeSearch(sources, products, project, checkpoints)
    rng, reliability = np.random.default_rng(seed), reliability or prior_reliability()
    (found,) = known.measure(decoder, [known.alone(0)])
    if isinstance(found, EpsoptError):
        raise found
    _require_values(found, project, sources.checkpoints[0])
    differing = disagreements(sources.checkpoints[0], found, project.objectives)
    epochs = sum(1 for c in checkpoints if c.metrics and not is_recombined(c))
    before, stopped = known.volume(), None
    unit = before if before > 0.0 else 1.0
    tried: list[Tried] = []
    patience = Patience()
    while len(tried) < budget and stopped is None:
        notify("measuring merges", len(tried) / budget)
        volume = known.volume()
        worths = {kind: reliability.of(kind, _DOUBT * volume / unit) for kind in (BETWEEN, ALONG, BEYOND)}
        least = marginal_value_threshold(volume, epochs) if give_up else None
        most = min(decoder.jobs, budget - len(tried))
        steps, stopped = _next_steps(known, most, worths, least, rng, seed)
        made = [known.recombination(rows) for _, rows in steps]
        found_all = known.measure(decoder, [recombination for recombination, _ in made])
        for (step, rows), (recombination, parts), outcome in zip(steps, made, found_all, strict=True):
            volume = known.volume()
            measured = patience.take(outcome)
            known.add(step, rows, measured)
            realized_gain = known.volume() - volume
            reliability.learn(step.kind, step.predicted_gain / unit, realized_gain / unit)
            tried.append(
                Tried(
                    step.kind,
                    step.reason,
                    recombination,
                    parts,
                    step.predicted,
                    step.predicted_gain,
                    realized_gain,
                    measured,
                )
            )
        stopped = patience.stopped or stopped
    joined = known.joined()
    for place in joined:
        notify("saving merges", place / budget)
        decoded = decoder.decode(tried[place].recombination)
        provenance = Provenance(made_by, tried[place].predicted, tried[place].measured, decoder.hook, sources.labels)
        decoder.save(decoded, files(place), provenance)
        decoder.forget(decoded)
    return WeightSpaceMerge(
        sources=sources,
        tried=tuple(tried),
        joined=tuple(joined),
        saved={place: files(place) for place in joined},
        reference=tuple(known.reference.tolist()),
        before=before,
        after=known.volume(),
        stopped=stopped,
        disagreements=(*differing, *decoder.notes, *patience.notes()),
    )


def _next_steps(
    known: MergeSearch,
    most: int,
    worths: Mapping[str, float],
    least: float | None,
    rng: np.random.Generator,
    seed: int,
) -> tuple[list[tuple[MergeStep, Floats]], str | None]:
    """Choose what to measure at once: each as if the ones before had measured what is predicted of them.

    Args:
        known: what is known so far.
        most: merges to choose at most.
        worths: factor of the predicted gain of each kind of step.
        least: gain below which nothing more is measured; None: everything is.
        rng: draws candidates.
        seed: of the model of three parents.

    Returns:
        Steps with their ``(blocks, sources)``, and why nothing comes after them; None: more may.
    """
    steps: list[tuple[MergeStep, Floats]] = []
    while len(steps) < most:
        ideas = [(step, step.predicted_gain * worths[step.kind]) for step in known.ideas(rng, seed, worths.__getitem__)]
        if not ideas:
            return steps, _NO_FIT if known.unfitted else "none of the checkpoints moved away from the base"
        step, worth = max(ideas, key=lambda idea: idea[1])
        if least is not None and worth < least:
            return steps, "the next one is expected to gain less than training elsewhere would"
        rows = known.expanded(step.coefficients)
        steps.append((step, rows))
        if len(steps) == most or step.predicted is None:
            break
        known = known.imagining(step, rows)
    return steps, None


def _require_values(measured: Mapping[str, float | None], project: Project, checkpoint: Checkpoint) -> None:
    """Refuse a hook that finds no value where training found one: it would find none on merges either."""
    lost = [
        o.name for o in project.objectives
        if measured.get(o.name) is None and checkpoint.metrics.get(o.name) is not None
    ]  # fmt: skip
    if lost:
        raise UsageError(
            f"the evaluate hook returns NaN, infinity or nothing for {', '.join(lost)} on {checkpoint.path}, whose "
            "file says a number: check it on that checkpoint"
        )
