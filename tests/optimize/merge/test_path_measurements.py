"""What lies between a run's checkpoints and where it started: learned from, predicted, and weighed."""

from __future__ import annotations

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, PathMeasurements, fit_curves
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule.run_acquisition import Start, optimize_acquisition
from epsopt.optimize.space import Parameter, Space

pytestmark = pytest.mark.usefixtures("whole_effort")

SPACE = Space((Parameter("far", "categorical", choices=(False, True)), Parameter("rate", "float", 0.0, 1.0)))
OBJECTIVES = (Objective("up", maximize=True), Objective("right", maximize=True))
BASE = Start("", np.array([0.4, 0.4]))
STEPS = np.arange(1.0, 4.0)


def run(rate: float, *, far: bool, mixed: bool = True) -> Curve:
    """A run that goes far ends below where it began, and on the way there is the best of all."""
    end = np.array([-0.3, -0.4]) if far else np.array([0.1, 0.1])
    values = BASE.values + (STEPS / 3.0)[:, None] * (end + 0.02 * rate)
    shares = np.array([0.2, 0.5, 0.8])
    between = BASE.values + shares[:, None] * (0.02 * rate + np.array([[1.0, 0.9], [0.8, 0.8], [0.1, 0.0]]))
    way = PathMeasurements(np.full(3, 3.0), shares, between) if far and mixed else None
    return Curve({"far": far, "rate": rate}, STEPS, values, BASE.values, way)


def model(*, mixed: bool) -> CurveModel:
    curves = [run(rate, far=far, mixed=mixed) for rate in (0.1, 0.4, 0.6, 0.9) for far in (False, True)]
    return fit_curves(SPACE, OBJECTIVES, curves, length=3.0)


def predicted(known: CurveModel, share: float) -> float:
    x = known.inputs([{"far": True, "rate": 0.5}], np.array([3.0]), [BASE.values], 99, np.array([share]))
    return float(known.untransform(known.model.posterior(x).mean)[0, 0, 0])


def test_what_was_measured_on_the_way_is_learned_from_and_predicted() -> None:
    knows, does_not = model(mixed=True), model(mixed=False)
    assert predicted(knows, 0.5) == pytest.approx(0.8, abs=0.1)
    assert predicted(knows, 1.0) == pytest.approx(0.1, abs=0.1)
    assert predicted(does_not, 0.5) < 0.5
    at_the_start = knows.inputs([{"far": True, "rate": 0.5}], np.array([3.0]), [BASE.values], 99, np.array([0.0]))
    assert float(knows.model.posterior(at_the_start).variance.max()) < 1e-4, "what is measured already"


def test_rows_of_the_way_are_those_of_their_epoch_and_share() -> None:
    known = model(mixed=True)
    inputs = known.model.train_x[0]
    assert len(inputs) == 8 * 3 + 4 * 3 + 8, "and what each run did after its second epoch"
    way = inputs[inputs[:, -3] < 1.0]
    assert sorted(set(way[:, -3].tolist())) == [0.2, 0.5, 0.8]
    assert set(way[:, -2].tolist()) == {1.0}, "of the last epoch"
    assert len(way[:, -1].unique()) == 4, "of the run that they lie on the way of"


def test_a_run_whose_end_is_bad_is_worth_what_lies_on_the_way_where_that_can_be_mixed() -> None:
    known, reference = model(mixed=True), np.zeros(2)
    for can_merge in (False, True):
        (choice,) = optimize_acquisition(
            known, base=BASE, reference=reference, can_merge=can_merge, rng=np.random.default_rng(0)
        )
        assert choice.candidate.config["far"] is can_merge
        assert (choice.improvement > 1.5 * choice.alone) is can_merge
        assert choice.alone >= 0.0


def test_runs_from_where_runs_start_may_be_short_where_the_way_counts() -> None:
    known = model(mixed=True)

    def epochs(*, can_merge: bool) -> set[float]:
        rngs = (np.random.default_rng(seed) for seed in range(3))
        return {
            optimize_acquisition(
                known, base=BASE, branch_epochs=1.0, reference=np.zeros(2), can_merge=can_merge, rng=rng
            )[0].candidate.epochs
            for rng in rngs
        }  # fmt: skip

    assert epochs(can_merge=False) == {3.0}
    assert 1.0 in epochs(can_merge=True)
