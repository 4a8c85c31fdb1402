"""Search the map for the trade-offs that the user wants, and map what is found back to real checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer, measured_table
from epsopt.optimize.latent.neighbours import Neighbour, nearest
from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.optimize.objectives import Objective, Target, meets
from epsopt.optimize.pareto import non_dominated
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint, each_content_once
from epsopt.zoo.errors import UsageError

Engine = Literal["gradient", "botorch", "optuna"]
ENGINES: tuple[Engine, ...] = ("gradient", "botorch", "optuna")
LIKELY = 0.5
"""An answer counts as meeting the targets when it is more likely than not."""
SURE = 0.8
"""Answers this sure of the targets are ordered by the other objectives, the rest by their probability."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One point of the predicted front.

    Attributes:
        z: ``(latent,)``, finite.
        point: predicted metrics by name (all that the map knows).
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets are met; ``None`` without targets.
        nearest: real checkpoints, nearest first, with measured metrics.
    """

    z: Tensor
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        answers: the predicted front; those sure of the targets first, by how far they push the other objectives.
        objectives: what was searched for.
        targets: what had to be met.
        engine: which engine searched.
        level: coverage of the intervals.
        met: whether any answer is more likely than not to meet all targets.
        n_candidates: points that were judged.
        measured_meeting: real checkpoints whose *measured* metrics meet all targets, best first.
        seconds: what the search took.
    """

    answers: tuple[Answer, ...]
    objectives: tuple[Objective, ...]
    targets: tuple[Target, ...]
    engine: Engine
    level: float
    met: bool
    n_candidates: int
    measured_meeting: tuple[Checkpoint, ...]
    seconds: float


def search(
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    targets: Sequence[Target] = (),
    *,
    engine: Engine = "gradient",
    limit: int = 8,
    neighbours: int = 3,
    level: float = 0.9,
    seed: int = 0,
) -> SearchResult:
    """Search the trust region of a fitted map.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's checkpoints; those that the map was trained on make the trust region.
        objectives: what to push.
        targets: what must hold first; the other objectives are pushed as far as they go.
        engine: ``gradient`` (many starts at once), ``botorch`` (qLogNEHVI) or ``optuna`` (NSGA-II).
        limit: at most so many answers, spread over the front.
        neighbours: real checkpoints named with each answer.
        level: coverage of the intervals.
        seed: the same seed gives the same answers.

    Returns:
        The front over lower confidence bounds, with everything an answer must carry (D6).

    Raises:
        UsageError: unknown engine, no objective, a limit below one, or the map knows none of the checkpoints.
    """
    started = time.monotonic()
    candidates_of = _engine(engine)
    if not objectives:
        raise UsageError("there is no objective to search for: name one in epsopt.toml, as [objectives.NAME]")
    if limit < 1 or neighbours < 1:
        raise UsageError("the number of answers and of nearest checkpoints must be at least 1")
    scorer = TargetScorer(surrogate, tuple(objectives), tuple(targets))
    latents, known = known_latents(surrogate, checkpoints)
    region = trust_region(latents, np.array([c.run_id for c in known]))
    candidates = torch.cat([candidates_of(scorer, region, seed).float(), latents])
    with torch.no_grad():
        mean, deviation = scorer.posterior_moments(candidates)
        probability = scorer.log_probability(mean, deviation).exp().numpy()
        bounds = scorer.lower_bound(mean, deviation)
    chosen, met = _front(bounds, probability, scorer, limit)
    meeting = _measured_meeting(checkpoints, scorer)
    on_map = {c.sha256 for c in known}
    proofs = [c for c in meeting if c.sha256 in on_map]
    chosen = _with_proof(chosen, candidates, latents, known, proofs, limit)
    prediction = surrogate.predict(candidates[chosen], level)
    near = nearest(candidates[chosen], latents, known, neighbours)
    names = surrogate.metric_names

    def named(row: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(v) for name, v in zip(names, row, strict=True)}

    answers = [
        Answer(
            z=candidates[i],
            point=named(prediction.point[r]),
            low=named(prediction.low[r]),
            high=named(prediction.high[r]),
            probability=float(probability[i]) if targets else None,
            nearest=tuple(near[r]),
        )
        for r, i in enumerate(chosen)
    ]
    if targets:
        order = _best_first(bounds[chosen], probability[chosen], scorer)
        answers = [answers[i] for i in order]
    return SearchResult(
        tuple(answers), scorer.objectives, scorer.targets, engine, level, met, len(candidates),
        tuple(meeting), time.monotonic() - started,
    )  # fmt: skip


def known_latents(
    surrogate: Surrogate, checkpoints: Sequence[Checkpoint], *, of_runs: bool = False
) -> tuple[Tensor, list[Checkpoint]]:
    """Return the latents of those catalogue checkpoints that the map was trained on, and the checkpoints.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.
        of_runs: what several runs share is given for each of them, for whoever looks at whole runs; otherwise once
            (:func:`epsopt.zoo.catalogue.types.each_content_once`).

    Raises:
        UsageError: it was trained on none of them.
    """
    place = {key: i for i, key in enumerate(surrogate.memory.keys)}
    known = [c for c in checkpoints if c.sha256 in place]
    known = known if of_runs else each_content_once(known)
    if not known:
        raise UsageError("the fitted map knows none of the catalogue's checkpoints: run 'epsopt fit' again")
    return surrogate.memory.latents[[place[c.sha256] for c in known]], known


def _engine(name: str) -> Callable[[TargetScorer, TrustRegion, int], Tensor]:
    if name == "gradient":
        from epsopt.optimize.latent.engines.gradient import gradient_candidates

        return gradient_candidates
    if name == "botorch":
        from epsopt.optimize.latent.engines.bayesian import bayesian_candidates

        return bayesian_candidates
    if name == "optuna":
        from epsopt.optimize.latent.engines.evolutionary import evolutionary_candidates

        return evolutionary_candidates
    raise UsageError(f"there is no search engine {name!r}, known: {', '.join(ENGINES)}")


def _front(
    bounds: NDArray[np.float64], probability: NDArray[np.float64], scorer: TargetScorer, limit: int
) -> tuple[list[int], bool]:
    """Rows of the front over lower bounds, at most ``limit`` of them, and whether the targets are likely met."""
    rows = np.flatnonzero(probability >= LIKELY)
    met = len(rows) > 0
    if not met:  # the most probable ones, so that the user sees how near it gets
        rows = np.argsort(-probability, kind="stable")[: max(limit, len(probability) // 20)]
    front = rows[non_dominated(bounds[rows], [o.maximize for o in scorer.objectives]).indices]
    if len(front) <= limit:
        return front.tolist(), met
    # Farthest-first over the front, in units of its own extent, from the most probable point on.
    scaled = bounds[front] / np.maximum(np.ptp(bounds[front], axis=0), 1e-12)
    picked = [int(np.argmax(probability[front]))]
    distance = np.linalg.norm(scaled - scaled[picked[0]], axis=1)
    while len(picked) < limit:
        picked.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[picked[-1]], axis=1))
    return [int(front[i]) for i in picked], met


def _best_first(bounds: NDArray[np.float64], probability: NDArray[np.float64], scorer: TargetScorer) -> list[int]:
    """Order answers: first those sure of the targets, the one that pushes the other objectives furthest on top."""
    wanted = {t.name for t in scorer.targets}
    others = [j for j, o in enumerate(scorer.objectives) if o.name not in wanted]
    turned = bounds[:, others] * np.where([scorer.objectives[j].maximize for j in others], 1.0, -1.0)
    push = (turned / np.maximum(np.ptp(turned, axis=0), 1e-12)).sum(axis=1) if others else probability
    sure = probability >= SURE
    return sorted(range(len(bounds)), key=lambda i: (not sure[i], -push[i] if sure[i] else -probability[i]))


def _measured_meeting(checkpoints: Sequence[Checkpoint], scorer: TargetScorer) -> list[Checkpoint]:
    """Real checkpoints that meet all targets by measurement: the non-dominated ones first."""
    if not scorer.targets:
        return []
    meeting = [
        c
        for c in checkpoints
        if meets({k: v for k, v in c.metrics.items() if v is not None}, scorer.targets, scorer.objectives)
    ]
    table = measured_table([c.metrics for c in meeting], scorer.objectives)
    front = non_dominated(table, [o.maximize for o in scorer.objectives]).indices.tolist() if meeting else []
    on_front = set(front)
    return [meeting[i] for i in front] + [c for i, c in enumerate(meeting) if i not in on_front]


def _with_proof(
    chosen: list[int],
    candidates: Tensor,
    latents: Tensor,
    known: Sequence[Checkpoint],
    meeting: Sequence[Checkpoint],
    limit: int,
) -> list[int]:
    """Make sure that one answer stands next to a checkpoint that measurably meets the targets, if there is one."""
    if not meeting:
        return chosen
    proven = {c.sha256 for c in meeting}
    near = nearest(candidates[chosen], latents, known, 1)
    if any(n[0].sha256 in proven for n in near):
        return chosen
    place = [c.sha256 for c in known].index(meeting[0].sha256)
    return [*chosen[: limit - 1], len(candidates) - len(latents) + place]
