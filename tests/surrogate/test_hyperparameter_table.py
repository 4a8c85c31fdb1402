from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, fit
from epsopt.surrogate.baselines import boosted
from epsopt.surrogate.hyperparameter_table import (
    EPOCH,
    ColumnScale,
    HyperparameterTable,
    hyperparameters_digest,
    with_epoch,
)
from epsopt.surrogate.statistics_trees import grow_all
from epsopt.surrogate.views import Seen
from epsopt.zoo.fingerprints.fingerprint import Fingerprint, fingerprint

RUNS, EACH = 24, 4


def configured(run: int) -> dict[str, object]:
    return {
        "lr": 10.0 ** -(1 + run % 3), "width": str(2 ** (4 + run % 2)), "optimizer": "adam" if run % 2 else "sgd",
        "seed": run, "name": f"run {run}", "device": "cpu", "ema": run % 4 == 0, "layers": [8, 8 + run % 2],
    }  # fmt: skip


def table() -> tuple[HyperparameterTable, list[dict[str, object] | None]]:
    runs = np.repeat(np.arange(6), 2)
    known = [with_epoch(configured(run), epoch) for run in range(6) for epoch in (1, 2)]
    return HyperparameterTable.of(known, runs), known


def test_columns_are_those_in_which_runs_differ_and_which_runs_share() -> None:
    columns, known = table()
    assert columns.numbers == ("ema", "lr", "width", EPOCH), "text that is a number counts as one"
    assert {name for name, _ in columns.categories} == {"layers", "optimizer"}, "no seed, no name, nothing constant"
    row = dict(zip((*columns.numbers, *columns.categories), columns(known)[3], strict=True))
    assert [row[name] for name in ("ema", "lr", "width", EPOCH)] == [0.0, 0.01, 32.0, 2.0]
    assert row["optimizer", "adam"] == row["layers", "[8, 9]"] == 1.0
    assert row["optimizer", "sgd"] == 0.0


def test_what_is_not_known_has_no_number() -> None:
    columns, known = table()
    odd = {**known[0], "lr": "linear", "width": None, "optimizer": "lion", EPOCH: None}
    values = dict(zip((*columns.numbers, *columns.categories), columns([odd])[0], strict=True))
    assert np.isnan([values[name] for name in ("lr", "width", EPOCH)]).all()
    assert values["optimizer", "adam"] == values["optimizer", "sgd"] == 0.0
    assert np.isnan(columns([None])).all()
    assert columns.tells([odd, None, {"other": 1, EPOCH: 3}]).tolist() == [True, False, False]
    assert with_epoch({}, 3) is None


@pytest.fixture(scope="module")
def labelled() -> tuple[TrainingSet, list[Fingerprint], np.ndarray]:
    """A score that is half in the weights and half in a hyperparameter that no weight tells."""
    rng = np.random.default_rng(0)
    noise, scale = rng.uniform(0, 1, RUNS + 8), rng.uniform(0.5, 2.0, (RUNS + 8, EACH))
    prints = [fingerprint([("a.weight", torch.from_numpy(s * rng.normal(size=(9, 9))).float())]) for s in scale.ravel()]
    scores = (noise[:, None] + 0.5 * (scale > 1.2)).ravel()
    known = tuple(with_epoch({"noise": float(n)}, e) for n in noise for e in range(EACH))
    n = RUNS * EACH
    train = TrainingSet(
        keys=tuple(map(str, range(len(prints)))), fingerprints=tuple(prints), runs=np.repeat(np.arange(RUNS + 8), EACH),
        lineages=np.zeros(len(prints), np.int64), metric_names=("score",), metrics=scores[:, None],
        hyperparameters=known,
    )  # fmt: skip
    return train.take(range(n)), prints[n:], np.arange(n, len(prints))


@pytest.mark.usefixtures("real_baseline")
def test_a_map_looks_at_hyperparameters_where_they_are_known(zoo, labelled) -> None:
    train, new, _ = labelled
    surrogate = fit(train, recipe=TrainingConfig(steps=40, batch=32), folds=4)[0]
    data, meta = surrogate.to_bytes()
    opened = Surrogate.from_bytes(data, meta)
    low, high = (with_epoch({"noise": value}, 2) for value in (0.05, 0.95))
    points = [
        m.predict(m.encode(new, hyperparameters=[known] * len(new))).point.mean()
        for m in (surrogate, opened) for known in (low, high)
    ]  # fmt: skip
    assert points[1] - points[0] > 0.4, "a third of what the hyperparameter does to the score, at the least"
    assert points[2:] == pytest.approx(points[:2])
    alone = surrogate.weights_alone(new, surrogate.encode(new), [None, *[low] * (len(new) - 1)])
    assert alone.tolist() == [True, *[False] * (len(new) - 1)]
    z = surrogate.encode(new)
    informed, of_weights = (surrogate.predict(z, weights_alone=np.full(len(new), flag)) for flag in (False, True))
    assert (of_weights.high - of_weights.low >= informed.high - informed.low - 1e-9).all()
    assert (of_weights.high - of_weights.low).mean() > 1.2 * (informed.high - informed.low).mean()
    np.testing.assert_array_equal(of_weights.point, informed.point)
    rounded = [replace(f, sketch=(f.sketch * (1.0 + 1e-6)).astype(f.sketch.dtype)) for f in train.fingerprints]
    for known in (train.fingerprints, rounded):
        assert not surrogate.weights_alone(known, surrogate.encode(known)).any(), "weights that the map knows"
    plain = fit(zoo[0], recipe=TrainingConfig(steps=20), folds=2)[0]
    assert not plain.weights_alone(new, plain.encode(new)).any(), "this map never looked at any"


def test_other_hyperparameters_make_another_training_set(labelled) -> None:
    train = labelled[0]
    other = replace(train, hyperparameters=(with_epoch({"noise": 0.5}, 0), *train.hyperparameters[1:]))
    nothing = replace(train, hyperparameters=(None,) * len(train))
    assert len({train.digest, other.digest, nothing.digest}) == 3
    assert nothing.digest == replace(train, hyperparameters=None).digest


def test_columns_of_ratios_are_compared_by_ratios_and_unknown_ones_lie_in_the_middle() -> None:
    table = np.array([[1e-4, 0.0, 3.0, 8.0], [1e-3, 0.5, 3.0, np.nan], [1e-2, 1.0, 3.0, 16.0]])
    scale = ColumnScale.of(table)
    assert scale.logarithmic == (True, False, False, False)
    scaled = scale(table)
    np.testing.assert_allclose(scaled[:, 0], np.array([-1.0, 0.0, 1.0]) * 1.5**0.5, atol=1e-9)
    np.testing.assert_allclose(scaled[:, 1], scaled[:, 0], atol=1e-9)
    assert (scaled[:, 2] == 0.0).all(), "it never varies"
    assert scaled[1, 3] == 0.0
    far = scale(np.array([[0.0, -1e300, 9.0, 1e9], [np.nan] * 4]))
    assert np.abs(far).max() == 6.0
    assert far[0, 2] == 0.0
    assert (far[1] == 0.0).all()
    assert ColumnScale(**{k: tuple(v) for k, v in json.loads(json.dumps(asdict(scale))).items()}) == scale


@pytest.mark.usefixtures("real_baseline")
def test_a_map_of_a_version_whose_trees_saw_hyperparameters_alone_answers_as_it_did(labelled) -> None:
    train, new, _ = labelled
    targets = (train.metrics - train.metrics.mean()) / train.metrics.std()
    ((trees, _),) = grow_all([(train, targets, Seen.nothing(len(train)))], 0)
    assert trees.process is None
    alone, informed = (replace(trees, informed=texts) for texts in ((), trees.informed))
    columns = trees.columns(train.hyperparameters)
    forest = boosted(columns, targets[:, 0], 1)
    former = replace(trees, forests=(forest.model_to_string(),), weighed=(0.6,), shares=(0.25,))
    known = [with_epoch({"noise": 0.5}, 2)] * len(new)
    both = 0.4 * alone(new, None, known) + 0.6 * informed(new, None, known)
    wanted = 0.75 * both + 0.25 * forest.predict(trees.columns(known))[:, None]
    np.testing.assert_allclose(former(new, None, known), wanted)
    np.testing.assert_allclose(former(new), alone(new))
    surrogate = fit(train, recipe=TrainingConfig(steps=20), folds=2)[0]
    data, meta = replace(surrogate, trees=former).to_bytes()
    for name in ("tree_scale", "process_shares"):
        del meta[name]
    opened = Surrogate.from_bytes(data, {**meta, "format": 7})
    own = surrogate.network.shape.latent
    np.testing.assert_allclose(opened.encode(new, hyperparameters=known)[:, own:], wanted, atol=1e-6)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KNOWN = st.none() | st.dictionaries(st.sampled_from(["lr", "model.width", "seed", "tags", EPOCH]), VALUES, max_size=5)


@pytest.mark.hypothesis
@given(st.lists(KNOWN, min_size=12, max_size=30))
@settings(deadline=None)
def test_any_hyperparameters_are_laid_out_and_trees_grow_on_them(rows: list[dict[str, object] | None]) -> None:
    known = [None if row is None else {EPOCH: None, **row} for row in rows]
    runs = np.arange(len(rows)) // 2
    columns = HyperparameterTable.of(known, runs)
    table = columns(known)
    assert table.shape == (len(rows), columns.width)
    assert not np.isinf(table).any()
    again = json.loads(json.dumps(asdict(columns)))
    kept = HyperparameterTable(tuple(again["numbers"]), tuple((n, word) for n, word in again["categories"]))
    np.testing.assert_array_equal(kept(known), table)
    assert hyperparameters_digest(known) == hyperparameters_digest(
        [row and dict(reversed(row.items())) for row in known]
    )
    assert np.abs(ColumnScale.of(table)(table)).max(initial=0.0) <= 6.0
    if columns.width:
        assert np.isfinite(boosted(table, np.arange(float(len(rows))), 0).predict(table)).all()
