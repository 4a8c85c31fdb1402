"""Odd values all the way: through the catalogue into a map, whose predictions are finite and possible."""

from __future__ import annotations

import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch

from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import TrainingConfig, fit

from ..sweeps import sweep  # noqa: TID252
from .conftest import SHARP, save

QUICK = TrainingConfig(steps=5, batch=8)
RUNS, EPOCHS = 4, 3
ORDINARY = [0.1 + 0.05 * i for i in range(RUNS * EPOCHS)]
COLUMNS = {
    "odd among ordinary ones": [*SHARP[:6], *ORDINARY[6:]],
    "not finite but for one": [0.5, *itertools.islice(itertools.cycle([math.nan, math.inf, -math.inf, 1e300]), 11)],
    "penalties": [*ORDINARY[:9], 1e8, 1e8, 9.9e299],
    "constant": [0.5] * 12,
    "constant zero": [0.0] * 12,
    "tiny": [1e-300 * (i + 1) for i in range(12)],
    "in pairs": [v for v in ORDINARY[:6] for _ in range(2)],
}
"""What was logged of one metric, run after run; its name decides its range."""
NAMES = {"val_acc": (0.0, 100.0), "loss": (0.0, math.inf), "latency_ms": (0.0, math.inf), "m": (-math.inf, math.inf)}


def in_checkpoint(folder, epoch, values, number):
    save(folder / f"epoch_{epoch}.pt", number, metrics={**values, "listed": [0.5, 0.25], "text": "n/a"})


def in_csv(folder, epoch, values, number):
    save(folder / f"epoch_{epoch}.pt", number)
    with (folder / "metrics.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", *values, "listed"])
        if epoch == 0:
            writer.writeheader()
        for _ in range(2):  # a logger that writes every row twice
            writer.writerow({"epoch": number, **values, "listed": "[0.5, 0.25]"})


def in_json(folder, epoch, values, number):
    save(folder / f"epoch_{epoch}.pt", number)
    with (folder / "log.jsonl").open("a") as file:
        for _ in range(2):
            file.write(json.dumps({"epoch": number, **values, "listed": [0.5, 0.25]}) + "\n")


@pytest.mark.parametrize("way", sweep([in_checkpoint, in_csv, in_json]))
def test_a_map_of_odd_columns_predicts_what_is_finite_and_possible(door, way, monkeypatch):
    """All columns at once, under each name: one catalogue and one fit for each door."""

    folder = door.new()
    columns = {f"{c.replace(' ', '_')}/{n}": v for (c, v), n in itertools.product(COLUMNS.items(), NAMES)}
    for number, (run, epoch) in enumerate(itertools.product(range(RUNS), range(EPOCHS))):
        way(folder / f"run_{run}", epoch, {name: values[number] for name, values in columns.items()}, number)
    door.read(folder)
    train = training_set(door.catalogue)
    assert set(columns) <= set(train.metric_names)
    assert len(train) == RUNS * EPOCHS
    for name, values in columns.items():
        found = train.metrics[:, train.metric_names.index(name)]
        assert sorted(found[np.isfinite(found)]) == sorted(v for v in values if abs(v) < 1e300)
    surrogate, validation = fit(train, recipe=QUICK, folds=2)
    assert all(math.isfinite(v) for m in validation.metrics for v in (m.error, m.median_error, m.coverage, m.width))
    z = surrogate.encode(train.fingerprints)
    everywhere = torch.cat([z, 30.0 * torch.randn(8, z.shape[1], generator=torch.Generator().manual_seed(0))])
    for level in (0.5, 0.999):
        predicted = surrogate.predict(everywhere, level)
        for j, (name, transform) in enumerate(zip(surrogate.metric_names, surrogate.transforms, strict=True)):
            low, point, high = (ends[:, j] for ends in (predicted.low, predicted.point, predicted.high))
            assert np.isfinite([low, point, high]).all(), name
            assert (low <= point).all(), name
            assert (point <= high).all(), name
            measured = columns.get(name, [0.5])
            possible = [v for v in measured if abs(v) < 1e300]
            least, most = transform.bounds or (-math.inf, math.inf)
            assert (low >= least).all(), name
            assert (high <= most).all(), name
            if name.endswith("loss") and min(possible) >= 0.0:
                assert (low >= 0.0).all(), name
            if name.endswith("latency_ms") and min(possible) > 0.0:
                assert (low > 0.0).all(), name
