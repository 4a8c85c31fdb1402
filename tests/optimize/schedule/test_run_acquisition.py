from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Candidate, Start, optimize_acquisition
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import UsageError

SPACE = Space((
    Parameter("kind", "categorical", choices=("a", "b")),
    Parameter("width_a", "int", 4, 64, log=True, active_when=("kind", ("a",))),
    Parameter("width_b", "int", 4, 64, log=True, active_when=("kind", ("b",))),
    Parameter("rate", "float", 0.0, 1.0),
))  # fmt: skip
OBJECTIVES = (Objective("gain", maximize=True), Objective("cost", maximize=False))


@pytest.fixture(scope="module")
def model() -> CurveModel:
    """Twelve runs of three epochs; the more they gain the more they cost."""
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 4.0)
    curves = [
        Curve(c, steps, np.stack([steps * float(c["rate"]), np.full(3, float(c["rate"]))], axis=1))
        for c in SPACE.sample(12, rng)
    ]
    return fit_curves(SPACE, OBJECTIVES, curves, length=3.0)


def chosen(model: CurveModel, fixed: Mapping[str, Any]) -> list[Candidate]:
    """What is chosen by four seeds, from a checkpoint that is hard to do without."""
    start = Start("run_000:3", np.array([2.9, 0.05]), fixed)
    return [
        optimize_acquisition(model, starts=[start], branch_epochs=1, rng=np.random.default_rng(seed))[0].candidate
        for seed in range(4)
    ]


def test_runs_from_a_checkpoint_keep_what_it_fixes_and_are_valid(model: CurveModel) -> None:
    # 200 lies outside the range, as the width of a run may that was launched by hand.
    fixed = {"kind": "b", "width_b": 200}
    branches = [c for c in chosen(model, fixed) if c.start is not None]
    assert branches
    for branch in branches:
        assert fixed.items() <= branch.config.items()
        assert set(branch.config) == {"kind", "width_b", "rate"}


def test_parameters_that_a_fixed_one_switches_on_are_drawn(model: CurveModel) -> None:
    branches = [c for c in chosen(model, {"kind": "b"}) if c.start is not None]
    assert branches
    assert all(SPACE.contains(c.config) and c.config["kind"] == "b" for c in branches)


@pytest.mark.parametrize("fixed", [{"depth": 3}, {"kind": "c"}])
def test_a_start_that_fixes_what_the_space_does_not_have_is_refused(
    model: CurveModel, fixed: Mapping[str, Any]
) -> None:
    with pytest.raises(UsageError, match="'run_000:3' fixes"):
        chosen(model, fixed)


def test_five_runs_are_chosen_at_once_and_none_twice(model: CurveModel) -> None:
    choices = optimize_acquisition(model, n=5, rng=np.random.default_rng(0))
    assert len({str(c.candidate.config) for c in choices}) == 5
