from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, Validation, fit
from epsopt.surrogate.dataset import run_folds
from epsopt.surrogate.map_format import FORMAT
from epsopt.surrogate.statistics_trees import INNER_FOLDS, grow_trees, unseen_predictions, weights_digest
from epsopt.zoo.fingerprints.fingerprint import fingerprint

from ..conftest import network_weights, synthetic  # noqa: TID252


def standardised(train: TrainingSet) -> np.ndarray:
    return (train.metrics - train.metrics.mean(axis=0)) / train.metrics.std(axis=0)


def test_what_trees_say_of_a_run_is_said_without_its_measurements(zoo) -> None:
    train, targets = zoo[0], standardised(zoo[0])
    before = unseen_predictions(train, targets, 0)
    rows = run_folds(train.runs, INNER_FOLDS, 0)[1]
    changed = targets.copy()
    changed[rows] = np.random.default_rng(1).normal(size=changed[rows].shape)
    np.testing.assert_array_equal(unseen_predictions(train, changed, 0)[rows], before[rows])
    assert np.abs(unseen_predictions(train, changed, 0) - before).max() > 0.01, "the others' did change"


def test_a_table_of_statistics_says_what_fingerprints_say_where_architectures_are_mixed() -> None:
    rng, prints = np.random.default_rng(0), []
    for run in range(16):
        names = [f"layer{k}.weight" for k in range(2 + run % 3)]
        prints += [
            fingerprint([(name, torch.from_numpy(rng.normal(size=(6, 6))).float()) for name in names]) for _ in range(5)
        ]
    runs, targets = np.repeat(np.arange(16), 5), rng.normal(size=(80, 2))
    train = TrainingSet(
        tuple(map(str, range(80))), tuple(prints), runs, np.zeros(80, np.int64), ("score", "other"), targets
    )
    whole = unseen_predictions(train, targets, 0)
    for rows in run_folds(runs, INNER_FOLDS, 0):
        others = np.setdiff1d(np.arange(80), rows)
        trees = grow_trees([prints[i] for i in others], targets[others], 0)
        np.testing.assert_array_equal(trees([prints[i] for i in rows]), whole[rows])


def test_trees_of_a_metric_that_was_hardly_measured_say_nothing(zoo) -> None:
    targets = standardised(zoo[0])
    targets[9:, 0] = np.nan
    said = grow_trees(zoo[0].fingerprints, targets, 0)(zoo[0].fingerprints)
    assert (said[:, 0] == 0.0).all()
    assert (said[:, 1] != 0.0).any()


def test_a_known_checkpoint_is_encoded_to_where_it_lies_and_a_changed_one_is_not(
    zoo, fitted: tuple[Surrogate, Validation]
) -> None:
    surrogate, train = fitted[0], zoo[0]
    assert surrogate.latent == surrogate.network.shape.latent + len(train.metric_names)
    z = surrogate.encode(train.fingerprints)
    torch.testing.assert_close(z, surrogate.memory.latents, atol=1e-4, rtol=1e-4)
    other = fingerprint([(n, 1.1 * w) for n, w in synthetic(0, 1)[0].items()], network_weights(0).get)
    assert weights_digest(other) not in surrogate.memory.place
    said = surrogate.encode([other])[:, surrogate.network.shape.latent :]
    seen = surrogate.tokenizer.seen(surrogate.tokenizer([other]))
    np.testing.assert_allclose(said.numpy(), surrogate.trees([other], seen), atol=1e-6)


def test_weights_that_are_rounded_otherwise_are_known(zoo, fitted: tuple[Surrogate, Validation]) -> None:
    """The ranks of an adapter in another order, or a copy that was saved again, change no prediction."""
    surrogate, train = fitted[0], zoo[0]
    rng = np.random.default_rng(0)
    copies = [
        replace(p, sketch=(p.sketch * (1.0 + 1e-6 * rng.normal(size=p.sketch.shape))).astype(p.sketch.dtype))
        for p in train.fingerprints
    ]
    assert all(map(np.not_equal, map(weights_digest, copies), map(weights_digest, train.fingerprints)))
    torch.testing.assert_close(surrogate.encode(copies), surrogate.encode(train.fingerprints), atol=1e-4, rtol=1e-4)


def test_a_map_from_before_trees_had_a_say_still_answers(zoo, fitted: tuple[Surrogate, Validation]) -> None:
    surrogate = fitted[0]
    encoded = surrogate.network.shape.latent
    memory = replace(surrogate.memory, latents=surrogate.memory.latents[:, :encoded], weights=())
    settings = tuple(replace(s, trees=0.0, alike=0.0) for s in surrogate.settings)
    former = replace(surrogate, memory=memory, settings=settings, trees=None)
    data, meta = former.to_bytes()
    opened = Surrogate.from_bytes(data, {**meta, "format": 4})
    assert opened.latent == encoded
    z = opened.encode(zoo[0].fingerprints)
    np.testing.assert_allclose(opened.predict(z).point, former.predict(z).point, atol=1e-9)


@pytest.mark.usefixtures("real_baseline")
def test_trees_of_a_map_with_probes_see_the_embeddings_and_are_kept() -> None:
    """Steps at zero of what two groups of anchors answer, which no weight tells."""
    rng = np.random.default_rng(0)
    prints = [fingerprint([("a.weight", torch.from_numpy(rng.normal(size=(6, 6))).float())]) for _ in range(101)]
    shared = rng.normal(size=(101, 2))
    answers = (np.repeat(shared, (5, 3), axis=1)[:, :, None] + 0.1 * rng.normal(size=(101, 8, 2))).astype(np.float32)
    scores = (shared[:96, 0] > 0) + 0.5 * (shared[:96, 1] > 0) + 0.02 * rng.normal(size=96)
    keys, runs = tuple(map(str, range(96))), np.repeat(np.arange(24), 4)
    train = TrainingSet(
        keys, tuple(prints[:96]), runs, np.zeros(96, np.int64), ("score",), scores[:, None], answers[:96]
    )
    recipe = TrainingConfig(steps=40, batch=32)
    probed, plain = (fit(train, recipe=recipe, folds=4, probes=p)[0] for p in (True, False))
    own = plain.network.shape.latent
    said = [m.memory.latents[:, own:].double().numpy() - m.memory.metrics.numpy() for m in (probed, plain)]
    assert np.abs(said[0]).mean() < 0.6 * np.abs(said[1]).mean(), "of runs that trees had not seen"
    data, meta = probed.to_bytes()
    seen = [m.encode(prints[96:], answers[96:]).numpy() for m in (probed, Surrogate.from_bytes(data, meta))]
    np.testing.assert_allclose(*seen, atol=1e-6)
    other = probed.encode(prints[96:], answers[:5]).numpy()
    assert np.abs(other - seen[0])[:, own:].max() > 0.05
    assert np.isfinite(probed.encode(prints[96:]).numpy()).all(), "where no hook ran"


def test_a_map_with_probes_whose_trees_saw_weights_alone_still_answers(zoo) -> None:
    train = zoo[0]
    probed = fit(train, folds=2, probes=True, recipe=TrainingConfig(steps=30))[0]
    former = replace(probed, trees=grow_trees(train.fingerprints, standardised(train), 0))
    data, meta = former.to_bytes()
    assert meta["format"] == FORMAT
    meta.pop("tree_answers")
    meta.pop("tree_columns")
    opened = Surrogate.from_bytes(data, meta)
    z = [m.encode(train.fingerprints[:9], train.embeddings[:9]).numpy() for m in (former, opened)]
    np.testing.assert_allclose(*z, atol=1e-6)


@pytest.mark.usefixtures("real_baseline")
def test_what_only_trees_see_is_predicted_nearly_as_well_as_by_trees() -> None:
    """A step at zero of two tensors' means, among statistics that vary wildly: no smooth function of the views."""
    rng = np.random.default_rng(0)
    prints, scores = [], []
    for _ in range(24):
        side = rng.choice([-1.0, 1.0], 2)
        for _ in range(4):
            weights = rng.normal(size=(6, 8, 8)) * np.exp(rng.normal(size=(6, 1, 1)))
            for place, sign in zip((0, 3), side, strict=True):
                weights[place] += 4.0 * weights[place].std() * rng.uniform(0.05, 1.0) * sign
            tensors = torch.from_numpy(weights).float()
            prints.append(fingerprint([(f"layer{k}.weight", tensors[k]) for k in range(6)]))
            scores.append((side[0] > 0) + 0.5 * (side[1] > 0) + 0.02 * rng.normal())
    keys, runs = tuple(map(str, range(96))), np.repeat(np.arange(24), 4)
    train = TrainingSet(keys, tuple(prints), runs, np.zeros(96, np.int64), ("score",), np.array(scores)[:, None])
    found = fit(train, recipe=TrainingConfig(steps=40, batch=32), folds=4)[1].metrics[0]
    assert found.error <= 1.5 * found.statistics_error
    assert found.error < 0.3 * found.median_error
