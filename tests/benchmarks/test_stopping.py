from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import stopping
from loop_workloads import demo_space
from stopping import GRACE, at_random, by_dominance, by_forecast, replay

from epsopt.optimize.loop.curves import Curve

BASE = np.array([1.0, 0.4])


@pytest.fixture(scope="module")
def curves() -> list[Curve]:
    """Twelve runs of six epochs: the learning rate trades coverage for dist_corr, weight decay spoils both."""
    space, steps = demo_space(), np.arange(1.0, 7.0)
    rate, decay = (next(p for p in space.parameters if p.name == n) for n in ("lr", "weight_decay"))
    out = []
    for config in space.sample(12, np.random.default_rng(0)):
        a, b = rate.to_unit(config["lr"]), decay.to_unit(config["weight_decay"])
        grown = steps / 6
        values = np.stack([1 - 0.4 * grown * (a + b), 0.4 + 0.5 * grown * a * (1 - 0.5 * b)], axis=1)
        out.append(Curve(config, steps, values, BASE))
    return out


def test_curves_are_of_every_run_but_the_base_and_know_what_is_active():
    config = {**demo_space().sample(1, np.random.default_rng(0))[0], "encoder": "frozen", "kl_weight": 0.1}
    zoo = SimpleNamespace(
        train=SimpleNamespace(
            metric_names=("dist_corr", "loss", "coverage"),
            metrics=np.array([[0.4, 9.0, 1.0], [0.5, 8.0, 0.9], [0.6, 7.0, 0.8]]),
        ),
        epochs=np.array([0, 1, 2]),
        run_names=("base", "run_000", "run_000"),
        hyperparameters=({"stage": "base"}, config, config),
    )
    (curve,) = stopping.curves_of(zoo)
    assert "lr" in curve.config
    assert "kl_weight" not in curve.config
    np.testing.assert_array_equal(curve.values, [[0.9, 0.5], [0.8, 0.6]])
    np.testing.assert_array_equal(curve.start, [1.0, 0.4])
    np.testing.assert_array_equal(stopping.reference_of([curve]), [0.0, 0.4])


def test_what_is_never_stopped_loses_nothing(curves):
    outcome = replay(curves, range(12), lambda place, before: 6)
    assert (outcome.saved, outcome.lost, outcome.stopped, outcome.regretted) == (0, 0, 0, 0)


def test_stopping_every_run_after_its_grace_regrets_the_whole_front(curves):
    outcome = replay(curves, range(12), lambda place, before: GRACE)
    assert outcome.saved == pytest.approx(0.5)
    assert outcome.stopped == 12
    assert outcome.lost > 0
    assert outcome.regretted > 0


def test_a_run_that_another_beat_is_stopped_by_the_rule_without_a_model(curves):
    better = Curve(curves[0].config, curves[0].steps, np.full((6, 2), 2.0), BASE)
    keep = by_dominance([*curves, better])
    assert keep(0, [better] * 5) == GRACE
    assert keep(12, curves) == 6


def test_at_random_saves_about_as_much_as_is_asked_for(curves):
    outcomes = [replay(curves, range(12), at_random(curves, 0.3, np.random.default_rng(i))) for i in range(40)]
    assert np.mean([o.saved for o in outcomes]) == pytest.approx(0.3, abs=0.05)


def test_both_rules_of_the_stopper_are_replayed(curves):
    # A rule that stops whatever is not certain stops something, one that stops nothing unlikely stops nothing.
    assert replay(curves, range(12), by_forecast(curves, threshold=0.999)).stopped > 0
    assert replay(curves, range(12), by_forecast(curves, threshold=0.0)).stopped == 0
    assert replay(curves, range(12), by_forecast(curves, worth=0.999)).stopped > 0


def test_a_second_call_replays_nothing_and_prints_the_same_table(curves, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "load", lambda *_: None)
    monkeypatch.setattr(stopping, "curves_of", lambda _: curves)
    out = tmp_path / "stopping.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["stopping.py", *"--orders 1 --thresholds .5 --worth .5 --results".split(), str(out)]
    )
    stopping.main()
    first, lines = capsys.readouterr().out, out.read_text()
    assert len(lines.splitlines()) == 3
    monkeypatch.setattr(stopping, "replay", _only_at_random)
    stopping.main()
    assert capsys.readouterr().out == first
    assert out.read_text() == lines


def _only_at_random(curves, order, keep):
    assert "at_random" in keep.__qualname__
    return replay(curves, order, keep)
