"""Merge many checkpoints of a few lineages, each merge measured.

A process over weight space (optimize/merge/lineage_gp.py) learns from every measured checkpoint of these lineages and
chooses what to measure next (optimize/merge/lineage_search.py). A merge that was measured is known from then on as any
checkpoint is. What a merge is expected to gain is stated after what those of its kind gained beside what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsopt.optimize.merge.patience import Patience
from epsopt.optimize.schedule.gain_calibration import Reliability, marginal_value_threshold
from epsopt.studies.merge.merge_search import BETWEEN, BEYOND, MergeSearch, MergeStep
from epsopt.studies.merge.merge_sources import Sources, gone_sentences, only_finite
from epsopt.studies.merge.simplex_merge import disagreements, missing_values
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError, UsageError

_DOUBT = 0.4  # of Reliability's: where much is trained already a merge adds tenths of a percent, and dozens may fail
_STEPS, _EXPERIENCE = 12, (0.01, 0.001)  # model's and realized gain of each step, on the families for development


@dataclass(frozen=True)
class Tried:
    """A merge that was measured.

    Attributes:
        kind: ``between`` or ``beyond`` checkpoints (:mod:`epsopt.studies.merge.merge_search`).
        reason: it was tried, in words.
        recombination: what it is made of.
        predicted: ``{"value", "low", "high"}`` of each objective before it was measured, with 90 % intervals;
            None: no model had said anything.
        predicted_gain: hypervolume that it was expected to add to the measured front.
        model_gain: the same by the model alone, without what earlier merges of its kind gained.
        realized_gain: what it added.
        measured: metrics by name.
    """

    kind: str
    reason: str
    recombination: Recombination
    predicted: Mapping[str, Mapping[str, float]] | None
    predicted_gain: float
    model_gain: float
    realized_gain: float
    measured: Mapping[str, float | None]


@dataclass(frozen=True)
class WeightSpaceMerge:
    """What merging came to.

    Attributes:
        sources: checkpoints that were merged, lineage by lineage.
        tried: every merge that was measured, in order.
        joined: places of those that nothing measured dominates.
        saved: files of these, by place.
        reference: reference point of the hypervolumes: the worst that was measured without merges.
        before: hypervolume of all that was measured without them.
        after: and with them.
        stopped: why fewer were measured than the budget has; None: all were.
        disagreements: sentences about a source of which the hook says something else than its file.
    """

    sources: tuple[Sources, ...]
    tried: tuple[Tried, ...]
    joined: tuple[int, ...]
    saved: Mapping[int, Path]
    reference: tuple[float, ...]
    before: float
    after: float
    stopped: str | None
    disagreements: tuple[str, ...]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All that were merged."""
        return [c for sources in self.sources for c in sources.checkpoints]

    @property
    def left_out(self) -> list[Checkpoint]:
        """Checkpoints that would have been merged, if their weights were finite."""
        return [c for sources in self.sources for c in sources.left_out]

    @property
    def labels(self) -> dict[str, str]:
        """Names of checkpoints and bases, by content hash."""
        return {sha256: name for sources in self.sources for sha256, name in sources.labels.items()}

    @property
    def shares(self) -> list[tuple[str, float, float]]:
        """Kind, model's and realized gain of each merge, in shares of the hypervolume before."""
        unit = self.before if self.before > 0.0 else 1.0
        return [(t.kind, t.model_gain / unit, t.realized_gain / unit) for t in self.tried]


def prior_reliability() -> Reliability:
    """Return the reliability of each kind of merge before any was measured."""
    reliability = Reliability(dict.fromkeys((BETWEEN, BEYOND), _EXPERIENCE[1] / _EXPERIENCE[0]))
    for _ in range(_STEPS):
        for kind in (BETWEEN, BEYOND):
            reliability.learn(kind, *_EXPERIENCE)
    return reliability


def merge_in_weight_space(
    decoder: WeightDecoder,
    project: Project,
    checkpoints: Sequence[Checkpoint],
    sources: Sequence[Sources],
    files: Callable[[int, Sequence[Checkpoint]], Path],
    *,
    budget: int = 30,
    give_up: bool = False,
    reliability: Reliability | None = None,
    seed: int = 0,
    made_by: str = "merge",
    progress: Callable[[str, float], None] | None = None,
) -> WeightSpaceMerge:
    """Measure merges of checkpoints, and save those that nothing measured dominates.

    One source is measured again beside the budget, to see whether the hook says what its file says.

    Args:
        decoder: decodes, and measures with the project's hook.
        project: objectives and bounds.
        checkpoints: the catalogue's; what was measured on them is the front to be widened.
        sources: checkpoints to merge, lineage by lineage (:func:`epsopt.studies.merge.merge_sources.choose_sources`).
        files: the file of a merge, by its place among those that were measured, and the checkpoints of its lineage.
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
    lineages, refused = _compared(decoder, sources, notify)
    known = MergeSearch(lineages, project, checkpoints)
    rng, reliability = np.random.default_rng(seed), reliability or prior_reliability()
    first, recombination = known.alone()
    (found,) = known.measure(decoder, [recombination])
    if isinstance(found, EpsoptError):
        raise found
    _require_values(found, project, first)
    differing = disagreements(first, found, project.objectives, decoder.calibrate)
    gone = gone_sentences([c for one in sources for c in one.gone])
    epochs = sum(1 for c in checkpoints if c.metrics and not is_recombined(c))
    before, stopped = known.volume(), None
    unit = before if before > 0.0 else 1.0
    tried, lineage_of = list[Tried](), list[Sequence[Checkpoint]]()
    patience = Patience()
    while len(tried) < budget and stopped is None:
        notify("measuring merges", len(tried) / budget)
        volume = known.volume()
        worths = {kind: reliability.of(kind, _DOUBT * volume / unit) for kind in (BETWEEN, BEYOND)}
        least = marginal_value_threshold(volume, epochs) if give_up else None
        most = budget - len(tried)
        steps, stopped = _next_steps(known, min(decoder.jobs, most), worths, least, rng)
        others = _measured_before(decoder, known, steps)[:most] if steps else []
        if others:  # what was paid for counts, and what to measure next is chosen anew
            steps, stopped = others, None
        made = [known.recombination(step) for step in steps]
        found_all = known.measure(decoder, made)
        for step, made_of, outcome in zip(steps, made, found_all, strict=True):
            volume = known.volume()
            measured = patience.take(outcome)
            known.add(step, measured)
            realized_gain = known.volume() - volume
            if step.predicted is not None:
                reliability.learn(step.kind, step.model_gain / unit, realized_gain / unit)
            gains = (step.model_gain * worths[step.kind], step.model_gain, realized_gain)
            tried.append(Tried(step.kind, step.reason, made_of, step.predicted, *gains, measured))
            lineage_of.append(known.sources(step).checkpoints)
        stopped = patience.stopped or stopped
    missing = missing_values([t.measured for t in tried], project.objectives)
    joined, saved = known.joined(), dict[int, Path]()
    labels = {sha256: name for one, _ in lineages for sha256, name in one.labels.items()}
    for place in joined:
        notify("saving merges", place / budget)
        decoded = decoder.decode(tried[place].recombination)
        provenance = Provenance(made_by, tried[place].predicted, tried[place].measured, decoder.hook, labels)
        saved[place] = files(place, lineage_of[place])
        decoder.save(decoded, saved[place], provenance)
        decoder.forget(decoded)
    return WeightSpaceMerge(
        sources=tuple(one for one, _ in lineages),
        tried=tuple(tried),
        joined=tuple(joined),
        saved=saved,
        reference=tuple(known.reference.tolist()),
        before=before,
        after=known.volume(),
        stopped=stopped,
        disagreements=(*refused, *gone, *differing, *decoder.notes, *patience.notes(), *missing),
    )


def _compared(
    decoder: WeightDecoder, sources: Sequence[Sources], notify: Callable[[str, float], None]
) -> tuple[list[tuple[Sources, WeightProducts]], list[str]]:
    """Compare the checkpoints of each lineage with its base; those that are not finite are left out.

    Returns:
        Lineages that can be merged, and a sentence about each of the others.

    Raises:
        EpsoptError: no lineage can be: a checkpoint or a base is gone, has changed or is not finite.
    """
    out, errors, notes = list[tuple[Sources, WeightProducts]](), list[EpsoptError](), list[str]()
    for place, of_lineage in enumerate(sources):
        notify("comparing checkpoints", place / len(sources))
        parents = [Parent(c.path, c.sha256) for c in of_lineage.checkpoints]
        try:
            products = decoder.products(parents, of_lineage.base)
            out.append(only_finite(of_lineage, products, 2 if of_lineage.base_checkpoint is None else 1))
        except EpsoptError as error:
            errors.append(error)
            notes.append(f"the lineage of {of_lineage.base.path} is not merged: {error}")
    if not out:
        raise errors[0]
    return out, notes


def _measured_before(decoder: WeightDecoder, known: MergeSearch, steps: Sequence[MergeStep]) -> list[MergeStep]:
    """Return merges that a command kept which did not end, where none of these steps is among them.

    The same command chooses the same again, and comes to them one by one; one of another seed, or of more evaluations
    at a time, does not.
    """
    kept = decoder.unused()
    if any(known.recombination(step) in kept for step in steps):
        return []
    return [step for step in map(known.step_of, kept) if step is not None]


def _next_steps(
    known: MergeSearch, most: int, worths: Mapping[str, float], least: float | None, rng: np.random.Generator
) -> tuple[list[MergeStep], str | None]:
    """Choose what to measure at once: each as if the ones before had measured what is predicted of them.

    Args:
        known: what is known so far.
        most: merges to choose at most.
        worths: factor of the model's gain of each kind of merge.
        least: gain below which nothing more is measured; None: everything is.
        rng: draws candidates.

    Returns:
        Steps, and why nothing comes after them; None: more may.
    """
    steps: list[MergeStep] = []
    while len(steps) < most:
        step = known.next_step(rng)
        if least is not None and step.predicted is not None and step.model_gain * worths[step.kind] < least:
            return steps, "the next one is expected to gain less than training elsewhere would"
        steps.append(step)
        if step.predicted is None:
            break
        known = known.imagining(step)
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
