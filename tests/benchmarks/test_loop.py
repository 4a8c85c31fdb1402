from __future__ import annotations

import loop
import loop_trainer
import loop_workloads
import numpy as np
import pytest
import torch
from digits import draw as draw_digits
from digits import train as train_digits
from loop import METHODS
from loop_ours import _Weights
from loop_table import charged, cut, read, spent, table, volumes
from loop_trainer import Trainer
from loop_workloads import Digits, Ternary, wide_space

from epsopt.demo.files import save
from epsopt.demo.model import TernaryVAE
from epsopt.optimize.schedule.run_acquisition import Start

from ..sweeps import sweep  # noqa: TID252


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


@pytest.mark.slow
def test_a_branch_starts_from_its_checkpoint_and_leaves_it_alone(trainer):
    first = trainer.train(config(), 2)
    before = {n: t.clone() for n, t in trainer.state(first.keys[0]).items()}
    start = Start(first.keys[0], first.values[0])
    branch = trainer.train(config(1), 1, start)
    torch.testing.assert_close(branch.curve.start, first.values[0])
    for name, tensor in trainer.state(first.keys[0]).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.slow
def test_every_epoch_is_paid_for_and_a_stopped_run_pays_for_what_it_trained(trainer):
    trainer.train(config(), stop=lambda run: len(run.values) == 3)
    trainer.train(config(1), 4)
    assert trainer.left == 30 - 7
    assert trainer.ledger.notes == [[3, 0, 1, 0], [4, 0, 0, 0]]


@pytest.mark.slow
def test_a_merge_is_made_of_checkpoints_and_paid_for_by_what_measuring_costs(trainer):
    first = trainer.train(config(), 1)
    second = trainer.train(config(1), 1)
    weights = _Weights(trainer)
    space, keys = weights.known()
    assert keys == [*first.keys, *second.keys]
    alone = np.zeros((len(space.by_part), 2))
    alone[:, 1] = 1.0
    merged = weights.merged(alone)
    for name, tensor in trainer.state(second.keys[0]).items():
        torch.testing.assert_close(merged[name], tensor)
    start = trainer.merge(merged)
    np.testing.assert_allclose(start.values, second.values[-1], atol=1e-3)
    assert trainer.ledger.notes[-1] == [1, 2, 0, 0]
    assert trainer.ledger.costs == [1.0, 1.0, trainer.workload.evaluation]
    assert trainer.left == 27
    assert len(weights.known()[1]) == 3


def test_what_a_measurement_costs_is_paid_before_it_counts():
    line = {
        "workload": "ternary", "reference": [0.0, 0.0], "earlier": [], "epochs": 3,
        "values": [[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]], "costs": [1.0, 0.5, 0.6, 0.9],
    }  # fmt: skip
    np.testing.assert_allclose(volumes(line), [0.1, 0.2, 0.4])
    np.testing.assert_allclose(volumes({**line, "costs": None, "earlier": [[1.0, 0.15]]}), [0.15, 0.2, 0.3])


def test_a_line_is_cut_at_what_was_paid_for():
    line = {
        "workload": "ternary", "reference": [0.0, 0.0], "earlier": [], "epochs": 4, "deciding": 1.0,
        "values": [[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4], [1.0, 0.5]], "costs": [1.0, 1.0, 0.5, 0.5, 1.0],
        "runs": [[2, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]],
    }  # fmt: skip
    short = cut(line, 3)
    assert short["values"] == [[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]]
    assert short["runs"] == [[2, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volumes(short), volumes(line)[:3])
    assert cut(line, 4) == line
    np.testing.assert_allclose(spent(charged(line, 1.0)), [1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.slow
def test_ours_spends_its_budget_and_measures_merges(ternary, tmp_path):
    out = tmp_path / "loop.jsonl"
    loop.run(ternary, ["epsopt"], [1], 8, out, zoo=False)
    (line,) = read(out)
    assert 7.0 < sum(line["costs"]) <= 8.0
    assert line["runs"][0] == [6, 0, 0, 0]
    assert any(kind == 2 for _, kind, *_ in line["runs"])


@pytest.mark.slow
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
    assert {"epsopt", "epsopt-branch", "epsopt-mix", "epsopt-stop"} <= set(METHODS)


@pytest.fixture
def digits(tmp_path) -> Trainer:
    """30 epochs of small classifiers to spend."""
    return Trainer(Digits(tmp_path), 30, seed=1)


@pytest.mark.slow
def test_a_digits_run_is_the_one_that_the_zoo_would_train(digits, tmp_path):
    config = Digits.space.sample(1, np.random.default_rng(3))[0]
    run = digits.train(config)
    plain = {n.removesuffix(f"_{config['arch']}").removesuffix(f"_{config['optimizer']}"): v for n, v in config.items()}
    last = train_digits(tmp_path, {**plain, "seed": 100_000})
    np.testing.assert_allclose(run.values[-1], [last["noisy_accuracy"], last["log10_parameters"]])
    np.testing.assert_allclose(digits.workload.evaluate(digits.state(run.keys[-1])), run.values[-1])


def test_every_zoo_run_of_digits_lies_in_the_workloads_space():
    for i in range(200):
        config = draw_digits(np.random.default_rng(i))
        arch, optimizer = config["arch"], config["optimizer"]
        config[f"width_{arch}"], config[f"lr_{optimizer}"] = config.pop("width"), config.pop("lr")
        assert Digits.space.validation_error(config) is None


def test_a_digits_branch_keeps_the_architecture_and_the_size(digits):
    first = digits.train(Digits.space.sample(1, np.random.default_rng(0))[0], 2)
    start = digits.starts()[-1]
    assert {"arch", "depth", "activation", f"width_{first.config['arch']}"} <= set(start.fixed)
    branch = digits.train({**first.config, "dropout": 0.0}, 2, start)
    assert branch.values[0, 1] == first.values[0, 1]
    np.testing.assert_array_equal(branch.curve.start, first.values[-1])
    with pytest.raises(RuntimeError, match="activation"):
        digits.train({**first.config, "activation": (first.config["activation"] + 1) % 3}, 2, start)


def test_the_books_know_that_digits_starts_from_nothing_and_no_network_is_beyond_the_reference(digits):
    run = digits.train(Digits.space.sample(1, np.random.default_rng(0))[0], 1)
    assert digits.base is None
    assert run.curve.start is None
    assert digits.ledger.notes == [[1, 0, 0, 0]]
    largest = {"arch": "mlp", "width_mlp": 128, "depth": 3}
    at_the_edge = digits.train({**Digits.space.sample(1, np.random.default_rng(1))[0], **largest}, 1)
    assert at_the_edge.values[0, 1] <= digits.reference[1] + 1e-12


def test_a_diverged_epoch_of_digits_is_paid_for_and_counts_as_nothing(digits, monkeypatch):
    def diverging(*_):
        yield from ()
        raise FloatingPointError("weights are no longer numbers")

    monkeypatch.setattr(loop_workloads.digits, "epochs", diverging)
    run = digits.train(Digits.space.sample(1, np.random.default_rng(0))[0])
    assert digits.left == 29
    assert digits.ledger.notes == [[0, 0, 0, 1]]
    assert digits.final(run) == digits.ledger.values[0] == digits.reference.tolist()


def test_earlier_runs_of_digits_are_kept_and_may_be_started_from(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_trainer, "EARLIER", 2)
    monkeypatch.setattr(Digits, "length", 2)
    first = Trainer(Digits(tmp_path), 4, seed=1, zoo=True)
    monkeypatch.setattr(loop_workloads.digits, "epochs", None)  # what is kept is not trained again
    again = Trainer(Digits(tmp_path), 4, seed=1, zoo=True)
    assert again.left == 4
    assert [s.key for s in again.starts()] == ["zoo/0/1", "zoo/0/2", "zoo/1/1", "zoo/1/2"]
    for a, b in zip(first.runs, again.runs, strict=True):
        assert a.config == b.config
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_allclose(again.workload.evaluate(again.state(b.keys[-1])), b.values[-1])


def test_a_smaller_network_widens_the_front_of_digits_and_a_larger_one_does_not():
    line = {
        "workload": "digits",
        "earlier": [],
        "reference": [0.1, 4.0],
        "values": [[0.5, 3.0], [0.5, 3.5], [0.5, 2.0]],
        "epochs": 3,
    }
    np.testing.assert_allclose(volumes(line), [0.4, 0.4, 0.8])


@pytest.mark.parametrize("method", sweep(sorted(METHODS, key=lambda m: m not in ("epsopt", "random", "tpe")), quick=1))
def test_every_method_spends_its_budget_on_digits(method, tmp_path, monkeypatch, capsys):
    if method == "moasha":
        pytest.importorskip("syne_tune", reason="no dependency of ours: only this peer needs it")
    monkeypatch.setattr(Digits, "length", 1)  # so that models are asked after ten epochs
    out = tmp_path / "loop.jsonl"
    loop.run(Digits(tmp_path), [method], [1], 13, out, zoo=False)
    (line,) = read(out)
    assert line["workload"] == "digits"
    assert len(line["values"]) == 13
    table("digits", [method], [1], 13, {(method, 1): line})
    assert "noisy_accuracy and log10_parameters" in capsys.readouterr().out


def test_the_target_of_digits_is_a_smaller_network(capsys):
    rows = [[0.7, 3.0 + i / 100] for i in range(40)]
    line = {"workload": "digits", "earlier": [], "reference": [0.1, 4.0], "deciding": 0.0, "values": rows,
            "epochs": 40, "runs": [[1, 0, 0, 0]] * 40}  # fmt: skip
    quick = {**line, "values": [[0.5, 2.0], [0.7, 2.5], *rows[2:]]}
    table("digits", ["random", "gp"], [1], 40, {("random", 1): line, ("gp", 1): quick})
    printed = capsys.readouterr().out
    assert "noisy_accuracy >= 0.6 and log10_parameters < 3.01" in printed
    assert printed.splitlines()[-1].split() == ["gp", "2", "2"]
