from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.merge.weight_space_gp import WeightSpace
from epsopt.optimize.objectives import Objective
from epsopt.optimize.schedule import scheduler as module
from epsopt.optimize.schedule.run_acquisition import Candidate, Start
from epsopt.optimize.schedule.run_model import fit_run_model
from epsopt.optimize.schedule.scheduler import Scheduler, SearchState, Step
from epsopt.optimize.space import Parameter, Space
from epsopt.zoo.errors import UsageError

SPACE = Space((Parameter("a", "float", 0.0, 1.0), Parameter("b", "float", 0.0, 1.0)))
OBJECTIVES = (Objective("up", maximize=True), Objective("right", maximize=True))
BASE = Start("", np.array([0.5, 0.1]))


def policy(**how) -> Scheduler:
    return Scheduler(
        SPACE, OBJECTIVES, reference=np.zeros(2),
        **{"length": 10.0, "base": BASE, "exploration_epochs": 4.0, "seed": 1, **how},
    )  # fmt: skip


def curve(a: float, b: float, epochs: int = 4) -> Curve:
    """Grows with `a` in both objectives."""
    steps = np.arange(1.0, epochs + 1)
    grown = np.log1p(steps) / np.log1p(10.0)
    return Curve({"a": a, "b": b}, steps, np.column_stack([0.5 + 0.3 * a * grown, 0.1 + 0.6 * a * grown]), BASE.values)


def known(curves, weights=None, spent=20.0) -> SearchState:
    checkpoints = [Start(f"{i}/{k}", row) for i, c in enumerate(curves) for k, row in enumerate(c.values)]
    return SearchState(curves, checkpoints, None, weights, spent)


def weights_of(n: int, moved: float = 0.2) -> WeightSpace:
    """Checkpoints that all moved away from the base, each in a direction of its own."""
    return WeightSpace(moved**2 * np.eye(n)[None], np.ones(1))


SIX = [curve(a, b) for a, b in ((0.1, 0.2), (0.3, 0.9), (0.5, 0.4), (0.7, 0.1), (0.2, 0.6), (0.4, 0.7))]


def test_it_looks_around_until_there_are_runs_to_learn_from():
    chooser = policy()
    steps = [chooser.next(known(SIX[:i])) for i in range(6)]
    assert [s.kind for s in steps] == ["exploration"] * 6
    assert len({tuple(s.candidate.config.items()) for s in steps}) == 6
    assert {s.cost for s in steps} == {4.0}
    assert {s.candidate.start.key for s in steps} == {""}
    then = chooser.next(known(SIX))
    assert then.kind in ("run", "branch")
    assert then.predicted_gain > 0.0
    assert then.model is not None


def test_no_step_predicts_more_than_its_metrics_may_reach():
    curves = list(SIX)
    for _ in range(3):
        step = policy().next(known(curves))
        assert 0.0 < step.predicted_gain < 10.0, "of metrics near 1 whose ranges nobody declared"
        curves.append(replace(SIX[0], config=dict(step.candidate.config)))


def test_without_branches_every_run_starts_where_runs_start():
    step = policy(branch_epochs=None).next(known(SIX))
    assert step.kind == "run"
    assert step.cost == 10.0
    assert step.candidate.config["a"] > 0.7


def test_a_kind_whose_predictions_failed_gives_way_to_the_others():
    state = known(SIX)
    chooser = policy()
    first = chooser.next(state)
    for _ in range(3):
        chooser.learn(first, 0.0)
    assert {first.kind, chooser.next(state).kind} == {"run", "branch"}


def test_where_no_branch_is_worth_an_average_epoch_every_other_launch_begins_elsewhere():
    def kinds(spent: float) -> list[str]:
        chooser = policy()
        for _ in range(9):
            chooser.learn(
                Step("run", predicted_gain=1.0, gain_per_epoch=0.1, cost=10.0), 0.0
            )  # else it launches these anyway
        return [chooser.next(known(SIX, spent=spent)).kind for _ in range(4)]

    assert kinds(1e6) == ["branch"] * 4
    assert kinds(1e-3) == ["branch", "run"] * 2


def test_a_merge_is_measured_while_it_is_worth_more_than_an_epoch_was():
    few = SIX[:2]
    state = known(few, weights_of(8), spent=1000.0)
    step = policy(evaluation=0.5).next(state)
    assert step.kind == "merge"
    assert step.cost == 0.5
    assert step.merge.coefficients.shape == (1, 8)
    assert policy(evaluation=0.5).next(known(few, weights_of(8), spent=0.001)).kind == "exploration"
    assert policy(evaluation=500.0).next(state).kind == "exploration"


def test_merges_whose_predictions_failed_are_not_measured_any_more():
    state = known(SIX[:2], weights_of(8), spent=50.0)
    chooser = policy(evaluation=0.5)
    step = chooser.next(state)
    assert step.kind == "merge"
    for kind in ("between", "beyond"):
        assert chooser.next(state).kind == "merge", "either kind is as reliable as its own gains"
        for _ in range(20):
            chooser.learn(replace(step, merge=replace(step.merge, kind=kind)), 0.0)
    assert chooser.next(state).kind == "exploration"


def test_of_a_run_that_was_stopped_less_was_to_be_expected():
    predicted = Step("run", predicted_gain=1.0, gain_per_epoch=0.1, cost=10.0)
    stopped, whole = policy(), policy()
    stopped.learn(predicted, 0.1, taken=1.0)
    whole.learn(predicted, 0.1)
    assert stopped.reliability.of("run", 1.0) == pytest.approx(1.0)
    assert whole.reliability.of("run", 1.0) == pytest.approx(0.4), "a tenth of one prediction, and half of it in doubt"
    explored = policy()
    explored.learn(Step("exploration", 0.0, 0.0, 4.0), 0.3)
    assert explored.reliability.of("exploration", 1.0) == 1.0


def test_the_same_seed_and_the_same_past_choose_the_same():
    one, two = policy().next(known(SIX)), policy().next(known(SIX))
    assert one.candidate.config == two.candidate.config
    assert one.predicted_gain == two.predicted_gain


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match="first_runs is 1"):
        policy(first_runs=1)
    with pytest.raises(UsageError, match="evaluation is 0"):
        policy(evaluation=0)
    with pytest.raises(UsageError, match="exploration_epochs is -1"):
        policy(exploration_epochs=-1)
    with pytest.raises(UsageError, match=r"the base's key is 'base.pt', expected"):
        policy(base=Start("base.pt", np.zeros(2)))
    with pytest.raises(UsageError, match="where 7 checkpoints lie, but 8 were measured"):
        policy().next(known(SIX[:2], weights_of(7)))


def test_what_was_not_measured_whole_counts_for_nothing():
    state = known(SIX)
    holed = SearchState(state.curves, [*state.checkpoints, Start("x", np.array([np.nan, 9.0]))], None, None, 20.0)
    assert policy().volume(holed) == policy().volume(state)
    assert policy().next(holed).kind in ("run", "branch")
    assert policy().volume(SearchState([], [], None, None, 0.0)) == 0.0


def test_what_is_under_way_is_not_chosen_again_and_counts_as_begun():
    step = policy().next(known(SIX))
    beside = policy().next(known(SIX), [step.candidate])
    one, two = ((s.candidate.config, s.candidate.start.key) for s in (step, beside))
    assert one != two
    assert beside.gain_per_epoch < step.gain_per_epoch
    looks = [Candidate({"a": a, "b": 0.5}, BASE, 4.0) for a in (0.1, 0.9, 0.4, 0.6)]
    assert policy().next(known(SIX[:2]), looks).kind in ("run", "branch"), "six looks are begun"
    assert policy().next(known(SIX[:2]), looks[:3]).kind == "exploration"
    assert policy().next(known(SIX[:1]), looks * 2).kind == "exploration", "one curve teaches no model"
    around = policy().next(known(SIX[:1]))
    assert policy().next(known(SIX[:1]), [around.candidate]).candidate.config != around.candidate.config


def test_a_policy_goes_on_where_another_process_ended():
    first, second = policy(), policy()
    explored = [first.next(known(SIX[:i])) for i in range(3)]
    second.restore(["exploration", "exploration"], [s.candidate.config for s in explored[:2]])
    assert second.next(known(SIX[:2])).candidate.config == explored[2].candidate.config
    again = policy()
    again.restore(["exploration"] * 4 + ["run", "merge", "branch"])
    assert again.last_kind == "branch"
    twins = [policy(), policy()]
    for twin in twins:
        twin.restore(["exploration"] * 5)
    assert len({tuple(t.next(known(SIX)).candidate.config.items()) for t in twins}) == 1


def test_a_look_is_chosen_once_even_where_the_program_says_something_else_of_it():
    chooser, curves = policy(), []
    for _ in range(3):
        config = chooser.next(known(curves)).candidate.config
        curves.append(replace(SIX[0], config={**config, "a": config["a"] + 1e-9}))
    assert len({round(c.config["a"], 6) for c in curves}) == 3


def test_a_space_that_is_known_to_its_end_is_looked_at_again():
    space = Space((Parameter("a", "categorical", choices=(0, 1)),))
    curves = [replace(SIX[0], config={"a": a}) for a in (0, 1)]
    chooser = Scheduler(space, OBJECTIVES, length=10.0, reference=np.zeros(2), base=BASE)
    assert chooser.next(known(curves)).kind == "exploration"


def test_what_failed_is_not_launched_again_nor_its_like():
    failed = [Candidate({"a": a, "b": b}, BASE, 1.0) for a, b in ((0.8, 0.2), (0.9, 0.8), (1.0, 0.4), (0.95, 0.1))]
    state = known(SIX)
    before, after = (
        policy(branch_epochs=None).next(s).candidate.config["a"] for s in (state, replace(state, failed=failed))
    )
    assert before > 0.75
    assert after < 0.75
    assert policy().next(replace(known(SIX[:5]), failed=failed[:1])).kind in ("run", "branch"), "six are begun"
    look = policy().next(known([])).candidate
    assert policy().next(replace(known([]), failed=[look])).candidate.config != look.config


FROZEN = Space((Parameter("a", "float", 0.0, 1.0), Parameter("part", "categorical", choices=("head", "all"))))


def moving(part: str, a: float) -> Curve:
    """Of two blocks, the second moves where all of the network is trained."""
    body = 0.1 if part == "all" else 1e-9
    return replace(curve(a, 0.0), config={"a": a, "part": part}, moved=np.tile([0.1, body], (4, 1)))


def test_looks_at_what_moves_come_first_and_are_as_short_as_branches():
    def look(curves, weights=None) -> Candidate:
        chooser = Scheduler(
            FROZEN, OBJECTIVES, length=10.0, reference=np.zeros(2), base=BASE, exploration_epochs=6.0, seed=4
        )
        return chooser.next(known(curves, weights, spent=1e-9)).candidate

    still = [moving("head", 0.2), moving("all", 0.5)]
    unknown = [replace(c, moved=None) for c in still]
    assert look(unknown, weights_of(8)).config["part"] == "head", "the cover's first"
    assert look(unknown, weights_of(8)).epochs == 6.0
    assert look(still, weights_of(8)).config["part"] == "all"
    assert look(still, weights_of(8)).epochs == 3.0
    assert look(still).epochs == 6.0, "what lies on the way back cannot be had"


@pytest.mark.parametrize("runs", [2, 6])
def test_a_merge_says_what_to_launch_otherwise_which_is_no_step_that_was_taken(runs):
    state = known(SIX[:runs], weights_of(4 * runs), spent=1000.0)
    chooser = policy(evaluation=1e-3)
    step = chooser.next(state)
    assert step.kind == "merge"
    assert (step.otherwise.kind == "exploration") == (runs == 2)
    assert step.otherwise.merge is step.otherwise.otherwise is None
    assert chooser.last_kind == "", "nothing was launched"
    if runs == 2:
        again = chooser.next(state)
        assert again.otherwise.candidate.config == step.otherwise.candidate.config
        dear = policy(evaluation=1e6).next(state)
        assert dear.candidate.config == step.otherwise.candidate.config
        assert dear.otherwise is None


def test_a_model_is_learned_on_from_an_earlier_policy_s_unless_that_was_of_something_else(monkeypatch):
    fitted = []
    monkeypatch.setattr(
        module, "fit_run_model", lambda *a, **how: fitted.append(how["before"]) or fit_run_model(*a, **how)
    )
    first = policy()
    first.next(known(SIX))
    second = policy()
    second.warm_start_from(first)
    second.next(known(SIX))
    assert fitted == [None], "nothing is new"
    eager = policy()
    eager.warm_start_from(second, learn=True)
    eager.next(known(SIX))
    eager.next(known(SIX))
    assert fitted.pop() is first.run_model, "once"
    assert fitted == [None]
    third = policy()
    third.warm_start_from(second)
    third.next(known([*SIX, curve(0.9, 0.9)]))
    assert fitted == [None, first.run_model]
    for other in (policy(length=12.0), policy(bounds={"up": (0.0, 1.0)})):
        other.warm_start_from(third)
        other.next(known(SIX))
    assert fitted[2:] == [None, None]
