"""What `epsopt report` says while nothing has come back yet, and of options that say nothing alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from epsopt.cli.loop_tables import front_sentences
from epsopt.optimize.forecast.evaluation import front_gain
from epsopt.optimize.objectives import Objective

from .conftest import call

OBJECTIVES = [Objective("acc", maximize=True), Objective("loss", maximize=False)]


def test_a_front_that_no_proposed_run_could_widen_yet_is_compared_with_nothing():
    gain = front_gain(np.array([[0.5, 0.5], [0.6, 0.7], [0.4, 0.3]]), np.empty((0, 2)), OBJECTIVES)
    first, *_ = front_sentences(SimpleNamespace(gain=gain, merge_gain=gain, new=[], merged=[]))
    assert first.endswith("no proposed run has measured anything yet.")
    assert "before" not in first


def test_proposed_runs_of_which_nothing_joined_are_counted():
    trained, new = np.array([[0.5, 0.5], [0.6, 0.7]]), np.array([[0.1, 0.9], [0.2, 0.9]])
    gain = front_gain(trained, new, OBJECTIVES)
    for runs, expected in (
        (("a", "b"), "nothing of 2 proposed runs is on it."),
        (("a", "a"), "the one proposed run is"),
    ):
        checkpoints = [SimpleNamespace(run=run) for run in runs]
        first, *_ = front_sentences(
            SimpleNamespace(gain=gain, merge_gain=gain, new=checkpoints, merged=[], proposals=runs)
        )
        assert expected in first


def test_the_format_of_no_file_is_refused_with_what_to_add(tmp_path):
    result = call(tmp_path, "report", "--format", "md")
    assert result.status == 2
    assert "--output report.md" in result.err
