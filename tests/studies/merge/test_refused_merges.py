"""Decoded weights of which the map predicts nothing are said, and no run is planned from them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from epsopt.cli.decoded import reasons_without_prediction
from epsopt.optimize.objectives import Objective
from epsopt.studies.merge import warm_start_candidates
from epsopt.studies.merge.simplex_merge import disagreements
from epsopt.studies.merge.warm_start_candidates import merged_starts
from epsopt.zoo.catalogue.types import Checkpoint

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))
REASON = "it lies 9 from the nearest checkpoint that the map knows"


def merged(refused: str | None = None, measured: dict[str, float] | None = None) -> SimpleNamespace:
    value = float("nan") if refused else 0.5
    point = {"coverage": value, "structure": value}
    return SimpleNamespace(z=None, measured=measured, assessment=SimpleNamespace(point=point, refused=refused))


@pytest.fixture
def mixed(monkeypatch, zoo, fitted):
    """Return what is left of means, the first of which is refused, and what is said of those that are left out."""

    def starts(measured: dict[str, float] | None) -> tuple[list[object], list[tuple[str, str]]]:
        def decoded(_decoder, _catalogue, _checkpoints, _surrogate, wanted, **_):
            return [merged(REASON if i == 0 else None, measured) for i in range(len(wanted))]

        monkeypatch.setattr(warm_start_candidates, "decode_merges", decoded)
        said: list[tuple[str, str]] = []
        catalogue = SimpleNamespace(checkpoints=lambda: zoo[1])
        decoder = SimpleNamespace(hook=None)
        found = merged_starts(decoder, catalogue, fitted[0], OBJECTIVES, left_out=lambda *what: said.append(what))
        return found, said

    return starts


def test_a_mean_that_is_neither_measured_nor_predicted_is_no_start(mixed):
    found, said = mixed(None)
    assert [why for _, why in said] == [REASON]
    assert " + " in said[0][0], "it is named by its parents"
    assert all(start.metrics["coverage"] == 0.5 for start, _ in found)
    everything, nothing = mixed({"coverage": 0.25, "structure": 0.75})
    assert len(everything) == len(found) + 1, "what was measured needs no prediction"
    assert nothing == []


def test_decoded_samples_that_are_not_predicted_are_said_once_a_reason():
    assert reasons_without_prediction([merged(), None, merged(REASON), merged(REASON), merged("odd")]) == [
        f"Nothing is predicted of the decoded weights of 3, 4: {REASON}.",
        "Nothing is predicted of the decoded weights of 5: odd.",
    ]
    assert reasons_without_prediction([merged(), None]) == []


def test_a_source_that_was_calibrated_anew_does_not_blame_the_hook_that_measures():
    checkpoint = Checkpoint(1, 1, "a", "/a.pt", "x", 1, {"acc": 0.5}, {}, "s", 1, 1)
    objective = (Objective("acc", maximize=True),)
    (plain,) = disagreements(checkpoint, {"acc": 0.7}, objective)
    assert plain == "the hook measures of /a.pt acc 0.7 where its file says 0.5"
    (anew,) = disagreements(checkpoint, {"acc": 0.7}, objective, "hooks:calibrate")
    assert anew.startswith("the hook measures of /a.pt, whose statistics hooks:calibrate computed anew, acc 0.7")
