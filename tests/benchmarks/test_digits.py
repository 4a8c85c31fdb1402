from __future__ import annotations

import numpy as np
import pytest
import torch
from digits import ACTIVATIONS, EPOCHS, Classifier, draw, embed, epochs, images, measure, plan, train

CONFIG = {**draw(np.random.default_rng(0)), "arch": "mlp", "width": 16, "depth": 1, "optimizer": "adam", "lr": 1e-2,
          "label_noise": 0.0, "train_size": 500, "batch_size": 64, "init_scale": 1.0, "seed": 7}  # fmt: skip


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_a_state_dict_alone_rebuilds_the_network(kind, depth, activation):
    model = Classifier(kind, 6, depth, activation).eval()
    x = images()[2][:5]
    torch.testing.assert_close(Classifier.from_state_dict(model.state_dict())(x), model(x))
    probabilities = embed(model.state_dict())
    assert probabilities.shape == (64, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_a_run_learns_and_writes_plain_checkpoints_that_the_same_seed_writes_again(tmp_path):
    last = train(tmp_path / "a", CONFIG)
    assert train(tmp_path / "b", CONFIG) == last
    files = sorted((tmp_path / "a").glob("*.pt"))
    assert len(files) == EPOCHS
    kept = torch.load(files[-1], weights_only=True)
    assert (kept["epoch"], kept["config"], kept["metrics"]) == (EPOCHS, CONFIG, last)
    assert measure(Classifier.from_state_dict(kept["model_state_dict"])) == last
    assert last["accuracy"] > 0.85
    assert last["log10_parameters"] == pytest.approx(np.log10(64 * 16 + 16 + 16 * 10 + 10))


def test_a_run_does_not_notice_who_draws_random_numbers_between_its_epochs():
    dropped = {**CONFIG, "dropout": 0.5}
    alone = [metrics for _, metrics in epochs(dropped, 3)]
    watched = []
    for _, metrics in epochs(dropped, 3):
        torch.manual_seed(99)
        watched.append(metrics)
    assert watched == alone


def test_a_run_goes_on_from_given_weights_and_leaves_them_alone():
    *_, (model, last) = epochs(CONFIG, 3)
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    before = {n: t.clone() for n, t in weights.items()}
    (first,) = (metrics for _, metrics in epochs({**CONFIG, "lr": 1e-6, "init_scale": 3.0}, 1, weights))
    assert first["accuracy"] == pytest.approx(last["accuracy"], abs=0.01)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("other", [{"width": 20}, {"depth": 2}, {"activation": (CONFIG["activation"] + 1) % 3}])
def test_a_run_does_not_go_on_from_weights_of_another_architecture(other):
    weights = Classifier("mlp", 16, 1, CONFIG["activation"]).state_dict()
    with pytest.raises(RuntimeError, match=r"activation|layers|size mismatch"):
        next(epochs({**CONFIG, **other}, 1, weights))


def test_weights_that_are_no_longer_numbers_end_a_run():
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        list(epochs({**CONFIG, "lr": float("inf")}, 1))


def test_a_network_that_is_sure_and_always_answers_one_digit_is_wrong_and_badly_calibrated():
    model = Classifier("mlp", 4, 1)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.eye(10)[3] * 50)
    found = measure(model)
    share = float((images()[3] == 3).double().mean())
    assert found["accuracy"] == found["noisy_accuracy"] == pytest.approx(share)
    assert found["calibration_error"] == pytest.approx(1 - share)


def test_a_longer_sweep_extends_a_shorter_one_and_mixes_architectures():
    short, long = plan(8, 1), plan(20, 1)
    assert {k: long[k] for k in short} == short
    assert {c["arch"] for c in long.values()} == {"mlp", "cnn"}
    assert all(("momentum" in c) == (c["optimizer"] == "sgd") for c in long.values())
    assert len({c["seed"] for c in [*long.values(), *plan(20, 2).values()]}) == 40


def test_training_and_test_images_are_the_whole_set_and_disjoint():
    x, y, x_test, y_test = images()
    assert (len(x), len(y), len(x_test), len(y_test)) == (1000, 1000, 797, 797)
    rows = {tuple(r) for r in x.flatten(1).int().tolist()}
    assert len(rows) > 1
    assert 0.0 <= float(x.min()) < float(x.max()) <= 1.0
