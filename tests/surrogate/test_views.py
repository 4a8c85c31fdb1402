from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import TrainingConfig, fit
from epsopt.surrogate.views import fit_tokenizer, memory_of_fit
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.fingerprint import fingerprint


def network(seed: int, width: int) -> list[tuple[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        ("hidden.weight", torch.randn(width, 5, generator=g)),
        ("hidden.bias", torch.randn(width, generator=g)),
        ("out.weight", torch.randn(3, width, generator=g)),
        ("out.bias", torch.randn(3, generator=g)),
    ]


def test_one_architecture_is_seen_block_by_block() -> None:
    prints = [fingerprint(network(s, 20)) for s in range(8)]
    tokenizer = fit_tokenizer(prints, np.arange(8))
    names = [v.name for v in tokenizer.views]
    assert "answers out.bias:3" in names
    assert "values" in names
    assert "last answers" not in names
    tokens = tokenizer(prints)
    assert tokens.shape == (8, tokenizer.slices[-1].stop)
    for place in tokenizer.slices:  # every view has total variance one
        assert float(tokens[:, place].square().sum(dim=1).mean()) == pytest.approx(1.0, abs=0.05)


def test_mixed_architectures_are_seen_by_what_all_of_them_have() -> None:
    prints = [fingerprint(network(s, 10 + s)) for s in range(12)]
    tokenizer = fit_tokenizer(prints, np.arange(12))
    names = [v.name for v in tokenizer.views]
    assert {"sizes", "last answers", "blocks"} <= set(names)
    assert "answers hidden.weight:10x5" not in names
    unseen = tokenizer([fingerprint(network(99, 50))])
    assert torch.isfinite(unseen).all()
    assert unseen.abs().sum() > 0


def test_the_last_answers_do_not_change_when_hidden_units_are_permuted() -> None:
    prints = [fingerprint(network(s, 10 + s)) for s in range(12)]
    tokenizer = fit_tokenizer(prints, np.arange(12))
    place = tokenizer.slices[[v.name for v in tokenizer.views].index("last answers")]
    weights = dict(network(3, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    permuted = [
        ("hidden.weight", weights["hidden.weight"][order]),
        ("hidden.bias", weights["hidden.bias"][order]),
        ("out.weight", weights["out.weight"][:, order]),
        ("out.bias", weights["out.bias"]),
    ]
    one, other = tokenizer([fingerprint(weights.items()), fingerprint(permuted)])[:, place]
    torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_checkpoints_that_are_all_alike_still_have_tokens() -> None:
    prints = [fingerprint(network(0, 20))] * 4
    tokens = fit_tokenizer(prints, np.arange(4))(prints)
    assert len(tokens) == 4
    assert not tokens.any()


def test_with_probes_the_embedding_is_looked_at(zoo) -> None:
    train = zoo[0]
    plain, probed = (fit(train, folds=2, probes=p, recipe=TrainingConfig(steps=30))[0] for p in (False, True))
    assert (plain.probes, probed.probes) == (False, True)
    other = train.embeddings[::-1].copy()
    assert torch.equal(plain.encode(train.fingerprints, other), plain.encode(train.fingerprints))
    assert (probed.encode(train.fingerprints, other) - probed.encode(train.fingerprints, train.embeddings)).norm() > 1
    assert torch.isfinite(probed.encode(train.fingerprints)).all()


def test_probes_without_any_embedding_are_refused(zoo) -> None:
    with pytest.raises(UsageError, match=r"hooks\.embed"):
        fit(replace(zoo[0], embeddings=None), probes=True)


def test_learning_views_takes_about_the_memory_that_it_is_expected_to():
    shapes = {f"layers.{i}.weight": (6, 6) for i in range(24)}
    prints = []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        prints.append(fingerprint((n, torch.randn(s, generator=g)) for n, s in shapes.items()))
    zoo = [prints[i % 12] for i in range(240)]
    tracemalloc.start()
    fit_tokenizer(zoo, np.arange(240) % 12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * memory_of_fit(zoo) < peak < 2.0 * memory_of_fit(zoo)
