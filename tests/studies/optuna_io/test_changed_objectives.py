"""A change of objectives in the project file is followed: nothing measured or predicted is lost, no name changes."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest

from epsopt.optimize.space import Parameter, Space
from epsopt.studies import record_outcome, record_proposals, take_proposal
from epsopt.studies.optuna_io.changed_objectives import follow_objectives
from epsopt.studies.optuna_io.queue import recorded_space
from epsopt.studies.optuna_io.stored_trials import recorded_objectives
from epsopt.zoo.errors import UsageError

from ..fakes import COVERAGE, DIST_CORR, RAD_HIER, FakeProposal  # noqa: TID252

TWO, THREE = [COVERAGE, DIST_CORR], [COVERAGE, DIST_CORR, RAD_HIER]
SPACE = Space((Parameter("lr", "float", 1e-4, 1e-2, log=True),))
MEASURED = {"coverage": 0.8, "dist_corr": 0.4, "rad_hier": 0.1}


@pytest.fixture
def queued(storage):
    """One proposal that was trained and measured all three, one that measured two of them, one that waits."""
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal({"lr": lr}) for lr in (0.001, 0.002, 0.003)])
    for number, metrics in enumerate([MEASURED, {k: MEASURED[k] for k in ("coverage", "dist_corr")}]):
        take_proposal(storage, "p", SPACE, number)
        record_outcome(storage, "p", TWO, SPACE, number, metrics, path=f"/runs/{number}.pt")
    return storage


def trials(storage, name="p/proposals"):
    return optuna.load_study(study_name=name, storage=storage).trials


def test_proposals_keep_their_numbers_predictions_and_measurements(queued):
    before = trials(queued)
    message = follow_objectives(queued, "p", THREE)
    assert message.startswith(
        "the objectives are coverage, dist_corr, rad_hier now: 3 proposals and what 2 runs measured"
    )
    assert recorded_objectives(queued, "p") == tuple(THREE)
    assert recorded_space(queued, "p") == SPACE
    after = trials(queued)
    assert [t.state.name for t in after] == ["COMPLETE", "FAIL", "WAITING"]
    assert after[0].values == [0.8, 0.4, 0.1]
    assert after[1].user_attrs["failure"] == "its run did not measure rad_hier, an objective since"
    for old, new in zip(before, after, strict=True):
        assert old.user_attrs.items() <= new.user_attrs.items()
        assert (old.number, old.params, old.system_attrs) == (new.number, new.params, new.system_attrs)
    assert [t.values for t in trials(queued, "p/proposals/coverage+dist_corr")] == [t.values for t in before]


def test_what_waited_is_trained_for_the_new_objectives(queued):
    follow_objectives(queued, "p", [RAD_HIER])
    assert take_proposal(queued, "p", SPACE).number == 2
    record_outcome(queued, "p", [RAD_HIER], SPACE, 2, MEASURED)
    assert trials(queued)[2].values == [0.1]


def test_the_same_objectives_and_a_project_without_proposals_change_nothing(queued):
    assert follow_objectives(queued, "p", TWO) is None
    assert follow_objectives(queued, "other", TWO) is None
    assert {s.study_name for s in queued.get_all_studies()} == {"p/proposals"}


def test_objectives_may_go_back_and_forth(queued):
    for objectives in (THREE, TWO, THREE):
        follow_objectives(queued, "p", objectives)
    assert trials(queued)[0].values == [0.8, 0.4, 0.1]
    assert {s.study_name for s in queued.get_all_studies()} == {
        "p/proposals", "p/proposals/coverage+dist_corr", "p/proposals/coverage+dist_corr+rad_hier",
        "p/proposals/coverage+dist_corr 2",
    }  # fmt: skip


def test_a_misspelt_objective_costs_nothing_once_it_is_mended(queued):
    """What every run lacked counts again when the objectives are those that the runs measured."""
    study = optuna.load_study(study_name="p/proposals", storage=queued)
    step = {"kind": "run", "predicted_gain": 0.3, "gain_per_epoch": 0.1, "reference_point": [0.0, 0.0], "epochs": 3}
    queued.set_trial_user_attr(study.trials[2]._trial_id, "step", step)
    before = trials(queued)
    follow_objectives(queued, "p", [replace(COVERAGE, name="covrage"), DIST_CORR])
    lost = trials(queued)
    assert [t.state.name for t in lost] == ["FAIL", "FAIL", "WAITING"]
    assert lost[2].user_attrs["step"]["predicted_gain"] == 0.0
    follow_objectives(queued, "p", THREE)
    follow_objectives(queued, "p", TWO)
    after = trials(queued)
    assert [(t.state, t.values, t.user_attrs) for t in after] == [(t.state, t.values, t.user_attrs) for t in before]


def test_what_is_being_trained_is_waited_for(queued):
    take_proposal(queued, "p", SPACE, worker="w")
    with pytest.raises(UsageError, match=r"1 proposal \(2\) is being trained for those: let the workers end"):
        follow_objectives(queued, "p", THREE)
    assert recorded_objectives(queued, "p") == tuple(TWO)
