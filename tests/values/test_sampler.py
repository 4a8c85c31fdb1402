"""Values of a study that EpsilonSampler learns from: whatever they are, it suggests what may be asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from epsopt.studies.optuna_io.sampler import EpsilonSampler

from .conftest import SHARP, numbers, quick

optuna.logging.set_verbosity(optuna.logging.ERROR)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Optuna warns of choices that only some storages keep
    SPACE: dict[str, BaseDistribution] = {
        "x": FloatDistribution(0.0, 1.0),
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "step": FloatDistribution(-0.5, 0.5, step=0.25),
        "n": IntDistribution(1, 64, log=True),
        "kind": CategoricalDistribution([None, "a", 0.5, True, math.inf]),
        "sizes": CategoricalDistribution([[1], [1, 2], (1, 2), "1"]),
        "constant": CategoricalDistribution(["only"]),
        "fixed": FloatDistribution(0.25, 0.25),
    }
PRUNED, FAIL, COMPLETE = TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE


def study_of(objectives: int, startup: int = 2) -> optuna.Study:
    """A study whose trials so far are drawn at random; EpsilonSampler is asked once they have ended (`ask`)."""
    study = optuna.create_study(directions=["minimize", "maximize"][:objectives], sampler=RandomSampler(seed=0))
    study.set_user_attr("startup", startup)
    return study


def end(study: optuna.Study, values: Sequence[float], space: dict[str, BaseDistribution] = SPACE) -> None:
    """End a trial as a script does: Optuna takes no NaN for a value, the trial fails."""
    trial = study.ask(space)
    if any(map(math.isnan, values)):
        study.tell(trial, state=FAIL)
    else:
        study.tell(trial, list(values))


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # NumPy's, of NaN that arose
        warnings.filterwarnings("ignore", message="Choices for a categorical distribution")
        yield


def ask(study: optuna.Study, space: dict[str, BaseDistribution] = SPACE, count: int = 1) -> list[dict[str, Any]]:
    """Ask, and hold every answer to what was asked for."""
    study.sampler = EpsilonSampler(seed=0, n_startup_trials=study.user_attrs["startup"])
    found = []
    for _ in range(count):
        trial = study.ask(space)
        assert trial.params.keys() == space.keys()
        for name, distribution in space.items():
            value = trial.params[name]
            assert distribution._contains(distribution.to_internal_repr(value)), f"{name} = {value!r}"
        found.append(trial.params)
    return found


@quick
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=7), st.sampled_from([1, 2]))
def test_objective_values_of_any_kind_lead_to_suggestions_in_their_ranges(rows, objectives):
    study = study_of(objectives)
    for row in rows:
        end(study, [float(v) for v in row[:objectives]])
    ask(study)


@pytest.mark.parametrize("value", [v for v in SHARP if v not in (0.0, 1.0)])
def test_an_odd_value_among_ordinary_ones(value):
    study = study_of(1)
    for ordinary in (0.3, 0.2, value, 0.25, value):
        end(study, [ordinary])
    ask(study)


@quick
@given(st.lists(numbers, min_size=1, max_size=6), st.sampled_from([PRUNED, FAIL, COMPLETE]))
def test_what_trials_reported_on_their_way_may_be_anything(reported, state):
    study = study_of(1)
    for offset in range(4):
        trial = study.ask(SPACE)
        for step, value in enumerate(reported):
            trial.report(float(value), 7 * step + offset)
        if state == COMPLETE or offset == 0:
            study.tell(trial, 0.5 + offset)
        else:
            study.tell(trial, state=state)
    ask(study)


@pytest.mark.parametrize("value", [0.0, 0.5, 1e8, 1e300, math.inf])
@pytest.mark.parametrize("objectives", [1, 2])
def test_a_constant_objective_and_duplicates_of_one_trial(value, objectives):
    study = study_of(objectives)
    params = {"x": 0.5, "kind": None, "sizes": [1, 2]}
    space = {name: SPACE[name] for name in params}
    same = optuna.create_trial(params=params, distributions=space, values=[value] * objectives)
    study.add_trials([same] * 6)
    found = ask(study, space)
    assert any(other != params for other in found)


@pytest.mark.parametrize("state", [COMPLETE, PRUNED, FAIL])
@pytest.mark.parametrize("startup", [0, 1, 8])
def test_one_trial_that_ended_is_enough_to_ask_after(state, startup):
    study = study_of(1, startup)
    trial = study.ask(SPACE)
    trial.report(math.nan, 0)
    study.tell(trial, 0.5 if state == COMPLETE else None, state=state)
    ask(study)


def test_constraints_may_be_anything():
    study = study_of(1)
    for value in (0.5, -0.5, 1e8, -1e300, math.inf, -math.inf):
        trial = study.ask(SPACE)
        trial.set_constraint("c", value)
        study.tell(trial, 0.5)
    ask(study)


def test_a_space_of_constants_alone_has_one_configuration():
    space = {name: SPACE[name] for name in ("constant", "fixed")}
    study = study_of(1)
    for value in (0.1, 0.2, 0.3):
        end(study, [value], space)
    assert ask(study, space, 2) == [{"constant": "only", "fixed": 0.25}] * 2
