from __future__ import annotations

import optuna
import pytest

from epsopt.optimize.space import Parameter, Space
from epsopt.studies import record_outcome, record_proposals, take_proposal
from epsopt.studies.optuna_io.queue import ProposalRecord
from epsopt.zoo.errors import EpsoptError, UsageError

from ..fakes import COVERAGE, DIST_CORR, RAD_HIER, FakeProposal  # noqa: TID252

TWO = [COVERAGE, DIST_CORR]
SPACE = Space(
    (
        Parameter("lr", "float", 1e-4, 1e-2, log=True),
        Parameter("layers", "int", 1, 4),
        Parameter("encoder", "categorical", choices=("frozen", "full")),
        Parameter("scale", "float", 0.0, 1.0, active_when=("encoder", ("full",))),
    )
)
FROZEN = {"lr": 1e-3, "layers": 2, "encoder": "frozen"}
FULL = {"lr": 1e-2, "layers": 4, "encoder": "full", "scale": 0.5}


def trials(storage):
    return optuna.load_study(study_name="p/proposals", storage=storage).trials


def test_proposals_wait_in_a_study_with_what_is_expected_of_them(storage):
    assert record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN), FakeProposal(FULL)]) == [0, 1]
    first = trials(storage)[0]
    assert first.state.name == "WAITING"
    assert first.system_attrs["fixed_params"] == FROZEN
    assert first.user_attrs["predicted.coverage"] == 0.9
    assert first.user_attrs["interval.coverage"] == [0.8, 1.0]
    assert first.user_attrs["provenance"] == "predicted, not evaluated"
    assert first.user_attrs["joins_front"] == 0.4
    near = [{"run": "run-001", "distance": 0.1}, {"run": "run-002", "distance": 0.25}]
    assert first.user_attrs["nearest_runs"] == near
    assert first.user_attrs["reason"] == "a variation of run-001"


def test_of_what_nothing_is_known_nothing_is_said(storage):
    record_proposals(storage, "p", TWO, SPACE, [ProposalRecord(FROZEN)])
    (trial,) = trials(storage)
    assert set(trial.user_attrs) == {"key", "kind", "provenance", "level"}


def test_proposing_the_same_again_queues_nothing(storage):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    assert record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FULL), FakeProposal(FROZEN)]) == [1, 0]
    assert len(trials(storage)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 5}, ["lr", "5", "0.01"]),
        ({"layers": 2.5}, ["layers", "2.5"]),
        ({"encoder": "half"}, ["encoder", "half", "frozen"]),
        ({"scale": 0.5}, ["scale", "inactive"]),
        ({"encoder": "full"}, ["lacks scale"]),
        ({"nonsense": 1}, ["nonsense", "does not have"]),
        ({"lr": float("nan")}, ["lr", "nan"]),
    ],
)
def test_a_proposal_outside_the_search_space_is_refused_and_nothing_is_queued(storage, change, words):
    with pytest.raises(UsageError) as caught:
        record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FULL), FakeProposal({**FROZEN, **change})])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "p/proposals" not in optuna.get_all_study_names(storage)


def test_a_taken_proposal_is_running_with_only_its_active_parameters(storage):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    taken = take_proposal(storage, "p", SPACE)
    assert (taken.number, taken.params) == (0, FROZEN)
    trial = trials(storage)[0]
    assert (trial.state.name, trial.params) == ("RUNNING", FROZEN)
    assert take_proposal(storage, "p", SPACE) is None


def test_an_outcome_makes_a_finished_trial_with_the_measured_values(storage):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FULL), FakeProposal(FROZEN)])
    take_proposal(storage, "p", SPACE)
    metrics = {"coverage": 0.8, "dist_corr": 0.7, "rad_hier": -0.3}
    record_outcome(storage, "p", TWO, SPACE, 0, metrics, path="/runs/x/epoch_009.pt")
    trial = trials(storage)[0]
    assert (trial.state.name, trial.values, trial.params) == ("COMPLETE", [0.8, 0.7], FULL)
    assert trial.user_attrs["measured.rad_hier"] == -0.3
    assert trial.user_attrs["path"] == "/runs/x/epoch_009.pt"
    assert trial.user_attrs["provenance"] == "measured"


def test_an_outcome_may_be_recorded_twice_but_not_changed(storage):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    metrics = {"coverage": 0.8, "dist_corr": 0.7}
    record_outcome(storage, "p", TWO, SPACE, 0, metrics)
    record_outcome(storage, "p", TWO, SPACE, 0, metrics)
    with pytest.raises(EpsoptError, match="already"):
        record_outcome(storage, "p", TWO, SPACE, 0, {**metrics, "coverage": 0.9})


@pytest.mark.parametrize("metrics", [None, {"coverage": 0.5}, {"coverage": float("nan"), "dist_corr": 0.1}])
def test_a_training_without_its_objectives_is_a_failed_trial(storage, metrics):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    record_outcome(storage, "p", TWO, SPACE, 0, metrics)
    assert trials(storage)[0].state.name == "FAIL"


def test_what_was_never_proposed_is_one_sentence(storage):
    with pytest.raises(EpsoptError, match="epsopt propose"):
        take_proposal(storage, "p", SPACE)
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    with pytest.raises(EpsoptError, match="no proposal 7"):
        record_outcome(storage, "p", TWO, SPACE, 7, None)


def test_other_objectives_do_not_silently_replace_a_history_of_proposals(storage):
    record_proposals(storage, "p", TWO, SPACE, [FakeProposal(FROZEN)])
    with pytest.raises(UsageError, match="other objectives"):
        record_proposals(storage, "p", [COVERAGE, RAD_HIER], SPACE, [FakeProposal(FULL)])
    assert len(trials(storage)) == 1
