from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from baselines import folds_of
from seeds_vae import MODELS, Predictions, keep_predictions, load_predictions, raw_weights, splits_of, train_and_predict

from epsopt.demo.model import TernaryVAE


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def weights_of(zoo) -> dict[str, torch.Tensor]:
    """Two small matrices a checkpoint, whose values tell its first metric."""
    metric = torch.from_numpy(zoo.train.metrics[:, 0]).float()
    noise = torch.randn(len(zoo), 3, 4, generator=torch.Generator().manual_seed(0))
    return {"a": noise + 3 * metric[:, None, None], "b": noise[:, :2, :2].clone()}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_learns_from_raw_weights_and_predicts_held_out_rows_the_same_each_time(bench_zoo, kind):
    inside, outside = folds_of(bench_zoo)[0]
    short, long, again = (
        train_and_predict(kind, bench_zoo, weights_of(bench_zoo), inside, outside, epochs) for epochs in (1, 30, 30)
    )
    truth = bench_zoo.train.metrics[outside]
    assert long.metrics.shape == truth.shape
    assert np.abs(long.metrics - truth).mean() < np.abs(short.metrics - truth).mean()
    np.testing.assert_array_equal(long.metrics, again.metrics)
    assert long.seconds > 0
    if kind == "hybrid":
        assert long.embeddings is not None
        assert long.embeddings.shape == (len(outside), *bench_zoo.train.embeddings.shape[1:])
    else:
        assert long.embeddings is None


@pytest.mark.parametrize("kind", MODELS)
def test_held_out_measurements_do_not_reach_a_model(bench_zoo, kind):
    inside, outside = folds_of(bench_zoo)[0]
    metrics, embeddings = bench_zoo.train.metrics.copy(), bench_zoo.train.embeddings.copy()
    metrics[outside], embeddings[outside] = np.nan, np.nan
    hidden = replace(bench_zoo, train=replace(bench_zoo.train, metrics=metrics, embeddings=embeddings))
    found = [train_and_predict(kind, z, weights_of(bench_zoo), inside, outside, 2) for z in (bench_zoo, hidden)]
    np.testing.assert_array_equal(found[0].metrics, found[1].metrics)


def test_predictions_are_found_again_only_for_the_same_checkpoints_split_and_epochs(bench_zoo, tmp_path):
    rows = splits_of(bench_zoo)["fold1"][1]
    kept = Predictions(rows, np.ones((len(rows), 2), np.float32), None, 3.5, 7.0, 4)
    keep_predictions(bench_zoo, "metrics", "fold1", kept, tmp_path)
    found = load_predictions(bench_zoo, "metrics", "fold1", 4, tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.metrics, kept.metrics)
    assert (found.embeddings, found.seconds, found.cpu_seconds, found.epochs) == (None, 3.5, 7.0, 4)
    assert load_predictions(bench_zoo, "metrics", "fold0", 4, tmp_path) is None
    assert load_predictions(bench_zoo, "hybrid", "fold1", 4, tmp_path) is None
    assert load_predictions(bench_zoo, "metrics", "fold1", 5, tmp_path) is None
    other = replace(bench_zoo, train=replace(bench_zoo.train, metrics=bench_zoo.train.metrics + 1))
    assert load_predictions(other, "metrics", "fold1", 4, tmp_path) is None


def test_raw_weights_are_the_seeds_95808_numbers_and_other_families_are_refused(bench_zoo, tmp_path):
    model = TernaryVAE()
    torch.save({"model_state_dict": model.state_dict()}, tmp_path / "a.pt")
    torch.save({"model_state_dict": {"layers.0.weight": torch.zeros(2, 2)}}, tmp_path / "b.pt")
    two = replace(bench_zoo.take([0, 1]), paths=(tmp_path / "a.pt", tmp_path / "a.pt"))
    weights = raw_weights(two)
    assert sum(w[0].numel() for w in weights.values()) == 95_808
    assert set(weights) == set(model.weight_matrices())
    torch.testing.assert_close(weights["branches.b.encoder.mu.weight"][1], model.branches["b"].encoder.mu.weight.data)
    with pytest.raises(ValueError, match=r"b\.pt has other weight matrices"):
        raw_weights(replace(two, paths=(tmp_path / "a.pt", tmp_path / "b.pt")))
