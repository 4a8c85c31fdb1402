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

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer
from epsopt.optimize.latent.neighbours import Neighbour, nearest
from epsopt.optimize.latent.trust_region import TrustRegion, trust_region
from epsopt.optimize.objectives import Objective, Objectives, Target, measured_table, meets
from epsopt.optimize.pareto import non_dominated
from epsopt.surrogate.nearest import nearest_rows
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint, each_content_once
from epsopt.zoo.errors import UsageError

Engine = Literal["gradient", "botorch", "optuna"]
ENGINES: tuple[Engine, ...] = ("gradient", "botorch", "optuna")
LIKELY = 0.5
"""An answer counts as meeting the targets when it is more likely than not."""
SURE = 0.8
"""Answers this sure of the targets are ordered by the other objectives, the rest by their probability."""

_SAME = 0.01  # of the extent of all likely answers: what is no farther apart in any objective is one answer
_NEGLIGIBLE = 0.01  # of the best probability, where no answer meets the targets: what is below does not come near


@dataclass(frozen=True, eq=False)
class Answer:
    """One point of the predicted front.

    Attributes:
        z: ``(latent,)``, finite.
        point: predicted metrics by name (all that the map knows).
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets are met, the product over single targets; ``None`` without targets.
        nearest: real checkpoints, nearest first, with measured metrics.
        way: ``(k, latent)`` points that the search came through, ``z`` last; ``z`` alone where the engine does not
            climb, or the answer is a real checkpoint's own place.
    """

    z: Tensor
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    nearest: tuple[Neighbour, ...]
    way: Tensor

    def _repr_html_(self) -> str:
        """Show it in a notebook: predicted beside measured on the nearest checkpoint."""
        from epsopt.zoo.html_text import html_table

        near = self.nearest[0] if self.nearest else None
        sure = "" if self.probability is None else f", P {self.probability:.2f}"
        where = "" if near is None else f"{near.run}{'' if near.epoch is None else f', epoch {near.epoch}'}"
        rows = [
            [
                n,
                f"{v:.4g}",
                f"{self.low[n]:.4g} to {self.high[n]:.4g}",
                _shown(None if near is None else near.metrics.get(n)),
            ]
            for n, v in self.point.items()
        ]
        heads = ["metric", "predicted", "interval", f"measured on {where}" if where else "measured"]
        return html_table(f"A predicted answer, not evaluated{sure}", heads, rows)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        answers: the predicted front and what may be on it, no two nearest to the same real checkpoint; those sure of
            the targets first, by how far they push the other objectives. Fewer than asked for where there are no more.
        objectives: what was searched for.
        targets: what had to be met.
        engine: which engine searched.
        level: coverage of the intervals.
        targets_met: whether any answer is more likely than not to meet all targets.
        n_candidates: points that were judged.
        measured_meeting_targets: real checkpoints whose *measured* metrics meet all targets, best first.
        seconds: what the search took.
    """

    answers: tuple[Answer, ...]
    objectives: tuple[Objective, ...]
    targets: tuple[Target, ...]
    engine: Engine
    level: float
    targets_met: bool
    n_candidates: int
    measured_meeting_targets: tuple[Checkpoint, ...]
    seconds: float

    def _repr_html_(self) -> str:
        """Show it in a notebook: each answer with its intervals, and the nearest checkpoint as it was measured."""
        from epsopt.zoo.html_text import html_table

        names = [o.name for o in self.objectives]
        rows = []
        for i, a in enumerate(self.answers, 1):
            near = a.nearest[0]
            sure = "predicted" if a.probability is None else f"predicted, P {a.probability:.2f}"
            rows.append([str(i), sure, *(f"{a.point[n]:.4g} [{a.low[n]:.4g}, {a.high[n]:.4g}]" for n in names)])
            measured = near.run if near.epoch is None else f"{near.run}, epoch {near.epoch}"
            rows.append(["", f"{measured}, measured", *(_shown(near.metrics.get(n)) for n in names)])
        asked = ", ".join(f"{t.name} {t.value:g}" for t in self.targets)
        caption = f"{len(self.answers)} predicted answers{f' for the targets {asked}' if asked else ''}, not evaluated"
        caption += "; P is the product over single targets" if len(self.targets) > 1 else ""
        return html_table(caption, ["", "", *names], rows)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


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
        limit: at most so many answers, spread over the front, each nearest to another real checkpoint.
        neighbours: real checkpoints named with each answer.
        level: coverage of the intervals.
        seed: the same seed gives the same answers.

    Returns:
        The front over lower confidence bounds, with everything an answer must carry.

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
    latents, known = learned_latents(surrogate, checkpoints)
    region = trust_region(latents, np.array([c.run_id for c in known]))
    ways = candidates_of(scorer, region, seed).float()
    candidates = torch.cat([ways[:, -1], latents])
    probability = scorer.probability(candidates).numpy()
    with torch.no_grad():
        mean, deviation = scorer.posterior_moments(candidates)
        bounds, hopes = scorer.lower_bound(mean, deviation), scorer.upper_bound(mean, deviation)
    nearest_known = nearest_rows(candidates, latents)[1].numpy()
    met = bool((probability >= LIKELY).any())
    if met:
        chosen = spread_answers(bounds, hopes, probability, nearest_known, scorer, limit)
    else:
        chosen = _most_probable(probability, nearest_known, limit)
    meeting = _measured_meeting(checkpoints, scorer)
    on_map = {c.sha256 for c in known}
    proofs = [c for c in meeting if c.sha256 in on_map]
    chosen = _with_proof(chosen, candidates, latents, known, proofs, limit)
    prediction = surrogate.predict(candidates[chosen], level)
    around = (latents, known) if surrogate.memory.learned is None else known_latents(surrogate, checkpoints)
    near = nearest(candidates[chosen], *around, neighbours)
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
            way=ways[i] if i < len(ways) else candidates[i : i + 1],
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


def learned_latents(surrogate: Surrogate, checkpoints: Sequence[Checkpoint]) -> tuple[Tensor, list[Checkpoint]]:
    """As :func:`known_latents`, without checkpoints of which a far-out value was set aside: no region goes around them.

    What such a checkpoint measured was not learned, so that the map takes its place for an ordinary one. Neither are
    those among them that a map of a large catalogue only holds: intervals were calibrated on what it was learned from,
    and a search looks at every checkpoint of the region at every step.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's.

    Returns:
        Latents and checkpoints; all known ones where nothing else is left.

    Raises:
        UsageError: the map was trained on none of them.
    """
    latents, known = known_latents(surrogate, checkpoints)
    memory = surrogate.memory
    aside = (memory.far_out & memory.metrics.isnan()).any(dim=1).numpy()
    lost = {key for key, out in zip(memory.keys, aside.tolist(), strict=True) if out}
    lost.update(memory.keys[memory.n_learned :])
    rows = [i for i, c in enumerate(known) if c.sha256 not in lost]
    return (latents[rows], [known[i] for i in rows]) if lost and rows else (latents, known)


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


def spread_answers(
    bounds: NDArray[np.float64],
    hopes: NDArray[np.float64],
    probability: NDArray[np.float64],
    nearest_known: NDArray[np.int64],
    scorer: TargetScorer,
    limit: int,
) -> list[int]:
    """Choose answers that likely meet the targets: from the front over lower bounds, then what may be on the front.

    Farthest-first, in units of the front's own extent, from the most probable point on; of points that are nearest to
    one real checkpoint the first stands for all, and so it does of points that are predicted to measure the same.
    """
    maximize = Objectives(scorer.objectives).maximize
    rows = np.flatnonzero(probability >= LIKELY)
    front = rows[non_dominated(bounds[rows], maximize).indices]
    turned = np.where(maximize, 1.0, -1.0)
    surely_worse = np.zeros(len(rows), dtype=bool)
    for i in front:
        surely_worse |= (bounds[i] * turned >= hopes[rows] * turned).all(axis=1)
    scaled = bounds / np.maximum(np.ptp(bounds[front], axis=0), 1e-12)
    width = np.maximum(np.ptp(bounds[rows], axis=0), 1e-12)
    same = np.zeros(len(bounds), dtype=bool)
    picked: list[int] = []
    distance = np.full(len(bounds), np.inf)
    for pool in (front, rows[~surely_worse]):
        free = pool[~np.isin(nearest_known[pool], nearest_known[picked]) & ~same[pool]]
        while len(free) and len(picked) < limit:
            best = int(free[np.argmax(distance[free] if picked else probability[free])])
            picked.append(best)
            distance = np.minimum(distance, np.linalg.norm(scaled - scaled[best], axis=1))
            same |= (np.abs(bounds - bounds[best]) <= _SAME * width).all(axis=1)
            free = free[(nearest_known[free] != nearest_known[best]) & ~same[free]]
    return picked


def _most_probable(probability: NDArray[np.float64], nearest_known: NDArray[np.int64], limit: int) -> list[int]:
    """Choose the points that come nearest to meeting the targets, each nearest to another real checkpoint."""
    order = np.argsort(-probability, kind="stable")
    kept = order[np.sort(np.unique(nearest_known[order], return_index=True)[1])]
    return [int(i) for i in kept[:limit] if probability[i] >= _NEGLIGIBLE * probability[order[0]]]


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
    front = Objectives(scorer.objectives).front(table).tolist() if meeting else []
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
