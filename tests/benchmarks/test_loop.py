from __future__ import annotations

import loop
import loop_trainer
import loop_workloads
import numpy as np
import pytest
import torch
from loop import METHODS
from loop_table import read, table, volumes
from loop_trainer import Trainer
from loop_workloads import Ternary, wide_space

from epsopt.demo.files import save
from epsopt.demo.model import TernaryVAE
from epsopt.optimize.loop.choice import Start


@pytest.fixture
def ternary(tmp_path, monkeypatch) -> Ternary:
    """The ternary workload, from a base that nobody trained."""

    def untrained(path):
        torch.manual_seed(0)
        save(path, TernaryVAE(), {}, {}, 0)

    monkeypatch.setattr(loop_workloads, "ensure_base", untrained)
    return Ternary(tmp_path)


@pytest.fixture
def trainer(ternary) -> Trainer:
    """30 epochs to spend."""
    return Trainer(ternary, 30, seed=1)


def config(seed: int = 0):
    return {**wide_space().sample(1, np.random.default_rng(seed))[0], "lr": 1e-3, "encoder": "frozen"}


def test_every_run_starts_where_the_base_is_whatever_ran_before(trainer):
    before = {n: t.clone() for n, t in trainer.state("").items()}
    first = trainer.train(config(), 2)
    again = trainer.train(config(1), 1, first and trainer.base)
    assert again.start.key == ""
    for name, tensor in trainer.state("").items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_branch_starts_from_its_checkpoint_and_leaves_it_alone(trainer):
    first = trainer.train(config(), 2)
    before = {n: t.clone() for n, t in trainer.state(first.keys[0]).items()}
    start = Start(first.keys[0], first.values[0])
    branch = trainer.train(config(1), 1, start)
    torch.testing.assert_close(branch.curve.start, first.values[0])
    for name, tensor in trainer.state(first.keys[0]).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_every_epoch_is_paid_for_and_a_stopped_run_pays_for_what_it_trained(trainer):
    trainer.train(config(), stop=lambda run: len(run.values) == 3)
    trainer.train(config(1), 4)
    assert trainer.left == 30 - 7
    assert trainer.ledger.notes == [[3, 0, 1, 0], [4, 0, 0, 0]]


def test_methods_spend_their_budget_once_and_their_table_is_printed(ternary, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop_trainer, "EARLIER", 2)
    monkeypatch.setattr(Ternary, "length", 2)
    out, methods = tmp_path / "loop.jsonl", ["random", "tpe", "gp"]
    for _ in range(2):
        loop.run(ternary, methods, [1], 8, out, zoo=True)
    lines = {r["method"]: r for r in read(out)}
    assert [r["method"] for r in read(out)] == methods
    for line in lines.values():
        assert len(line["values"]) == 8
        assert len(line["earlier"]) <= 4
        assert (np.diff(volumes(line)) >= 0).all()
    table("ternary", methods, [1], 8, {(m, 1): r for m, r in lines.items()})
    assert "epochs to coverage" in capsys.readouterr().out


def test_ours_and_the_ablations_are_there():
    assert {"epsopt", "epsopt-branch", "epsopt-stop"} <= set(METHODS)
