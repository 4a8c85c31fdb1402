"""What EpsilonSampler keeps of long studies, of failures, of branches, and of ranges that change."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.forecast.subsample import thinned
from epsopt.optimize.objectives import Objective
from epsopt.optimize.pareto import non_dominated
from epsopt.optimize.space import Parameter, Space, Span
from epsopt.studies.optuna_io.sampler import EpsilonSampler
from epsopt.studies.optuna_io.study_space import asked_for, space_of

from ...sweeps import sweep  # noqa: TID252

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = Space((Parameter("x", "float", 0.0, 1.0), Parameter("y", "float", 0.0, 1.0)))
TWO = (Objective("a", maximize=True), Objective("b", maximize=False))
ASK = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def curve(x: float, y: float, values: list[float]) -> Curve:
    return Curve({"x": x, "y": y}, np.array([1.0]), np.array([values]))


def trial(params: dict[str, Any], values: Any, ask: dict[str, BaseDistribution] | None = None, **more: Any):
    distributions = {n: (ask or ASK)[n] for n in params}
    given = {"values": values} if values is not None else {}
    return optuna.create_trial(params=params, distributions=distributions, **given, **more)


@pytest.mark.parametrize("seed", range(3))
def test_thinning_keeps_the_front_the_newest_and_a_spread(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = [curve(*rng.uniform(0.45, 0.55, 2), rng.uniform(0.0, 1.0, 2).tolist()) for _ in range(600)]
    curves[3] = curve(0.5, 0.5, [2.0, -1.0])  # the incumbent, early
    curves[5], curves[7] = curve(0.0, 0.0, [0.1, 0.9]), curve(1.0, 1.0, [0.1, 0.9])
    kept, others = thinned(SPACE, TWO, curves)
    assert len(kept) == 200
    assert [c for c in curves if c in kept] == kept, "in their order"
    assert all(curves[i] in kept for i in (3, 5, 7, *range(570, 600)))
    assert len(others) == 0
    table = np.array([c.values[0] for c in curves])
    front = non_dominated(table, [True, False]).indices
    assert all(curves[i] in kept for i in front)


def test_a_front_larger_than_what_a_model_learns_from_is_measured_to_its_end() -> None:
    three = (*TWO, Objective("c", maximize=True))
    points = np.abs(np.random.default_rng(0).normal(size=(500, 3)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[:, 1] *= -1.0
    rng = np.random.default_rng(1)
    curves = [curve(*rng.uniform(0, 1, 2), row) for row in points.tolist()]
    kept, others = thinned(SPACE, three, curves)
    assert len(kept) == 200
    measured = np.vstack([others, *(c.values for c in kept)])
    assert len(np.unique(measured, axis=0)) == 500, "all of them are the front"
    assert all(curves[i] in kept for j in range(3) for i in (points[:, j].argmin(), points[:, j].argmax()))


def test_an_early_incumbent_is_known_after_four_hundred_worse_trials_and_nothing_is_tried_twice() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0))
    rng = np.random.default_rng(0)
    best = {"x": 0.31, "y": 0.52}
    study.add_trial(trial(best, [0.0]))
    far = [{"x": float(x), "y": float(y)} for x, y in rng.uniform(0.7, 1.0, (430, 2))]
    near = [{"x": 0.31 + 0.1 * i, "y": 0.52 + 0.1 * j} for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    loss = lambda c: (c["x"] - best["x"]) ** 2 + (c["y"] - best["y"]) ** 2  # noqa: E731
    study.add_trials([trial(c, [loss(c)]) for c in (*near, *far)])
    asked = study.ask(ASK)
    assert math.hypot(asked.params["x"] - best["x"], asked.params["y"] - best["y"]) < 0.2
    assert round(100 * asked.params["x"]) != 31 or round(100 * asked.params["y"]) != 52


def penalised(penalty: float) -> list[dict[str, float]]:
    """A third of the space is penalised."""

    def values(t: optuna.Trial) -> tuple[float, float]:
        x, y = t.suggest_float("x", 0.0, 1.0), t.suggest_float("y", 0.0, 1.0)
        good = (x - 0.3) ** 2 + y * y, (x - 0.6) ** 2 + (y - 0.2) ** 2
        return (penalty, penalty) if x + y > 1.2 else good

    study = optuna.create_study(directions=["minimize"] * 2, sampler=EpsilonSampler(seed=1, n_startup_trials=6))
    study.optimize(values, n_trials=11)
    return [t.params for t in study.trials]


@pytest.mark.parametrize("penalty", sweep([float("inf"), 1e10, float(np.finfo(float).max)]))
def test_how_large_a_penalty_is_changes_nothing_that_is_suggested(penalty: float) -> None:
    first = penalised(1e3)
    assert sum(p["x"] + p["y"] > 1.2 for p in first[:6]) in (1, 2), "some startup trials are penalised"
    assert penalised(penalty) == first


@pytest.mark.usefixtures("whole_effort_here")
@pytest.mark.parametrize("fails", sweep(["raises", "nan"]))
def test_where_trials_fail_less_is_tried_and_nothing_twice(fails: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(seed=0, n_startup_trials=4))

    def value(t: optuna.Trial) -> float:
        x, y = t.suggest_float("x", 0.0, 1.0), t.suggest_float("y", 0.0, 1.0)
        if y > 0.5:  # where it grows on
            if fails == "nan":
                return float("nan")
            raise MemoryError
        return y - (x - 0.7) ** 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(value, n_trials=16, catch=MemoryError)
    failed = [t.params for t in study.trials if t.state is TrialState.FAIL]
    assert failed
    assert sum(c["y"] > 0.8 for c in failed) <= 2, "where failures teach nothing, that is tried again and again"
    assert len({(round(50 * c["x"]), round(50 * c["y"])) for c in failed}) == len(failed)
    assert max(t.value for t in study.trials if t.state is TrialState.COMPLETE) > 0.42


def test_a_script_that_only_failed_so_far_gets_what_lies_far_from_its_failures() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0))
    for i in range(6):
        study.add_trial(trial({"x": 0.1 * i, "y": 0.5}, None, state=TrialState.FAIL))
    drawn = [study.ask(ASK).params for _ in range(8)]
    assert min(math.hypot(c["x"] - 0.1 * i, c["y"] - 0.5) for c in drawn for i in range(6)) > 0.25


def branches(t: optuna.Trial) -> float:
    """What a script with branches asks for: a child of a whole number, of None, of a truth value, of a threshold."""
    layers = t.suggest_int("layers", 1, 4)
    loss = sum((t.suggest_int(f"units_{i}", 8, 64) - 30) ** 2 for i in range(layers)) / 1e3
    schedule = t.suggest_categorical("schedule", [None, "cosine"])
    if schedule is None:
        loss += t.suggest_float("decay", 0.0, 1.0)
    elif t.suggest_categorical("restarts", [True, False]):
        loss += t.suggest_int("every", 1, 9) / 10
    return loss


def test_children_of_numbers_of_none_and_of_children_are_suggested_not_drawn() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0, n_startup_trials=20))
    study.optimize(branches, n_trials=20)
    ended = study.get_trials(deepcopy=False)
    conditions = {p.name: p.active_when for p in space_of(asked_for(ended), [t.params for t in ended]).parameters}
    assert [conditions[f"units_{i}"] for i in (1, 2, 3)] == [("layers", (Span(low=i + 1),)) for i in (1, 2, 3)]
    assert conditions["decay"] == ("schedule", (None,))
    assert conditions["restarts"] == ("schedule", ("cosine",))
    assert conditions["every"] == ("restarts", (True,))
    asked = study.ask()
    branches(asked)
    assert asked.params == asked.relative_params


def test_what_no_parameter_tells_of_is_suggested_all_the_same() -> None:
    """A child of two parents together: no one of them says when it is there."""
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0, n_startup_trials=12))

    def both(t: optuna.Trial) -> float:
        a, b = t.suggest_categorical("a", [0, 1]), t.suggest_categorical("b", [0, 1])
        return 1.0 - a + abs(t.suggest_float("c", 0.0, 1.0) - 0.7) if a and b else 2.0

    study.optimize(both, n_trials=12)
    asked = study.ask()
    both(asked)
    assert "c" in asked.relative_params


@pytest.mark.slow
def test_a_script_that_asks_for_less_before_it_fails_is_learned_from_without_being_fooled() -> None:
    """That a trial has a momentum says that it went well, and would be taken for what makes it go well."""

    def value(t: optuna.Trial) -> float:
        kind, step = t.suggest_categorical("kind", ["sgd", "adam"]), t.suggest_float("step", 0.0, 1.0)
        if step > (0.7 if kind == "sgd" else 0.3):
            return 1e10
        loss = (step - 0.2) ** 2 + (kind == "adam")
        return loss + (t.suggest_float("momentum", 0.0, 1.0) - 0.9) ** 2 if kind == "sgd" else loss

    drawn, chosen = 0, 0
    for seed in range(3):
        study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=seed, n_startup_trials=10))
        study.optimize(value, n_trials=18)
        drawn += sum(t.value == 1e10 for t in study.trials[:10])
        chosen += sum(t.value == 1e10 for t in study.trials[10:])
    assert drawn >= 10, "half of all configurations fail"
    assert chosen <= 8, "a third of what is chosen; whoever is fooled chooses hardly anything else"
    assert {t.params["kind"] for t in study.trials[14:]} == {"sgd"}


def test_a_range_that_changed_is_searched_as_it_is_asked_for_now() -> None:
    study = optuna.create_study(direction="minimize", sampler=EpsilonSampler(seed=0, n_startup_trials=4))
    wide, narrow = {"x": FloatDistribution(0.0, 10.0)}, {"x": FloatDistribution(4.0, 5.0)}
    study.add_trials([trial({"x": float(x)}, [float(x)], wide) for x in np.linspace(0.0, 10.0, 8)])
    study.add_trials([trial({"x": float(x)}, [float(x)], narrow) for x in np.linspace(4.1, 5.0, 8)])
    assert study.sampler.infer_relative_search_space(study, study.trials[0]) == narrow
    asked = study.ask(narrow)
    assert asked.params == asked.relative_params
    assert 4.0 <= asked.params["x"] < 4.4, "below it is better, as the trials of the wider range show"


def test_a_range_of_its_own_in_each_branch_gets_the_nearest_that_it_allows() -> None:
    study = optuna.create_study(direction="maximize", sampler=EpsilonSampler(seed=0, n_startup_trials=4))

    def value(t: optuna.Trial) -> float:
        most = t.suggest_categorical("most", [1.0, 9.0])
        return t.suggest_float("x", 0.0, most)

    study.optimize(value, n_trials=8)
    study.enqueue_trial({"most": 1.0})
    asked = study.ask()
    value(asked)
    assert 0.0 <= asked.params["x"] <= 1.0


@st.composite
def distributions(draw: st.DrawFn) -> BaseDistribution:
    kind = draw(st.integers(0, 6))
    low = draw(st.integers(-5, 5))
    width = draw(st.integers(0, 9))
    if kind == 0:
        return FloatDistribution(low / 3, low / 3 + width / 7)
    if kind == 1:
        return FloatDistribution(10.0**low, 10.0 ** (low + width), log=True)
    if kind == 2:
        return FloatDistribution(low / 10, low / 10 + 0.3 * width, step=0.1)
    if kind == 3:
        return IntDistribution(low, low + width)
    if kind == 4:
        return IntDistribution(low, low + 3 * width, step=3)
    if kind == 5:
        return IntDistribution(1, 1 + 40 * width, log=True)
    choices = [None, True, 2, 0.5, "x", (1, 2), [3]]
    return CategoricalDistribution(choices[: draw(st.integers(1, 7))])


ASKED = (
    st.dictionaries(st.sampled_from("abcd"), distributions(), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2**16),
)
ANY = settings(deadline=None, suppress_health_check=list(HealthCheck))


def suggest_within(ask, objectives, seed) -> None:
    """Of every kind, in one objective or several, with constraints, and beside trials that failed, run or wait."""
    sampler = EpsilonSampler(seed=seed, n_startup_trials=3)
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"][:objectives], sampler=sampler)
    rng = np.random.default_rng(seed)
    odd = [math.inf, 1e10, 0.0, -1e308]
    for number in range(8):
        if number == 5:  # a range that shrinks
            ask = {n: d if not isinstance(d, FloatDistribution) or d.step or d.single() else
                   FloatDistribution((d.low + d.high) / 2, d.high, log=d.log) for n, d in ask.items()}  # fmt: skip
        if number == 3:
            study.enqueue_trial({next(iter(ask)): study.trials[0].params[next(iter(ask))]})
        t = study.ask()
        for name, d in ask.items():
            value = t._suggest(name, d)
            assert d._contains(d.to_internal_repr(value)) or number == 3, (name, value, d)
        if number in (2, 6):
            study.tell(t, state=TrialState.FAIL)
        elif number != 4:  # that one runs on
            if seed % 2:
                t.set_constraint("c", float(rng.normal()))
            values = rng.uniform(size=objectives)
            values[0] = odd[seed % 4] if number == 1 else values[0]
            study.tell(t, values.tolist())


@settings(ANY, max_examples=2)
@given(*ASKED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_suggested_is_within_what_is_asked_for(ask, objectives, seed) -> None:
    suggest_within(ask, objectives, seed)


@pytest.mark.slow
@settings(ANY, max_examples=20)
@given(*ASKED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_suggested_is_always_within_what_is_asked_for(ask, objectives, seed) -> None:
    suggest_within(ask, objectives, seed)
