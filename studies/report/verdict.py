"""What a reader of the report asks first: did it help, can it be trusted, what to take, what to run next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from epsopt.optimize.forecast.evaluation import share_interval
from epsopt.optimize.measured_front import complete_values, measured_front
from epsopt.optimize.objectives import Objective, Objectives
from epsopt.studies.report.report import LoopReport
from epsopt.surrogate.validation import Validation
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.formatting import count

_FEW = 10  # measurements: a share of fewer says little
_STALLED = 5  # latest runs that all added nothing


@dataclass(frozen=True)
class Verdict:
    """An answer to one question.

    Attributes:
        question: as a reader asks it.
        answer: one or two words.
        reason: one or two sentences with the figures.
    """

    question: str
    answer: str
    reason: str


def verdicts(
    report: LoopReport, objectives: Sequence[Objective], validation: Validation | None, n_unseen: int = 0
) -> list[Verdict]:
    """Answer a reader's four questions.

    Args:
        report: of the loop.
        objectives: what counts.
        validation: of the map; None without one.
        n_unseen: checkpoints that the map does not know yet.

    Returns:
        The answers, in the order in which they are asked.
    """
    return [
        _helped(report),
        _trusted(report, validation),
        _taken(report, objectives),
        _next(report, n_unseen),
    ]


def _helped(report: LoopReport) -> Verdict:
    question = "Did the proposed runs help?"
    gain = report.gain
    if gain is None or not report.new:
        return Verdict(question, "Not known yet", "No proposed run has measured every objective yet.")
    runs = {report.new[i].run for i in gain.joined}
    tried = {c.run for c in report.new}
    by = f"by {gain.relative:.1%}" if math.isfinite(gain.relative) else "from nothing"
    moved = f"from {gain.before:.4g} to {gain.after:.4g}"
    if gain.after <= gain.before:
        return Verdict(
            question, "No", f"None of {count(len(tried), 'proposed run')} moved the measured front ({gain.before:.4g})."
        )
    joined = f"{len(runs)} of {count(len(tried), 'proposed run')} {'is' if len(runs) == 1 else 'are'} on it"
    return Verdict(question, "Yes", f"The hypervolume of the measured front grew {by}, {moved}; {joined}.")


def _trusted(report: LoopReport, validation: Validation | None) -> Verdict:
    question = "Can the intervals be trusted?"
    known = [a for a in report.accuracy if a.n]
    sentence = "" if validation is None else validation.coverage_sentence()
    held = f" {sentence}" if sentence else ""
    if not known:
        return Verdict(question, "Not tested yet", f"No proposal has been measured where it was predicted.{held}")
    level = max((p.level for p in report.measured()), default=0.9)
    worst_known = min(known, key=lambda a: a.inside / a.n)
    low, high = share_interval(worst_known.inside, worst_known.n)
    counts = "; ".join(f"{a.name}: {a.inside} of {a.n} inside" for a in known)
    counts = f"{counts} their {level:.0%} intervals."
    if high < level:
        return Verdict(question, "No, they are too narrow", f"{counts}{held} For {worst_known.name} that is too few.")
    if max(a.n for a in known) < _FEW:
        return Verdict(
            question, "Too few runs to tell", f"{counts} So few agree with true shares from {low:.0%}.{held}"
        )
    return Verdict(question, "Yes, so far", f"{counts}{held}")


def _taken(report: LoopReport, objectives: Sequence[Objective]) -> Verdict:
    question = "Which checkpoint to take?"
    pool = [*report.old, *report.new, *report.merged]
    best, _ = measured_front(objectives, pool)
    if not best:
        return Verdict(question, "None yet", "No checkpoint has measured every objective.")
    taken = compromise(objectives, best, None if report.gain is None else report.gain.reference)
    name = taken.run if taken.epoch is None else f"{taken.run}, epoch {taken.epoch}"
    reached = ", ".join(f"{o.name} {taken.metrics[o.name]:.4g}" for o in objectives)
    where = f" Its file: {taken.path}" if taken.path else ""  # an anonymous report has none
    if len(objectives) == 1:
        return Verdict(question, name, f"It has the best measured {reached}.{where}")
    return Verdict(
        question, name,
        f"Measured {reached}: of {len(best)} on the front the best compromise, the one with the largest hypervolume by "
        f"itself. Your trade-off may be another: the front is below.{where}",
    )  # fmt: skip


def compromise(
    objectives: Sequence[Objective], front: Sequence[Checkpoint], reference: Sequence[float] | None
) -> Checkpoint:
    """Return the checkpoint of a front that dominates the largest volume by itself.

    Args:
        objectives: what counts.
        front: at least one checkpoint with all of them measured.
        reference: one value per objective, or None for the worst values of the front.
    """
    values = np.array([complete_values(objectives, c.metrics) or [] for c in front]) * Objectives(objectives).signs
    worst = values.min(axis=0) if reference is None else np.asarray(reference) * Objectives(objectives).signs
    span = np.maximum(values.max(axis=0) - worst, 1e-12)
    # A point at the worst end of one objective has no volume: what is left decides then.
    shares = np.clip((values - worst) / span, 1e-6, None)
    return front[int(np.log(shares).sum(axis=1).argmax())]


def _next(report: LoopReport, n_unseen: int) -> Verdict:
    question = "What to run next?"
    states = [p.state for p in report.proposals]
    waiting, running = states.count("waiting"), states.count("running")
    if running:
        return Verdict(
            question, "Wait", f"{count(running, 'proposal')} {'is' if running == 1 else 'are'} running, {waiting} wait."
        )
    if waiting:
        likely = [p for p in report.proposals if p.state == "waiting" and p.joins_front is not None]
        expected = sum(p.joins_front or 0.0 for p in likely)
        more = f", of which {expected:.1f} are expected to join the front" if likely else ""
        return Verdict(question, "epsopt work", f"{count(waiting, 'proposal')} wait to be trained{more}.")
    latest = report.hypervolumes[-_STALLED - 1 :]
    if len(latest) > _STALLED and latest[-1] <= latest[0]:
        return Verdict(
            question, "Widen the space, or stop",
            f"The last {_STALLED} proposed runs added nothing to the front. Widen [space] in epsopt.toml, change the "
            "objectives, or take what there is.",
        )  # fmt: skip
    if n_unseen:
        return Verdict(
            question, "epsopt fit, then epsopt propose",
            f"The map does not know {count(n_unseen, 'checkpoint')} yet; nothing waits to be trained.",
        )  # fmt: skip
    return Verdict(question, "epsopt propose", "Nothing waits to be trained.")
