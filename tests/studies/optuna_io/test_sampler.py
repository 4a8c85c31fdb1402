from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from epsopt.optimize.pareto import hypervolume
from epsopt.studies.optuna_io.sampler import EpsilonSampler
from epsopt.studies.optuna_io.study_space import space_of
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, UsageError

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestOptunasOwnConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: EpsilonSampler(seed=0)


def trade_off(trial: optuna.Trial) -> tuple[float, float]:
    """Half a circle that only one kind can reach; the other kind has a parameter of its own."""
    kind = trial.suggest_categorical("kind", ["round", "flat"])
    x = trial.suggest_float("x", 0.0, 1.0)
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    loss = abs(np.log10(lr) + 2.0) / 2.0
    if kind == "flat":
        return 0.3 * trial.suggest_float("height", 0.0, 1.0), 0.3
    angle = x * np.pi / 2
    return float(np.cos(angle) * (1 - 0.5 * loss)), float(np.sin(angle) * (1 - 0.5 * loss))


def reached(sampler: BaseSampler, trials: int = 18) -> float:
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    study.optimize(trade_off, n_trials=trials)
    return hypervolume(np.array([t.values for t in study.trials]), np.zeros(2), [True, True])


def test_it_beats_random_search_on_a_conditional_trade_off() -> None:
    ours = reached(EpsilonSampler(seed=0))
    random = np.mean([reached(optuna.samplers.RandomSampler(seed=s)) for s in range(6)])
    assert ours > random + 0.05


def test_a_parameter_that_only_one_kind_has_is_conditional() -> None:
    space = space_of(
        {
            "kind": CategoricalDistribution(["a", "b"]),
            "depth": IntDistribution(1, 4),
            "x": FloatDistribution(0.0, 1.0),
            "whim": FloatDistribution(0.0, 1.0),
        },
        [
            {"kind": "a", "depth": 1},
            {"kind": "b", "x": 0.5, "depth": 2, "whim": 0.1},
            {"kind": "b", "x": 0.1, "depth": 3},
        ],
    )
    assert {p.name: p.active_when for p in space.parameters} == {
        "kind": None,
        "depth": None,
        "x": ("kind", ("b",)),
    }


def test_a_parameter_of_a_conditional_choice_depends_on_that_choice() -> None:
    space = space_of(
        {n: CategoricalDistribution([0, 1]) for n in ("a", "b")} | {"c": FloatDistribution(0.0, 1.0)},
        [{"a": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1, "c": 0.5}],
    )
    assert [p.active_when for p in space.parameters] == [None, ("a", (1,)), ("b", (1,))]


def test_constraints_are_kept_to() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_constraint("below half", x - 0.5)
        return x

    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(seed=0))
    study.optimize(objective, n_trials=18)
    later = [t.params["x"] for t in study.trials[10:]]
    assert np.mean([x <= 0.6 for x in later]) > 0.7
    assert max(t.params["x"] for t in study.trials if t.params["x"] <= 0.5) > 0.45


def test_what_other_workers_run_is_not_suggested_again() -> None:
    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(seed=0))
    study.optimize(lambda t: -((t.suggest_float("x", 0.0, 1.0) - 0.3) ** 2), n_trials=10)
    under_way = [study.ask({"x": FloatDistribution(0.0, 1.0)}).params["x"] for _ in range(4)]
    assert len({round(x, 3) for x in under_way}) == 4


def test_the_same_seed_suggests_the_same() -> None:
    def run() -> list[float]:
        study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=3))
        study.optimize(lambda t: t.suggest_float("x", 0.0, 1.0), n_trials=10)
        return [t.params["x"] for t in study.trials]

    assert run() == run()


def test_a_study_of_six_objectives_is_served() -> None:
    study = optuna.create_study(directions=["minimize"] * 6, sampler=EpsilonSampler(seed=0))
    study.optimize(lambda t: [(t.suggest_float("x", 0.0, 1.0) - i / 6) ** 2 for i in range(6)], n_trials=10)
    assert len(study.trials) == 10


def test_failed_trials_are_passed_over() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0, n_startup_trials=2))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        return float("nan") if trial.number % 2 else x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_trials=8)
    assert sum(t.state is optuna.trial.TrialState.COMPLETE for t in study.trials) == 4


def slow_start(trial: optuna.Trial, *, pruned: bool) -> float:
    """A loss that falls from 10 to its end, which x decides; pruned trials stop a third of the way."""
    end = (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2
    for step in range(9):
        trial.report(10 - (10 - end) * (step + 1) / 9, step)
        if pruned and step == 2:
            raise optuna.TrialPruned
    return end


@pytest.mark.usefixtures("whole_effort_here")
def test_what_pruned_trials_reported_is_learned_and_not_taken_for_their_end() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0))
    for i, x in enumerate(np.linspace(0.0, 1.0, 12)):
        study.enqueue_trial({"x": float(x)})
        study.optimize(lambda t, i=i: slow_start(t, pruned=i % 2 == 0), n_trials=1)
    sampler, trials = EpsilonSampler(seed=0), study.trials
    space = space_of(trials[0].distributions, [t.params for t in trials])
    done = [t for t in trials if t.state is optuna.trial.TrialState.COMPLETE]
    pruned = [t for t in trials if t.state is optuna.trial.TrialState.PRUNED]
    curves, _ = sampler.curves_of(space, sampler.objectives_of(study), done + pruned)
    assert [(len(c.steps), round(float(c.steps[-1]), 3)) for c in curves] == [(3, 0.333), (9, 1.0)] * 6
    assert curves[1].values[-1, 0] == done[0].value
    only_ends, _ = sampler.curves_of(space, sampler.objectives_of(study), done)
    assert [len(c.steps) for c in only_ends] == [1] * 6
    assert abs(study.ask({"x": FloatDistribution(0.0, 1.0)}).params["x"] - 0.3) < 0.15


def test_workers_in_threads_share_a_study() -> None:
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=EpsilonSampler(seed=0, n_startup_trials=4))
    study.optimize(trade_off, n_trials=8, n_jobs=2)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 8
    # Whole configurations: two of them may well lie on the same edge of the range of x.
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 8


def test_a_catalogue_that_is_not_there_is_said_and_not_made(tmp_path) -> None:
    with pytest.raises(EmptyCatalogue, match="epsopt ingest"):
        EpsilonSampler(catalogue=f"sqlite:///{tmp_path / 'typo.db'}")
    assert not (tmp_path / "typo.db").exists()


class Runs:
    """A catalogue of ten runs of five epochs, whose values grow with lr and fall with width."""

    def checkpoints(self) -> list[Checkpoint]:
        rng = np.random.default_rng(0)
        out = []
        for run in range(10):
            config = {"lr": float(10 ** rng.uniform(-3, -1)), "width": float(rng.uniform(0, 1)), "note": "x"}
            for epoch in range(1, 6):
                grown = 1 - 0.5**epoch
                metrics = {"fit": grown * (3 + np.log10(config["lr"])) / 2, "speed": 1 - config["width"] * grown}
                path, key = f"/runs/{run}/{epoch}.pt", f"{run}-{epoch}"
                out.append(Checkpoint(run, run, f"run {run}", path, key, epoch, metrics, config, "s", 1, 10))
        return out


SPACE = {"lr": FloatDistribution(1e-3, 1e-1, log=True), "width": FloatDistribution(0.0, 1.0)}


@pytest.mark.parametrize("n_recorded", [0, 1])
def test_earlier_runs_of_a_catalogue_are_known_from_the_first_trial(n_recorded: int) -> None:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=EpsilonSampler(catalogue=Runs(), seed=0))
    study.set_metric_names(["fit", "speed"])
    for _ in range(n_recorded):
        study.add_trial(optuna.create_trial(params={"lr": 0.01, "width": 0.5}, distributions=SPACE, values=[0.5, 0.5]))
    suggested = study.ask(SPACE).params
    assert suggested["lr"] > 0.05
    assert suggested["width"] < 0.3


def test_a_catalogue_without_names_of_the_objectives_is_refused_in_one_sentence() -> None:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=EpsilonSampler(catalogue=Runs()))
    study.add_trial(optuna.create_trial(params={"lr": 0.01, "width": 0.5}, distributions=SPACE, values=[0.5, 0.5]))
    with pytest.raises(UsageError, match="set_metric_names"):
        study.ask(SPACE)


def test_names_that_are_too_few_are_refused_in_one_sentence() -> None:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=EpsilonSampler(metrics=["fit"]))
    study.add_trial(optuna.create_trial(params={"lr": 0.01, "width": 0.5}, distributions=SPACE, values=[0.5, 0.5]))
    with pytest.raises(UsageError, match="2 objectives"):
        study.ask(SPACE)
