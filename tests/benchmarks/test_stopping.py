from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import stopping
import stopping_tables
from loop_programs import PROGRAMS
from loop_workloads import Ternary, demo_space
from stopping import GRACE, Order, at_random, at_same_length, by_gain, by_halving
from stopping_tables import LENGTH, Table

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.schedule.pruner import GRACE as GRACE_EPOCHS

BASE = np.array([1.0, 0.4])
STEPS = np.arange(1.0, LENGTH + 1.0)


def table_of(curves) -> SimpleNamespace:
    program = SimpleNamespace(
        space=demo_space(), objectives=Ternary.objectives, reference=np.array([0.0, 0.4]), bounds={}
    )
    return SimpleNamespace(name="made-up", seed=0, program=program, maximize=[True, True], curves=tuple(curves))


@pytest.fixture(scope="module")
def table() -> SimpleNamespace:
    """Thirty runs: the learning rate trades coverage for dist_corr, weight decay spoils both."""
    space = demo_space()
    rate, decay = (next(p for p in space.parameters if p.name == n) for n in ("lr", "weight_decay"))
    out = []
    for config in space.sample(stopping.RUNS, np.random.default_rng(0)):
        a, b = rate.to_unit(config["lr"]), decay.to_unit(config["weight_decay"])
        values = np.stack([1 - 0.04 * STEPS * (a + b), 0.4 + 0.05 * STEPS * a * (1 - 0.5 * b)], axis=1)
        out.append(Curve(config, STEPS, values, BASE))
    return table_of(out)


def test_what_is_never_pruned_loses_nothing(table):
    outcome = Order(table, 0).replay(lambda curve, before: LENGTH)
    assert (outcome.saved, outcome.lost, outcome.stopped) == (0.0, 0.0, 0)


def test_a_rule_sees_what_is_left_of_the_runs_before(table):
    seen = []

    def keep(curve: Curve, before: list[Curve]) -> int:
        seen.append([len(c.steps) for c in before])
        return GRACE if len(before) % 2 else LENGTH

    outcome = Order(table, 0).replay(keep)
    assert seen[3] == [LENGTH, GRACE, LENGTH]
    assert outcome.saved == pytest.approx(0.5 * (1 - GRACE / LENGTH))
    assert outcome.stopped == stopping.RUNS / 2


def test_orders_are_shuffled_and_the_same_again(table):
    runs = [[str(c.config) for c in Order(table, n).curves] for n in (0, 1, 0)]
    assert runs[0] == runs[2] != runs[1]
    assert sorted(runs[0]) == sorted(runs[1])


def test_pruning_at_random_is_compared_at_the_same_share_of_epochs(table):
    order, most = Order(table, 0), 1 - GRACE / LENGTH
    assert at_random(order, 0.0) == at_same_length(order, 0.0) == 0.0
    everything = order.outcome([GRACE] * stopping.RUNS).lost
    assert at_random(order, most) == pytest.approx(everything)
    assert at_same_length(order, most) == pytest.approx(everything)
    one = [order.outcome(np.where(np.arange(stopping.RUNS) == i, GRACE, LENGTH).tolist()) for i in range(stopping.RUNS)]
    # 200 draws of which run it is: the mean of all, to within the four standard errors that luck may take.
    lost = np.array([o.lost for o in one])
    assert at_random(order, one[0].saved) == pytest.approx(lost.mean(), abs=4 * lost.std() / np.sqrt(200))


def test_moasha_keeps_the_best_share_at_each_rung(table):
    def run(level: float) -> Curve:
        return Curve({}, STEPS, np.full((LENGTH, 2), level), BASE)

    keep = by_halving(table, 2.0)
    assert keep(run(0.1), []) == LENGTH
    before = [run(v) for v in (0.2, 0.3, 0.4)]
    assert keep(run(0.1), before) == GRACE
    assert keep(run(0.5), before) == LENGTH
    assert keep(run(0.35), before) == LENGTH  # second of four
    early = [Curve({}, STEPS[:GRACE], np.full((GRACE, 2), 0.2), BASE)] * 3
    assert keep(Curve({}, STEPS, np.linspace([0.3] * 2, [0.0] * 2, LENGTH), BASE), [*early, *before]) == 4


@pytest.mark.slow  # whole replays
def test_the_pruner_of_the_command_is_replayed_with_its_own_grace(table):
    assert GRACE == GRACE_EPOCHS
    outcome = Order(table, 0).replay(by_gain(table, 0.1))
    assert 0 < outcome.stopped < stopping.RUNS
    assert outcome.lost < at_random(Order(table, 0), outcome.saved)


def test_a_table_trains_each_run_once_and_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping_tables, "RUNS", 3)
    monkeypatch.setattr(stopping_tables, "LENGTH", 2)
    whole = Table("tabular", 5, tmp_path).curves
    assert [c.values.shape for c in whole] == [(2, 2)] * 3
    file = tmp_path / "tabular-5.jsonl"
    lines = file.read_text().splitlines()
    assert json.loads(lines[0]) is None, "runs that draw their own weights have no base"
    file.write_text("\n".join(lines[:2]) + "\n")
    resumed = Table("tabular", 5, tmp_path).curves
    assert file.read_text().splitlines() == lines
    np.testing.assert_array_equal([c.values for c in resumed], [c.values for c in whole])
    monkeypatch.setattr(PROGRAMS["tabular"], "epochs", lambda *_: pytest.fail("was trained already"))
    assert len(Table("tabular", 5, tmp_path).curves) == 3


@pytest.mark.slow
def test_a_second_call_replays_nothing_and_prints_the_same_table(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "Table", lambda *_: table)
    out = tmp_path / "stopping.jsonl"
    monkeypatch.setattr(sys, "argv", ["stopping.py", *"--orders 2 --ratios --halving 2 --results".split(), str(out)])
    stopping.main()
    first, lines = capsys.readouterr().out, out.read_text()
    assert len(lines.splitlines()) == 2
    assert first.count("MOASHA, factor 2") == 2
    monkeypatch.setattr(Order, "replay", lambda *_: pytest.fail("was replayed already"))
    stopping.main()
    assert capsys.readouterr().out == first
    assert out.read_text() == lines
