"""Proposals: the next training runs, as hyperparameters.

``h`` maps hyperparameters to the z that a run ends at: Gaussian processes on the leading principal components of the
past runs' final z, seeing inactive conditional parameters masked. ``g`` is the map's own z -> metrics. The batch
maximises qLogNEHVI through ``g(h(x))`` (composite Bayesian optimisation, Astudillo and Frazier 2019; qLogNEHVI: Daulton
et al. 2021, Ament et al. 2023) over valid configurations only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf_discrete
from numpy.typing import NDArray
from torch import Tensor

from epsopt.optimize.acquisition.confidence_bounds import TargetScorer, measured_table
from epsopt.optimize.acquisition.noisy_ehvi import noisy_improvement
from epsopt.optimize.forecast.censored_runs import expected_end
from epsopt.optimize.forecast.hyperparameter_model import Forecast, fit_forecast
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.optimize.objectives import Objective, Objectives, Target
from epsopt.optimize.outliers import bulk
from epsopt.optimize.proposals.checkpoint_restart import Branch, best_branches, predict_branch
from epsopt.optimize.space import Config, Key, Space
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import EmptyCatalogue, UsageError

_RANDOM = 384
_LOCAL = 256
_SAMPLES = 64
_ROUGH_SAMPLES = 16
_SHORTLIST = 96
FEWEST_RUNS = 8
"""With fewer, a Gaussian process over a dozen hyperparameters says nothing."""
_MOST_PENDING = 32
_ROUNDS = 32
"""Of random configurations, where the first ones hold too few that are new."""


@dataclass(frozen=True, eq=False)
class PastRun:
    """A run to learn from.

    Attributes:
        name: the run's name.
        config: its hyperparameters.
        z: ``(latent,)`` of its last checkpoint, finite; of a censored run, what its end is expected to be.
        metrics: measured metrics of its last checkpoint; none for one that was cut off: it measured no end.
        finished: whether it was not cut off.
        run_id: id of the run in its catalogue; -1 where it is in none.
    """

    name: str
    config: Mapping[str, Any]
    z: Tensor
    metrics: dict[str, float | None]
    finished: bool = True
    run_id: int = -1


def past_runs(surrogate: Surrogate, checkpoints: Sequence[Checkpoint], cut_off: Collection[int] = ()) -> list[PastRun]:
    """Return what each run ended at: its last checkpoint (highest epoch) that the map knows.

    Args:
        surrogate: the fitted map.
        checkpoints: the catalogue's, ordered by run and epoch as it gives them.
        cut_off: ids of runs that did not end by themselves (stopped early, failed, still training): their last
            checkpoint is not taken for their end (:func:`epsopt.optimize.forecast.censored_runs.expected_end`).

    Returns:
        One past run for each run that was trained, in the order of the checkpoints; none for a run that was cut off
        where too few others tell how it would have gone on.

    Raises:
        UsageError: the map knows none of the checkpoints.
    """
    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    last = {c.run_id: i for i, c in enumerate(known) if not is_recombined(c)}
    ends = _ends_of_cut_off(surrogate, known, latents, last, set(cut_off))
    out = []
    for run_id, i in sorted(last.items(), key=lambda pair: pair[1]):
        if run_id not in ends:
            out.append(PastRun(known[i].run, known[i].hyperparameters, latents[i], known[i].metrics, run_id=run_id))
        elif (end := ends[run_id]) is not None:
            out.append(PastRun(known[i].run, known[i].hyperparameters, end, {}, finished=False, run_id=run_id))
    return out


def _ends_of_cut_off(
    surrogate: Surrogate,
    known: Sequence[Checkpoint],
    latents: Tensor,
    last: Mapping[int, int],
    cut_off: set[int],
) -> dict[int, Tensor | None]:
    """Expected ends by the run's id."""
    if not cut_off & last.keys():
        return {}
    rows = [i for i, c in enumerate(known) if c.run_id in last and not is_recombined(c)]
    ids = list(dict.fromkeys(known[i].run_id for i in rows))
    paths = dict(zip(ids, run_paths(surrogate, [known[i] for i in rows], latents[rows]), strict=True))
    finished = [path for run_id, path in paths.items() if run_id not in cut_off]
    return {run_id: expected_end(paths[run_id], finished) for run_id in ids if run_id in cut_off}


@dataclass(frozen=True)
class Proposal:
    """A run to launch next.

    Attributes:
        params: the searched hyperparameters, active ones only.
        fixed: constants of the past runs that it should get besides.
        point: predicted final metrics by name.
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets are met; ``None`` without targets.
        joins_front: probability that no measured checkpoint dominates its end.
        nearest_runs: past runs with the most similar hyperparameters, ``(name, distance)``, nearest first.
        reason: why it was chosen, in one line.
        init_from: path of the checkpoint that it starts from; ``None`` starts from scratch.
    """

    params: Config
    fixed: Mapping[str, Any]
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    joins_front: float
    nearest_runs: tuple[tuple[str, float], ...]
    reason: str
    init_from: str | None = None


def propose(
    surrogate: Surrogate,
    space: Space,
    past: Sequence[PastRun],
    objectives: Sequence[Objective],
    targets: Sequence[Target] = (),
    *,
    n: int = 8,
    level: float = 0.9,
    seed: int = 0,
    avoid: Sequence[Mapping[str, Any]] = (),
    pending: Sequence[Mapping[str, Any]] = (),
    starts: Sequence[Checkpoint] = (),
    tried: Sequence[tuple[str, Mapping[str, Any]]] = (),
    fewer: bool = False,
    measured: NDArray[np.float64] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[Proposal]:
    """Propose the next training runs.

    Args:
        surrogate: the fitted map (``g``).
        space: what may be launched.
        past: past runs; at least eight that ended by themselves and whose configuration lies in the space.
        objectives: what to push.
        targets: become constraints.
        n: how many proposals.
        level: coverage of the intervals.
        seed: the same seed proposes the same.
        avoid: configurations besides those of past runs that shall not be proposed again from scratch.
        pending: configurations that run or wait, whose outcome is unknown: the batch keeps its distance from them.
        starts: checkpoints that half of the runs may start from, more where the space holds too few new
            configurations; the map knows them.
        tried: runs from checkpoints that shall not be proposed again: the start's content hash, hyperparameters.
        fewer: whether to return what there is where that is less than ``n``.
        measured: ``(k, objectives)`` what was measured on any checkpoint, in the metrics' own units, NaN where it was
            not: the front that proposals are to improve. By default only what past runs ended at.
        progress: called as ``progress(what, share done)``.

    Returns:
        ``n`` different runs that were not tried, the most valuable first, those that start from checkpoints last.

    Raises:
        EmptyCatalogue: too few usable past runs.
        UsageError: ``n`` below one, a level outside (0, 1), or fewer than ``n`` new runs are found; with ``fewer``,
            none is.
    """
    if n < 1:
        raise UsageError(f"the number of proposals is {n}, expected at least 1")
    if not 0.0 < level < 1.0:
        raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
    usable = [r for r in past if space.accepts(r.config)]
    whole = sum(r.finished for r in usable)
    if whole < FEWEST_RUNS:
        raise EmptyCatalogue(
            f"proposals learn from past runs: {whole} of the catalogue's runs have every hyperparameter of the search "
            f"space and were not cut off, at least {FEWEST_RUNS} are needed; ingest more runs, or start with a random "
            "sweep"
        )
    for objective in objectives:
        if all(r.metrics.get(objective.name) is None for r in usable):
            raise EmptyCatalogue(
                f"no run's last checkpoint has a measured {objective.name}, so nothing is known of where runs end: "
                "measure it there, or leave it out of the objectives in epsopt.toml"
            )
    say = progress or (lambda _what, _share: None)
    scorer = TargetScorer(surrogate, tuple(objectives), tuple(targets))
    rng = np.random.default_rng(seed)
    say("learning where hyperparameters lead", 0.0)
    forecast = fit_forecast(surrogate, space, usable, seed)
    say("weighing candidates", 0.5)
    candidates, others = draw_candidates(space, usable, scorer, n, rng, avoid)
    front = measured_front(past, scorer, measured)
    branches = _branches(forecast, scorer, space, front, starts, candidates, others, tried, n)
    left = min(n - len(branches), len(candidates))
    found = left + len(branches)
    if found == 0 or (found < n and not fewer):
        kinds = "configurations of the search space" + (" and branches of checkpoints" if starts else "")
        raise UsageError(
            f"found only {found} {kinds} that were not run yet, {n} were asked for: widen the search space"
        )
    outstanding = [c for c in pending if space.accepts(c)]
    picked = _pick(forecast, scorer, space, usable, candidates, outstanding, left, seed) if left else []
    say("weighing candidates", 1.0)
    return [_explain(c, None, forecast, scorer, space, usable, front, level, seed) for c in picked] + [
        _explain(b.config, b, forecast, scorer, space, usable, front, level, seed) for b in branches
    ]


def measured_front(
    past: Sequence[PastRun], scorer: TargetScorer, measured: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """What was measured and nothing else dominates: ``(k, objectives)`` in the metrics' own units.

    A run's best checkpoint is often not its last one, and merged checkpoints belong to no run: `measured` holds them.
    """
    table = measured_table([r.metrics for r in past], scorer.objectives)
    if measured is not None:
        table = np.vstack([table, measured])
    return np.asarray(table[Objectives(scorer.objectives).front(table)])


def draw_candidates(
    space: Space,
    past: Sequence[PastRun],
    scorer: TargetScorer,
    n: int,
    rng: np.random.Generator,
    avoid: Sequence[Mapping[str, Any]],
) -> tuple[list[Config], list[Config]]:
    """Random configurations and neighbours of the measured front's, in turn, all valid and each once.

    Whoever weighs only the first of them weighs both kinds.

    Returns:
        Those that were not run or queued before from scratch, and those that were; fewer than ``n`` new ones only where
        many rounds of random ones hold no more.
    """
    table = measured_table([r.metrics for r in past], scorer.objectives)
    front = Objectives(scorer.objectives).front(table)
    parents = [past[i].config for i in front] or [r.config for r in past]
    drawn = space.sample(max(_RANDOM, 8 * n), rng)
    near = [space.perturb(parents[int(rng.integers(len(parents)))], rng) for _ in range(_LOCAL)]
    pool = [c for pair in zip_longest(near, drawn) for c in pair if c is not None]
    ran = {space.key(config) for config in (*(r.config for r in past), *avoid) if space.accepts(config)}
    new: dict[Key, Config] = {}
    others: dict[Key, Config] = {}
    for _ in range(_ROUNDS):
        for config in pool:
            key = space.key(config)
            (others if key in ran else new).setdefault(key, config)
        if len(new) >= n:
            break
        pool = space.sample(max(_RANDOM, 8 * n), rng)
    return list(new.values()), list(others.values())


def _branches(
    forecast: Forecast,
    scorer: TargetScorer,
    space: Space,
    front: NDArray[np.float64],
    starts: Sequence[Checkpoint],
    new: Sequence[Config],
    others: Sequence[Config],
    tried: Sequence[tuple[str, Mapping[str, Any]]],
    n: int,
) -> list[Branch]:
    """Half of ``n`` runs, from checkpoints, each from another one; more where there are fewer new configurations."""
    seen = {(start, space.key(config)) for start, config in tried if space.accepts(config)}
    branches: list[Branch] = []
    wanted = (n + 1) // 2
    while wanted > 0:
        # What ran from scratch is something else from a checkpoint.
        chosen = best_branches(forecast, scorer, space, starts, [*new, *others], front, wanted, seen)
        if not chosen:
            break
        seen |= {branch.key(space) for branch in chosen}
        branches += chosen
        wanted = n - len(branches) - len(new)
    return branches


def _pick(
    forecast: Forecast,
    scorer: TargetScorer,
    space: Space,
    past: Sequence[PastRun],
    candidates: list[Config],
    pending: Sequence[Mapping[str, Any]],
    n: int,
    seed: int,
) -> list[Config]:
    signs, thresholds, columns = scorer.signs, scorer.thresholds, scorer.columns

    def objective(samples: Tensor) -> Tensor:
        return forecast.metrics(samples)[..., columns] * signs

    def below(place: int) -> Callable[[Tensor], Tensor]:
        return lambda samples: thresholds[place] - signs[place] * forecast.metrics(samples)[..., columns[place]]

    constraints = [below(i) for i, t in enumerate(thresholds.tolist()) if np.isfinite(t)]
    x_past = torch.from_numpy(space.encode([r.config for r in past]))
    x_new = torch.from_numpy(space.encode(candidates))
    table = (
        np.stack(
            [
                [
                    scorer.surrogate.to_scale(o.name, v) if np.isfinite(v) else np.nan
                    for o, v in zip(scorer.objectives, row, strict=True)
                ]
                for row in measured_table([r.metrics for r in past], scorer.objectives)
            ]
        )
        * signs.numpy()
    )
    # One diverged run is not what is just not good enough.
    ends = np.array([bulk(column, maximize=True) for column in table.T])
    low, high = ends[:, 0], ends[:, 1]

    def acquisition(samples: int) -> AcquisitionFunction:
        reference = (low - 0.1 * np.maximum(high - low, 1e-6)).tolist()
        found = noisy_improvement(forecast.model, x_past, objective, reference, constraints, samples=samples, seed=seed)
        if pending:
            found.set_X_pending(torch.from_numpy(space.encode(pending[-_MOST_PENDING:])))
        return found

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # BoTorch suggests input scaling that is already done
        # A rough look at all candidates, then a thorough one at the best: the batch is chosen one by one, and every
        # choice weighs every candidate again.
        rough = acquisition(_ROUGH_SAMPLES)
        values = torch.cat([rough(part.unsqueeze(1)) for part in torch.split(x_new, 64)])
        short = values.topk(min(max(_SHORTLIST, 4 * n), len(candidates))).indices
        chosen, _ = optimize_acqf_discrete(
            acquisition(_SAMPLES), q=n, choices=x_new[short], max_batch_size=64, unique=True
        )
    places = torch.cdist(chosen.double(), x_new[short]).argmin(dim=1)
    return [candidates[i] for i in short[places].tolist()]


def _explain(
    config: Config,
    branch: Branch | None,
    forecast: Forecast,
    scorer: TargetScorer,
    space: Space,
    past: Sequence[PastRun],
    front: NDArray[np.float64],
    level: float,
    seed: int,
) -> Proposal:
    names = scorer.surrogate.metric_names
    samples, low, point, high = (
        forecast.predict(config, level, seed) if branch is None else predict_branch(forecast, branch, level, seed)
    )
    values = samples[:, scorer.columns].numpy()  # in the metrics' own units
    signs: NDArray[Any] = Objectives(scorer.objectives).signs
    turned = values * signs
    dominated = ((front * signs)[None] >= turned[:, None]).all(axis=2).any(axis=1)
    joins = float(1.0 - dominated.mean())
    met: NDArray[np.bool_] | None = None
    if scorer.targets:
        wanted = {t.name: t.value for t in scorer.targets}
        limits = np.array([wanted.get(o.name, -np.inf if o.maximize else np.inf) for o in scorer.objectives])
        met = (turned >= limits * signs).all(axis=1)
    near = nearest_runs(space, config, [(r.name, r.config) for r in past])
    return Proposal(
        params=config,
        fixed=dict(space.fixed),
        point=dict(zip(names, point.tolist(), strict=True)),
        low=dict(zip(names, low.tolist(), strict=True)),
        high=dict(zip(names, high.tolist(), strict=True)),
        probability=None if met is None else float(met.mean()),
        joins_front=joins,
        nearest_runs=near,
        reason=_reason(joins, *near[0], space) if branch is None else branch.why(joins),
        init_from=None if branch is None else branch.start.path,
    )


def nearest_runs(
    space: Space, config: Mapping[str, Any], runs: Sequence[tuple[str, Mapping[str, Any]]], n: int = 3
) -> tuple[tuple[str, float], ...]:
    """Return the runs with the most similar hyperparameters.

    Args:
        space: that describes all of them.
        config: active hyperparameters.
        runs: names and hyperparameters.
        n: how many at most.

    Returns:
        ``(name, distance)``, nearest first; distances are between configurations as the space encodes them.
    """
    if not runs:
        return ()
    distance = np.linalg.norm(space.encode([config]) - space.encode([c for _, c in runs]), axis=1)
    return tuple((runs[i][0], float(distance[i])) for i in np.argsort(distance, kind="stable")[:n])


def _reason(joins: float, run: str, distance: float, space: Space) -> str:
    typical = 0.35 * np.sqrt(len(space.parameters))
    where = f"a variation of {run}" if distance < typical else f"far from every past run (nearest: {run})"
    if joins >= 0.5:
        return f"likely to join the front ({joins:.0%}), {where}"
    return f"may widen the front ({joins:.0%}) where little is known, {where}"
