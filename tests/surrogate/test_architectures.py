"""A map of several architectures: what it says of one that it has not seen was tested on ones that it had not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import Surrogate, TrainingConfig, TrainingSet, fit
from epsopt.zoo.fingerprints.fingerprint import fingerprint
from epsopt.zoo.fingerprints.formats import FORMAT, WITHOUT_FOLLOWED


def made(run: int, epoch: int, width: int) -> tuple[object, float]:
    """A network of some width, and a metric of how large its weights are, which depends on its width too."""
    g = torch.Generator().manual_seed(10 * run + epoch)
    size = 0.5 + 0.3 * (run % 5) + 0.1 * epoch
    weights = {"a.weight": size * torch.randn(width, 6, generator=g), "b.weight": torch.randn(3, width, generator=g)}
    return fingerprint(weights.items()), size + 0.3 * float(np.sin(width))


def zoo(widths: list[int], epochs: int = 3) -> TrainingSet:
    rows = [(run, *made(run, epoch, width)) for run, width in enumerate(widths) for epoch in range(epochs)]
    runs = np.array([row[0] for row in rows])
    return TrainingSet(
        tuple(map(str, range(len(rows)))),
        tuple(row[1] for row in rows),
        runs,
        np.array(widths)[runs],
        ("size",),
        np.array([[row[2]] for row in rows]),
    )


def quick_fit(train: TrainingSet) -> Surrogate:
    return fit(train, recipe=TrainingConfig(steps=20, batch=32))[0]


@pytest.fixture(scope="module")
def mixed() -> Surrogate:
    """Twenty runs, each of its own architecture: the folds hold out architectures, too."""
    return quick_fit(zoo(list(range(4, 24))))


def test_an_architecture_like_those_held_out_is_predicted_with_their_residuals(mixed) -> None:
    new, _ = made(77, 1, 30)
    assert new.signature not in mixed.architectures
    assert mixed.refusal(new.signature) is None
    assert mixed.refusal(new.signature, 0.99) is not None, "twenty architectures say nothing of one in a hundred"
    z = mixed.encode([new])
    predicted, wider = mixed.predict(z), mixed.predict(z, unseen=np.array([True]))
    np.testing.assert_array_equal(predicted.point, wider.point)
    assert (wider.high - wider.low >= predicted.high - predicted.low - 1e-9).all()


def test_every_architecture_held_out_counts_once(mixed) -> None:
    scores, weights = mixed.unseen_scores[0]
    assert len(scores) == 60
    assert float(weights.sum()) == pytest.approx(20.0)


def test_a_map_of_a_few_architectures_refuses_another() -> None:
    surrogate = quick_fit(zoo([4, 5] * 5))
    new, _ = made(77, 1, 9)
    assert "none of the 2 that the map was trained on" in str(surrogate.refusal(new.signature))
    assert surrogate.refusal(made(0, 0, 5)[0].signature) is None
    again = Surrogate.from_bytes(*surrogate.to_bytes())
    assert again.refusal(new.signature) == surrogate.refusal(new.signature)
    assert again.architectures == surrogate.architectures


def test_an_architecture_of_other_parts_is_refused_however_many_are_known(mixed) -> None:
    g = torch.Generator().manual_seed(0)
    deeper = fingerprint([("a.weight", torch.randn(9, 6, generator=g)), ("b.weight", torch.randn(3, 9, generator=g))])
    convolved = fingerprint([("a.weight", torch.randn(9, 1, 3, 3)), ("b.weight", torch.randn(3, 9, generator=g))])
    assert mixed.refusal(deeper.signature, kinds=deeper.tensor_kinds) is None
    said = str(mixed.refusal(convolved.signature, kinds=convolved.tensor_kinds))
    assert "has tensors such as a.weight of 4 dimensions" in said
    again = Surrogate.from_bytes(*mixed.to_bytes())
    assert again.refusal(convolved.signature, kinds=convolved.tensor_kinds) == said


@pytest.mark.slow  # several fits; the first tests share one
def test_surprising_architectures_widen_the_intervals_of_unseen_ones_only() -> None:
    widths = [6] * 30 + list(range(8, 20))
    train = zoo(widths)
    odd = np.random.default_rng(0).normal(size=len(widths))[train.runs]
    train.metrics[train.lineages != 6, 0] += 3.0 * odd[train.lineages != 6]
    surrogate = quick_fit(train)
    new = made(77, 1, 40)[0]
    assert surrogate.refusal(new.signature) is None
    z = surrogate.encode([new])
    predicted, wider = surrogate.predict(z), surrogate.predict(z, unseen=np.array([True]))
    assert wider.high - wider.low > 1.2 * (predicted.high - predicted.low)


def test_weights_that_are_followed_further_are_another_training_set() -> None:
    def zoo_of(name: str, version: int) -> TrainingSet:
        prints = []
        for k in range(3):
            tensors = [("a.weight", torch.full((3, 2), 1.0 + k)), (name, torch.full((3,), 2.0 + k))]
            prints.append(replace(fingerprint(tensors), format=version))
        runs = np.arange(3)
        return TrainingSet(("0", "1", "2"), tuple(prints), runs, runs, ("loss",), np.ones((3, 1)))

    assert zoo_of("n.running_var", FORMAT).digest != zoo_of("n.running_var", WITHOUT_FOLLOWED).digest
    assert zoo_of("n.bias", FORMAT).digest == zoo_of("n.bias", WITHOUT_FOLLOWED).digest
