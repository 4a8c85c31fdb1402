"""What further epochs are expected to add, in one sentence that a person can act on."""

from __future__ import annotations

from epsopt.optimize.schedule.remaining_gain import RemainingGain
from epsopt.studies.schedule.remaining import remaining_sentence


def test_a_settled_front_is_called_settled_and_one_that_moves_is_not():
    settled = remaining_sentence(RemainingGain(50.0, 2.0, 0.005, 0.001, 0.01, 0.9), 50.0)
    assert settled == (
        "The front has settled: 50 further epochs are expected to add 0.2% to the front's hypervolume, 0.1% to 0.5% "
        "with a probability of 90%."
    )
    moving = remaining_sentence(RemainingGain(50.0, 2.0, 0.2, 0.001, 0.4, 0.9), 50.0)
    assert moving.startswith("50 further epochs are expected to add 10.0%")


def test_what_cannot_be_predicted_is_said():
    assert "Too few runs are known" in remaining_sentence(None, 20.0)
    nothing = remaining_sentence(RemainingGain(20.0, 0.0, 0.1, 0.0, 0.2, 0.9), 20.0)
    assert nothing == "20 further epochs are expected to add a hypervolume of 0.1, from none."
