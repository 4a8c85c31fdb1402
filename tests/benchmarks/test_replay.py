"""The replay of choices measures what was chosen, and makes no choice twice."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import replay
from replay import Batch, Books, Chosen, Prediction, row
from replay_tables import FORMULA_SPACE, Formula, TableSpace

from epsopt.optimize.schedule.run_acquisition import Candidate


def test_a_formula_measures_the_same_candidate_the_same_and_goes_on_from_checkpoints():
    one, two = Formula(3), Formula(3)
    assert [r.curve.values.tolist() for r in one.past(4)] == [r.curve.values.tolist() for r in two.past(4)]
    start = one.past(1)[0].checkpoints[4]
    run = one.measure(Candidate(one.past(1)[0].curve.config, start, 3.0))
    assert len(run.curve.steps) == 3
    assert run.curve.start is start.values
    assert np.abs(run.curve.values[0] - start.values).max() < 0.3
    assert Formula(3, base=False).base is None


def test_what_a_choice_added_is_measured_against_all_that_was_known():
    books = Books(Formula(3), Formula(3).past(6))
    before, runs = books.volume, len(books.runs)
    config = books.runs[0].curve.config
    again = books.take(Prediction(Candidate(config, books.table.base, 10.0), "run"), keep=False)
    assert (len(books.runs), books.volume) == (runs, before)
    assert again.added == 0.0, "the same run once more"
    assert not again.joined


def test_a_recorded_space_draws_only_what_was_recorded():
    rows = tuple(FORMULA_SPACE.sample(9, np.random.default_rng(0)))
    space = TableSpace(FORMULA_SPACE.parameters, rows=rows)
    rng = np.random.default_rng(1)
    drawn = [*space.sample(30, rng), *space.low_discrepancy_sample(4, 0), space.perturb(rows[0], rng)]
    assert all(c in rows for c in drawn)
    assert all(r in drawn[:9] for r in rows)


def test_figures_of_a_chooser_are_shares_and_sums():
    hit = Chosen("run", [0.0], [1.0], 1.0, 0.2, [0.5], [2.0], True, 0.1, 1.0, 4.0)
    miss = Chosen("run", [0.0], [1.0], 0.0, 0.2, [1.5], [2.0], False, 0.0, 1.0, 3.0)
    line = row("it", [Batch([hit, miss], 0.1)])
    assert "50% (0.50)" in line
    assert "0.50   0.50   0.000  0.250" in line
    assert "40.0%   10.0%   0.25     10.0%     7.0" in line


def test_a_second_call_chooses_nothing_again_and_prints_the_same(tmp_path, monkeypatch, capsys):
    arguments = "--tables formula --choosers random --known 4 --count 2 --seeds 1 --results".split()
    monkeypatch.setattr(sys, "argv", ["replay.py", *arguments, str(tmp_path / "r.jsonl")])
    replay.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(replay, "replay", lambda *_: pytest.fail("was chosen already"))
    replay.main()
    assert capsys.readouterr().out == first
