"""Values that programs of `epsopt work` write: how their trials end, and what study and catalogue hold of them."""

from __future__ import annotations

import itertools
import json
import math
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from epsopt.optimize import Objective
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals
from epsopt.studies.optuna_io.queue import take_proposal
from epsopt.studies.project.project import Project
from epsopt.studies.worker.trial_runner import Run
from epsopt.zoo import Catalogue

from ..studies.fakes import FakeProposal  # noqa: TID252
from .conftest import SHARP, kept

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))
OBJECTIVES = (Objective("m", maximize=True), Objective("fine", maximize=False))


@dataclass
class Ended:
    """Stands in for a training program that has ended well, its folder written."""

    out: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def launch(self):
        return self

    def poll(self) -> int:
        return 0

    def close(self) -> None:
        pass


def write(out: Path, epoch: int, metrics: object, seed: int) -> None:
    header = json.dumps(
        {
            "__metadata__": {"metrics": json.dumps(metrics), "epoch": str(epoch)},
            "weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        }
    ).encode()
    weights = struct.pack("<4f", 1.0, 2.0, float(epoch), float(seed))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"epoch_{epoch:03d}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Let a run that wrote these metrics, epoch by epoch, end; return its result, and its trial as it is kept."""
    folder = tmp_path_factory.mktemp("work")
    url = f"sqlite:///{folder / 'epsopt.db'}"
    storage = open_storage(url)
    project = Project("p", folder / "epsopt.toml", folder / "runs", url, OBJECTIVES, {}, SPACE, ("x",), folder)
    rates = (i / 1000 for i in itertools.count())  # the same proposal is not queued twice
    with Catalogue(url) as catalogue:

        def run(*epochs: object):
            record_proposals(storage, "p", OBJECTIVES, SPACE, [FakeProposal({"lr": next(rates)})])
            taken = take_proposal(storage, "p", SPACE, worker="w")
            out = project.runs / f"proposal_{taken.number:03d}"
            for epoch, metrics in enumerate(epochs, start=1):
                write(out, epoch, metrics, taken.number)
            ended = Run(project, storage, catalogue, taken, Ended(out)).poll(None, lost=False)
            trial = optuna.load_study(study_name="p/proposals", storage=storage).trials[taken.number]
            measured = [c.metrics.get("m", "absent") for c in catalogue.checkpoints(within=out)]
            assert all(v is None or v == "absent" or math.isfinite(v) for v in measured)
            assert_finite(trial.user_attrs)
            for other in optuna.load_study(study_name="p/runs", storage=storage).trials:
                assert_finite(other.user_attrs)
                assert other.values is None or all(map(math.isfinite, other.values))
            return ended, trial, measured

        yield run


def assert_finite(value: object) -> None:
    """Hold whatever JSON there is to finite numbers."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            assert_finite(inner)
    elif isinstance(value, float):
        assert abs(value) < 1e300


@pytest.mark.parametrize("value", SHARP)
def test_a_last_value_that_is_finite_completes_the_trial_and_any_other_fails_it_with_the_reason(work, value):
    ended, trial, measured = work({"m": 0.25, "fine": 1.0}, {"m": value, "fine": 1.0})
    assert measured == [0.25, kept(value)]
    if kept(value) is None:
        assert (ended.state, trial.state, trial.values) == ("fail", TrialState.FAIL, None)
        assert "its last checkpoint has no finite m: " in ended.failure
        assert trial.user_attrs["failure"] == ended.failure
        assert "epoch_002" in ended.failure
    else:
        assert (ended.state, trial.values) == ("complete", [kept(value), 1.0])


@pytest.mark.parametrize("value", ["high", "0.5", None, [0.5], [], {"a": 0.5}])
def test_a_last_value_that_is_no_number_fails_the_trial_with_the_reason(work, value):
    ended, trial, measured = work({"m": value, "fine": 1.0})
    assert measured in (["absent"], [None])
    assert (ended.state, trial.state) == ("fail", TrialState.FAIL)
    assert "has no finite m" in ended.failure


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, None, "high"])
def test_an_odd_value_on_the_way_is_no_failure(work, value):
    ended, trial, measured = work({"m": value, "fine": 1.0}, {"m": 0.5, "fine": 1.0})
    assert (ended.state, trial.values, measured[1]) == ("complete", [0.5, 1.0], 0.5)
    assert [c["metrics"]["m"] for c in trial.user_attrs["checkpoints"]] == [None, 0.5]


@pytest.mark.parametrize("metrics", [{}, None, [], "text", [1.0, 2.0], {"other": 1.0}])
def test_metrics_that_hold_no_objective_are_said_to_be_lacking(work, metrics):
    ended, *_ = work(metrics)
    assert ended.state == "fail"
    assert "has no finite m, fine" in ended.failure


def test_constants_and_one_checkpoint_alone_complete_their_trials(work):
    same = {"m": 0.5, "fine": 0.5}
    for epochs in ([same] * 4, [same]):
        ended, trial, measured = work(*epochs)
        assert (ended.state, ended.n_checkpoints) == ("complete", len(epochs))
        assert (trial.values, measured) == ([0.5, 0.5], [0.5] * len(epochs))
