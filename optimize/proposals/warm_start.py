"""Guided initialisation: which checkpoint should the next run start from, with which hyperparameters.

The seeds ask for this as "where would I want to start" (epsilon_vae.md, guided initialisation). Where training leads
from there is asked of the model that chooses every other run (:mod:`~epsopt.optimize.schedule.run_model`), with its
corrections of chosen runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from epsopt.optimize.planned_epochs import config_with_epochs, length_parameter
from epsopt.optimize.proposals.proposals import Floats, History, LearnedHistory, draw_configs
from epsopt.optimize.schedule import run_acquisition
from epsopt.optimize.schedule.run_acquisition import Candidate, optimize_acquisition
from epsopt.optimize.space import Config
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

CONFIGS = 128
"""Configurations that are weighed with each start."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run could start.

    Attributes:
        label: what it is called.
        metrics: measured, or predicted where it was not evaluated.
        measured: whether they were measured.
        kind: ``base``, ``checkpoint`` or ``merge``.
        checkpoint: the real checkpoint; None for a merge.
        parents: the real checkpoints of a merge with their coefficients.
    """

    label: str
    metrics: Mapping[str, float]
    measured: bool
    kind: str
    checkpoint: Checkpoint | None = None
    parents: tuple[tuple[Checkpoint, float], ...] = ()

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The real checkpoints that it is, or is made of."""
        return [self.checkpoint] if self.checkpoint is not None else [c for c, _ in self.parents]

    @property
    def trained(self) -> int:
        """Epochs of training behind it, as far as its checkpoint or its parents say."""
        return max((c.epoch or 0 for c in self.checkpoints), default=0)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A run from a start, and what it is predicted to reach.

    Attributes:
        start: where it starts.
        params: its hyperparameters, active ones only.
        fixed: constants of the past runs that it should get besides.
        epochs: how long it trains.
        point: predicted metrics at its end, by name.
        low: lower ends of their intervals.
        high: upper ends.
        probability: that all targets hold at its end, the product over single targets; None without targets.
        joins_front: probability that one of its checkpoints joins the measured front.
        gain: hypervolume that it is expected to add, in the product of the objectives' units.
        beyond: epochs behind it at its end, the start's own included, where no past run was trained for as many: it
            is predicted from what shorter training led to; None otherwise.
    """

    start: Start
    params: Config
    fixed: Mapping[str, Any]
    epochs: int
    point: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    probability: float | None
    joins_front: float
    gain: float
    beyond: int | None


def plan_runs(
    learned: LearnedHistory, starts: Sequence[Start], *, epochs: int, kept: Sequence[str] = (), seed: int = 0
) -> list[WarmStart]:
    """Choose starts and hyperparameters for the next run.

    Args:
        learned: what past runs say (:func:`epsopt.optimize.proposals.proposals.learn_history`), with the targets.
        starts: where runs could start.
        epochs: how long the run may train.
        kept: hyperparameters that a run from a start has as that start has them, such as those of the architecture:
            weights fit into no other network.
        seed: of the configurations that are weighed.

    Returns:
        The best plan of each start; first the one that is expected to widen the front most, of those that nothing is
        expected of the one that most probably meets the targets.

    Raises:
        UsageError: no start, or less than one epoch.
    """
    if not starts or epochs < 1:
        raise UsageError("planning a run needs a start and at least one epoch")
    history = learned.history
    rng = np.random.default_rng(seed)
    new, ran = draw_configs(history, CONFIGS, rng, ())
    curves = list(history.curves.values())
    longest = max(float(c.steps[-1]) for c in curves)
    by = length_parameter(history.space, [c.config for c in curves], [c.steps[-1] for c in curves])
    exactly = {} if by is None else {by: epochs}  # as was asked for, also where no past run was as long
    configs = [config_with_epochs(history.space, c, by, epochs) for c in [*new, *ran][:CONFIGS]]
    plans = []
    for start in starts:
        candidate, gain = _best(learned, start, configs, epochs, kept, np.random.default_rng(seed))
        proposal = learned.explain(candidate, gain)
        whole = start.trained + epochs
        plans.append(
            WarmStart(
                start, {**proposal.params, **exactly}, proposal.fixed, epochs, proposal.point, proposal.low,
                proposal.high, proposal.probability, proposal.joins_front, gain, whole if whole > longest else None,
            )
        )  # fmt: skip
    plans.sort(key=lambda p: (-p.gain, -(p.probability or 0.0), -p.joins_front))
    return plans


def _best(
    learned: LearnedHistory,
    start: Start,
    configs: Sequence[Config],
    epochs: int,
    kept: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Candidate, float]:
    """The configuration that is worth most from a start, and what it is expected to add."""
    history, model = learned.history, learned.model
    key = "" if start.kind == "base" else start.label
    own = start.checkpoints[0].hyperparameters if start.checkpoints else {}
    fixed = {n: own[n] for n in kept if n in own}
    begin = run_acquisition.Start(key, _values(history, start.metrics), fixed, start.label)
    pool = [Candidate(_with(history, c, fixed, rng), begin, float(epochs)) for c in configs]
    pushed = [history.pushed(c) for c in pool]
    (choice,) = optimize_acquisition(
        model.curves, pool=pushed, reference=learned.reference, rng=rng,
        reliability=lambda c: model.support.weight(c.config),
    )  # fmt: skip
    place = next(i for i, c in enumerate(pushed) if c is choice.candidate)
    if choice.improvement <= 0.0:
        place = max(range(len(pool)), key=lambda i: learned.meets(pool[i]) * model.support.weight(pool[i].config))
        return pool[place], 0.0
    kind = "branch" if key else "run"
    return pool[place], choice.alone * model.calibration.gain(kind) * model.support.weight(pool[place].config)


def _values(history: History, metrics: Mapping[str, float]) -> Floats:
    names = [*(o.name for o in history.objectives), *history.metrics]
    return np.array([metrics.get(n, np.nan) for n in names], dtype=np.float64)


def _with(history: History, config: Config, fixed: Mapping[str, Any], rng: np.random.Generator) -> Config:
    """The configuration with what its start has fixed."""
    if not fixed:
        return config
    return history.space.given({**history.space.perturb({**config, **fixed}, rng, 0.0), **fixed})
