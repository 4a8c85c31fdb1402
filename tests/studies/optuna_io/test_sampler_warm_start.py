"""The first trials of a study without trials, and a catalogue that knows."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from epsopt.optimize.space import Parameter, Space
from epsopt.studies.optuna_io.sampler import EpsilonSampler
from epsopt.studies.optuna_io.sampler_warm_start import as_asked
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Runs:
    """A catalogue of runs of five epochs: `fit` is best at lr = .01 with adam, whose beta matters; sgd is no good."""

    def __init__(self, n: int = 16) -> None:
        self.n, self.reads = n, 0

    def checkpoints(self) -> list[Checkpoint]:
        self.reads += 1
        return list(checkpoints(self.n))


def checkpoints(n: int) -> Iterator[Checkpoint]:
    rng = np.random.default_rng(0)
    for run in range(n):
        config: dict[str, Any] = {
            "lr": float(10 ** rng.uniform(-4, 0)),
            "width": int(rng.integers(8, 129)),
            "note": "x",
        }
        config["optimizer"] = ["adam", "sgd"][run % 2]
        if config["optimizer"] == "adam":
            config["beta"] = float(rng.uniform(0, 1))
        for epoch in range(1, 6):
            metrics = {"fit": (1 - 0.5**epoch) * fit(config)}
            path, key = f"/runs/{run}/{epoch}.pt", f"{run}-{epoch}"
            yield Checkpoint(run, run, f"run {run:02}", path, key, epoch, metrics, config, "s", 1, 10)


def fit(config: Mapping[str, Any]) -> float:
    near = 1 - abs(np.log10(config["lr"]) + 2) / 2
    return float(near * (0.6 + 0.4 * config["beta"] if config["optimizer"] == "adam" else 0.4))


def script(trial: optuna.Trial) -> float:
    """The catalogue's runs, as somebody writes them: its ranges are wider, one name is new, one is missing."""
    config = {
        "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam", "lion"]),
        "lr": trial.suggest_float("lr", 1e-5, 10.0, log=True),
        "mine": trial.suggest_int("mine", 1, 3),
    }
    if config["optimizer"] == "adam":
        config["beta"] = trial.suggest_float("beta", 0.0, 1.0)
    return fit(config)


def study_with(catalogue: Any, seed: int = 0, **options: Any) -> optuna.Study:
    sampler = EpsilonSampler(catalogue=catalogue, seed=seed, **options)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.set_metric_names(["fit"])
    return study


def first_value(study: optuna.Study) -> float:
    study.optimize(script, n_trials=1)
    return float(study.trials[0].value)


def test_the_first_trial_of_an_empty_study_is_where_the_catalogue_says_that_it_is_good() -> None:
    ours = [first_value(study_with(Runs(), seed)) for seed in range(6)]
    random = [
        first_value(optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed)))
        for seed in range(40)
    ]
    assert min(ours) > np.quantile(random, 0.9)
    assert np.mean(ours) > np.mean(random) + 0.5


def test_without_a_catalogue_the_first_trial_is_random() -> None:
    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(seed=5))
    plain = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=5))
    for s in (study, plain):
        s.optimize(script, n_trials=1)
    assert study.trials[0].params == plain.trials[0].params


def test_trials_that_end_are_learned_from_and_the_plans_forgotten() -> None:
    study = study_with(Runs())
    study.optimize(script, n_trials=3)
    first = study.sampler.warm_start
    assert first.plans == {}
    assert first.learned is None
    assert study.sampler.suggested == {}
    assert set(study.sampler.infer_relative_search_space(study, study.trials[0])) >= {"lr", "mine", "optimizer"}


def test_workers_that_begin_at_once_run_different_configurations_and_read_the_catalogue_once() -> None:
    runs = Runs()
    study = study_with(runs)
    trials = [study.ask() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        values = list(pool.map(script, trials))
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 6
    assert np.mean(values) > 0.6  # random ones: .1
    assert runs.reads == 1


def test_processes_that_share_a_seed_and_see_nothing_of_each_other_plan_one_batch() -> None:
    """Four samplers, all asked before any of them has answered: each knows only that the trials before its own run."""
    study = study_with(Runs())
    numbers = [study.ask().number for _ in range(4)]
    objectives = study.sampler.objectives_of(study)
    one, plans = EpsilonSampler(catalogue=Runs(), seed=0).warm_start, []
    for number in numbers:
        alone = EpsilonSampler(catalogue=Runs(), seed=0).warm_start
        for first in (one, alone):
            first.plan(number, study.get_trials(), objectives)
        plans.append(alone.planned(number))
    assert len({tuple(sorted(p.items())) for p in plans}) == 4
    assert [one.planned(n) for n in numbers] == plans


@pytest.mark.parametrize("failed", [False, True])
def test_what_other_processes_run_or_what_failed_is_not_chosen_again(failed: bool) -> None:
    study = study_with(Runs())
    ask = {
        "optimizer": CategoricalDistribution(["adam", "sgd"]),
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "width": IntDistribution(8, 128),
        "beta": FloatDistribution(0.0, 1.0),
    }
    objectives = study.sampler.objectives_of(study)

    def planned() -> dict[str, Any]:
        first = EpsilonSampler(catalogue=Runs(), seed=0).warm_start
        first.plan(1, study.get_trials(), objectives)
        return first.planned(1)

    alone = planned()
    study.enqueue_trial(alone)
    trial = study.ask({n: d for n, d in ask.items() if n in alone})
    assert trial.params == alone
    if failed:
        study.tell(trial, state=TrialState.FAIL)
    assert planned() != alone


def test_a_script_that_fails_again_and_again_gets_something_else_each_time() -> None:
    study = study_with(Runs())

    def breaks(trial: optuna.Trial) -> float:
        trial.suggest_int("width", 8, 128)
        script(trial)
        raise MemoryError

    study.optimize(breaks, n_trials=4, catch=MemoryError)
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 4
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 4
    assert study.sampler.warm_start.plans == {}


def test_the_same_seed_plans_the_same() -> None:
    first, again = (study_with(Runs(), 3) for _ in range(2))
    for study in (first, again):
        study.optimize(script, n_trials=2)
    assert [t.params for t in first.trials] == [t.params for t in again.trials]


def test_a_declared_space_stands_for_what_the_runs_varied() -> None:
    narrow = Space((Parameter("lr", "float", 1e-4, 1e-3, log=True), Parameter("width", "int", 8, 128)))
    study = study_with(Runs(), space=narrow)
    first = study.ask({"lr": FloatDistribution(1e-5, 10.0, log=True)})
    assert 1e-4 <= first.params["lr"] <= 1e-3


def test_enqueued_parameters_are_kept_and_the_others_planned() -> None:
    study = study_with(Runs())
    study.enqueue_trial({"optimizer": "adam", "lr": 0.5})
    study.optimize(script, n_trials=1)
    params = study.trials[0].params
    assert (params["optimizer"], params["lr"]) == ("adam", 0.5)


@pytest.mark.parametrize("ask", [
    {"lr": CategoricalDistribution(["low", "high", None])},
    {"lr": FloatDistribution(1e4, 1e5)},
    {"lr": IntDistribution(1, 9, step=4)},
    {"optimizer": FloatDistribution(0.0, 1.0), "beta": CategoricalDistribution([True, False])},
    {"width": CategoricalDistribution([512, 1024]), "note": IntDistribution(1, 1)},
    {"other": FloatDistribution(-1.0, 1.0, step=0.25), "another": CategoricalDistribution(["x"])},
])  # fmt: skip
def test_scripts_that_ask_for_something_else_are_served(ask: dict[str, BaseDistribution]) -> None:
    study = study_with(Runs())
    for _ in range(3):
        trial = study.ask(ask)
        assert all(d._contains(d.to_internal_repr(trial.params[n])) for n, d in ask.items())
        study.tell(trial, 0.5)


CHOICES = CategoricalDistribution


@pytest.mark.parametrize(("value", "distribution", "expected"), [
    (0.02, FloatDistribution(1e-3, 0.1, log=True), 0.02),
    (0.12, FloatDistribution(1e-3, 0.1, log=True), 0.1),  # a tenth of two decades: up to .158
    (0.17, FloatDistribution(1e-3, 0.1, log=True), None),
    (-1.0, FloatDistribution(1e-3, 0.1, log=True), None),
    (-0.1, FloatDistribution(0.0, 1.0), 0.0),
    (-0.2, FloatDistribution(0.0, 1.0), None),
    (0.61, FloatDistribution(0.0, 1.0, step=0.25), 0.5),
    (47.9, IntDistribution(1, 128, log=True), 48),
    (4, IntDistribution(1, 9, step=4), 5),
    (True, IntDistribution(0, 1), None),
    ("64", IntDistribution(1, 128), None),
    (float("nan"), FloatDistribution(0.0, 1.0), None),
    (32.0, CHOICES([16, 32]), 32),
    (47, CHOICES([16, 32, 64]), 64),
    (5e-4, CHOICES([1e-4, 1e-3]), 1e-3),
    (0.2, CHOICES([0.0, 0.5]), 0.0),
    (128, CHOICES([16, 32, 64]), None),
    (20, CHOICES([16, 32, None]), None),
    (1, CHOICES([True, False]), None),
    (True, CHOICES([1, True]), True),
    ("adam", CHOICES(["sgd", "adam"]), "adam"),
    ("lion", CHOICES(["sgd", "adam"]), None),
    (None, CHOICES(["sgd", "adam"]), None),
])  # fmt: skip
def test_a_value_of_the_catalogue_stands_for_one_that_is_asked_for(value, distribution, expected) -> None:
    found = as_asked(value, distribution)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("catalogue", "options"), [
    (Runs(0), {}),
    (Runs(5), {}),
    (Runs(), {"metrics": ["fitness"]}),
    (Runs(), {"space": Space((Parameter("depth", "int", 1, 4),))}),
])  # fmt: skip
def test_a_catalogue_that_tells_too_little_is_said_once_and_the_first_trials_are_random(catalogue, options) -> None:
    study = study_with(catalogue, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for trial in [study.ask() for _ in range(3)]:
            script(trial)
    ours = [w for w in said if w.category is UserWarning]
    assert len(ours) == 1
    assert "first trials are drawn at random" in str(ours[0].message)
    assert len({t.params["lr"] for t in study.trials}) == 3


def test_runs_that_are_enough_for_their_script_are_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert first_value(study_with(Runs(6), n_startup_trials=4)) >= 0.0


def test_an_objective_without_a_name_is_refused_at_the_first_suggestion() -> None:
    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(catalogue=Runs()))
    with pytest.raises(UsageError, match="set_metric_names"):
        study.ask().suggest_float("lr", 0.0, 1.0)


def test_a_sampler_with_a_catalogue_travels_to_other_processes(tmp_path) -> None:
    catalogue = Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}")
    sampler = pickle.loads(pickle.dumps(EpsilonSampler(catalogue=catalogue, seed=0)))
    assert sampler.warm_start.catalogue is sampler.catalogue
    assert sampler.catalogue.url == catalogue.url
    study = study_with(Runs())
    trial = study.ask()
    trial.suggest_float("lr", 1e-5, 10.0, log=True)
    again = pickle.loads(pickle.dumps(study.sampler))
    assert again.warm_start.planned(0) == study.sampler.warm_start.planned(0) != {}
