from __future__ import annotations

import sys
from types import SimpleNamespace

import loop_trainer
import numpy as np
import pytest
import stopping
from loop_workloads import Digits, Ternary, demo_space
from stopping import GRACE, Runs, at_random, brier, by_dominance, by_forecast, calibration_error, judgements, replay

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.schedule.pruner import GRACE as GRACE_EPOCHS

BASE = np.array([1.0, 0.4])


def runs_of(curves) -> Runs:
    workload = SimpleNamespace(
        name="ternary", space=demo_space(), objectives=Ternary.objectives, length=6, reference=np.array([0.0, 0.4])
    )
    return Runs(workload, tuple(curves))


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Twelve runs of six epochs: the learning rate trades coverage for dist_corr, weight decay spoils both."""
    space, steps = demo_space(), np.arange(1.0, 7.0)
    rate, decay = (next(p for p in space.parameters if p.name == n) for n in ("lr", "weight_decay"))
    out = []
    for config in space.sample(12, np.random.default_rng(0)):
        a, b = rate.to_unit(config["lr"]), decay.to_unit(config["weight_decay"])
        grown = steps / 6
        values = np.stack([1 - 0.4 * grown * (a + b), 0.4 + 0.5 * grown * a * (1 - 0.5 * b)], axis=1)
        out.append(Curve(config, steps, values, BASE))
    return runs_of(out)


def test_the_runs_are_those_that_everybody_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_trainer, "EARLIER", 2)
    monkeypatch.setattr(Digits, "length", 2)
    found = stopping.runs_of(Digits(tmp_path), [7, 8])
    given = [run for seed in (7, 8) for run in loop_trainer.Trainer(Digits(tmp_path), 0, seed, zoo=True).runs]
    assert [c.config for c in found.curves] == [run.config for run in given]
    assert found.directions == [True, False]
    assert found.volume(found.curves) > 0.0


def test_what_is_never_stopped_loses_nothing(runs):
    outcome = replay(runs, range(12), lambda place, before: 6)
    assert (outcome.saved, outcome.lost, outcome.stopped, outcome.regretted) == (0, 0, 0, 0)


def test_stopping_every_run_after_its_grace_regrets_the_whole_front(runs):
    outcome = replay(runs, range(12), lambda place, before: GRACE)
    assert outcome.saved == pytest.approx(2 / 3)
    assert outcome.stopped == 12
    assert outcome.lost > 0
    assert outcome.regretted > 0


def test_a_run_that_another_beat_is_stopped_by_the_rule_without_a_model(runs):
    better = Curve(runs.curves[0].config, runs.curves[0].steps, np.full((6, 2), 2.0), BASE)
    keep = by_dominance(runs_of([*runs.curves, better]))
    assert keep(0, [better] * 5) == GRACE
    assert keep(12, list(runs.curves)) == 6


def test_at_random_saves_about_as_much_as_is_asked_for(runs):
    outcomes = [replay(runs, range(12), at_random(runs, 0.3, np.random.default_rng(i))) for i in range(40)]
    assert np.mean([o.saved for o in outcomes]) == pytest.approx(0.3, abs=0.05)


def test_both_rules_of_the_stopper_are_replayed(runs):
    # A rule that stops whatever is not certain stops something, one that stops nothing unlikely stops nothing.
    assert replay(runs, range(12), by_forecast(runs, threshold=0.999)).stopped > 0
    assert replay(runs, range(12), by_forecast(runs, threshold=0.0)).stopped == 0
    assert replay(runs, range(12), by_forecast(runs, worth=0.999)).stopped > 0


def test_the_grace_is_the_commands_own():
    assert GRACE == GRACE_EPOCHS


def test_runs_are_judged_by_those_before_them_and_the_truth_is_what_they_did_later(runs):
    best = Curve(runs.curves[0].config, runs.curves[0].steps, np.linspace([0.5, 0.5], [2.0, 2.0], 6), BASE)
    worst = Curve(best.config, best.steps, np.zeros((6, 2)), BASE)
    again = Curve(best.config, best.steps, best.values, BASE)
    judged = judgements(runs_of([*runs.curves[:5], best, worst, again]), range(8))
    assert [j.run for j in judged] == [5] * 4 + [6] * 4 + [7] * 4  # after five runs; epochs two to five of six
    assert [j.joined for j in judged] == [True] * 4 + [False] * 8  # to equal what was there is not to join
    assert all(0.0 <= p <= 1.0 for j in judged for p in (j.forecast, j.probability))
    assert np.shape([j.inside for j in judged]) == (12, 2, 2)
    assert all(wide or not narrow for j in judged for narrow, wide in zip(*j.inside, strict=True))


def test_scores_of_probabilities():
    joined = np.array([1.0, 0.0, 0.0, 0.0])
    assert brier(np.full(4, 0.25), joined) == pytest.approx(0.25 * 0.75)
    assert calibration_error(np.full(4, 0.25), joined) == pytest.approx(0.0)
    assert calibration_error(np.array([1.0, 0.0, 0.0, 0.4]), joined) == pytest.approx(0.1)


def test_a_second_call_replays_nothing_and_prints_the_same_table(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "runs_of", lambda *_: runs)
    out = tmp_path / "stopping.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["stopping.py", *"--orders 1 --thresholds .5 --worth .5 --results".split(), str(out)]
    )
    stopping.main()
    first, lines = capsys.readouterr().out, out.read_text()
    assert len(lines.splitlines()) == 4
    monkeypatch.setattr(stopping, "replay", _only_at_random)
    monkeypatch.setattr(stopping, "judgements", lambda *_: pytest.fail("was judged already"))
    stopping.main()
    assert capsys.readouterr().out == first
    assert out.read_text() == lines


def _only_at_random(runs, order, keep):
    assert "at_random" in keep.__qualname__
    return replay(runs, order, keep)
