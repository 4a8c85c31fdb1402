from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import zoos
from zoos import Zoo, load, seeds_split


def like_ternary(zoo: Zoo, runs: int, epochs: int) -> Zoo:
    """A zoo of that many rows, a base before them; only names and epochs mean anything."""
    rows = [("base", 0), *product([f"run_{i:03d}" for i in range(runs)], range(1, epochs + 1))]
    big = zoo.take(np.zeros(len(rows), dtype=np.int64))
    names = tuple(name for name, _ in rows)
    numbers = np.unique(names, return_inverse=True)[1]
    return replace(
        big, train=replace(big.train, runs=numbers), run_names=names, epochs=np.array([epoch for _, epoch in rows])
    )


def test_the_seeds_split_holds_out_later_runs_and_leaves_the_base_aside(bench_zoo):
    zoo = like_ternary(bench_zoo, 64, 20)
    inside, outside = seeds_split(zoo)
    assert (len(inside), len(outside)) == (825, 77)
    assert len(np.unique(inside)) == 825
    assert len(np.unique(outside)) == 77
    names = np.array(zoo.run_names)
    assert set(names[inside]) == {f"run_{i:03d}" for i in range(48)}
    assert set(names[outside]) == {f"run_{i:03d}" for i in range(48, 64)}
    assert set(zoo.epochs[outside]) == set(range(1, 21))


def test_a_zoo_too_small_for_the_seeds_split_is_refused(bench_zoo):
    with pytest.raises(ValueError, match="needs 825 and 77"):
        seeds_split(like_ternary(bench_zoo, 64, 10))


def test_taking_rows_keeps_every_column_together(bench_zoo):
    part = bench_zoo.take([12, 3])
    assert part.train.keys == (bench_zoo.train.keys[12], bench_zoo.train.keys[3])
    assert part.run_names == ("run_02", "run_00")
    assert part.epochs.tolist() == [3, 4]
    assert part.hyperparameters[0]["seed"] == 2
    assert [str(p) for p in part.paths] == ["/zoo/02-3.pt", "/zoo/00-4.pt"]


@pytest.mark.slow
def test_loading_makes_a_zoo_once_and_gives_rows_that_belong_together(tmp_path, monkeypatch):
    monkeypatch.setattr(zoos, "DIGITS_RUNS", 3)
    zoo = load("digits", 5, tmp_path, jobs=1)
    assert (len(zoo), zoo.train.n_runs) == (30, 3)
    assert zoo.train.metric_names == ("accuracy", "calibration_error", "log10_parameters", "noisy_accuracy")
    assert zoo.train.embeddings is not None
    assert zoo.train.embeddings.shape == (30, 64, 10)
    assert np.isfinite(zoo.train.metrics).all()
    for i in (0, 17, 29):
        assert zoo.paths[i].parent.name == zoo.run_names[i]
        assert zoo.paths[i].name == f"epoch_{zoo.epochs[i]:03d}.pt"
    times = {p: p.stat().st_mtime_ns for p in zoo.paths}
    again = load("digits", 5, tmp_path, jobs=1)
    assert again.train.digest == zoo.train.digest
    assert {p: p.stat().st_mtime_ns for p in again.paths} == times


def test_an_unknown_zoo_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no zoo 'mnist': expected one of ternary, bases, digits"):
        load("mnist", 0, tmp_path)
