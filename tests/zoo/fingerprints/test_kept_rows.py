"""Fingerprints of networks with many tensors: their size is bounded, and what they leave out is the same everywhere."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from epsopt.surrogate import TrainingConfig, fit
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.map_format import OtherVersion
from epsopt.surrogate.refinement import refinable
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.fingerprints.fingerprint import SECTIONS, Fingerprint, fingerprint
from epsopt.zoo.fingerprints.formats import FORMAT, UNBOUNDED, WITHOUT_STREAMS, header_of
from epsopt.zoo.fingerprints.kept_rows import MOST_BYTES, MOST_ROWS, kept_rows

_MAPS = SECTIONS["PRODUCT"].start


def deep(blocks: int, seed: int = 0, width: int = 24, scale: float = 0.2) -> dict[str, torch.Tensor]:
    """A network with nine tensors a block, as in a Llama, none of which is like another."""
    g = torch.Generator().manual_seed(seed)
    weights = {"embed.weight": torch.randn(40, width, generator=g)}
    for i in range(blocks):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate", "up", "down"):
            weights[f"layers.{i}.{name}.weight"] = scale * torch.randn(width, width, generator=g)
        for name in ("norm", "second_norm"):
            weights[f"layers.{i}.{name}.weight"] = 1 + scale * torch.randn(width, generator=g)
    return {**weights, "head.weight": torch.randn(8, width, generator=g)}


def looked_at(weights: dict[str, torch.Tensor], base: dict[str, torch.Tensor] | None = None) -> Fingerprint:
    return fingerprint(weights.items(), None if base is None else base.get)


def as_before(weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, np.ndarray]:
    """The bytes of a format that kept everything, and the columns of every tensor."""
    held: list[np.ndarray] = []
    of_tensors = Fingerprint.of_tensors

    def watched(names, shapes, features, *others):
        held.append(features.copy())
        return of_tensors(names, shapes, features, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Fingerprint, "of_tensors", watched)
        found = looked_at(weights)
    (features,) = held
    named = {"format": UNBOUNDED, "names": found.names, "shapes": found.shapes, "n_parameters": found.n_parameters}
    header = json.dumps(named).encode()
    body = features[:, :_MAPS].astype("<f4").tobytes() + features[:, _MAPS:].astype("<f2").tobytes()
    return struct.pack("<I", len(header)) + header + zlib.compress(body + found.sketch.tobytes()), features


def test_a_network_of_few_tensors_keeps_all_of_each():
    weights = deep(4)
    found = looked_at(weights)
    assert not found.kept.is_bounded
    assert found.kept.names == tuple(weights)
    assert found.statistics.shape[0] == found.maps.shape[0] == len(weights)


@pytest.mark.parametrize("blocks", [33, 100, 400])
def test_the_bytes_of_a_fingerprint_are_bounded(blocks):
    found = looked_at(deep(blocks, seed=1), deep(blocks))
    names = zlib.compress(json.dumps({"names": found.names, "shapes": found.shapes}).encode())
    assert len(found.to_bytes()) <= MOST_BYTES + max(len(names) - 4_000, 0)
    assert len(found.statistics) <= MOST_ROWS
    assert 8 <= len(found.maps) <= 40


def test_what_it_takes_is_bounded_whatever_kinds_of_tensors_there_are():
    g = torch.Generator().manual_seed(0)
    for n in (30, 45, 60, 100, 150, 200, 256, 300):
        for biases in (False, True):
            weights: dict[str, torch.Tensor] = {}
            for i in range(n // (1 + biases)):
                weights[f"l{i}.weight"] = torch.randn(32, 32, generator=g) / 6
                if biases:
                    weights[f"l{i}.bias"] = torch.randn(32, generator=g)
            base = {k: torch.randn(v.shape, generator=g) for k, v in weights.items()}
            assert len(looked_at(weights, base).to_bytes()) <= MOST_BYTES, (n, biases)


def test_the_first_and_the_last_module_answer_and_every_role_has_rows():
    found = looked_at(deep(33))
    kept = found.kept
    answering = [kept.names[row] for row in kept.answering]
    assert answering[0] == "embed.weight"
    assert answering[-1] == "head.weight"
    assert {name.split(" ... ")[0].split(".")[2] for name in kept.names if name.startswith("layers")} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate", "up", "down", "norm", "second_norm",
    }  # fmt: skip
    assert sum(len(group) for group in kept.groups) == len(found.names)
    assert sorted(i for group in kept.groups for i in group) == list(range(len(found.names)))


def test_neighbours_of_one_role_share_a_row_and_their_statistics_are_averaged(monkeypatch):
    weights = deep(60)
    found, (_, features) = looked_at(weights), as_before(weights, monkeypatch)
    row = next(i for i, group in enumerate(found.kept.groups) if len(group) > 1)
    group = found.kept.groups[row]
    names = [found.names[i] for i in group]
    assert len({name.split(".", 2)[2] for name in names}) == 1
    assert [int(name.split(".")[1]) for name in names] == list(
        range(int(names[0].split(".")[1]), int(names[0].split(".")[1]) + len(names))
    )
    np.testing.assert_allclose(found.statistics[row], features[list(group), :_MAPS].mean(axis=0), rtol=1e-5)


def test_an_earlier_fingerprint_is_read_as_what_is_kept_now(monkeypatch):
    weights = deep(33)
    data, _ = as_before(weights, monkeypatch)
    now, before = looked_at(weights), Fingerprint.from_bytes(data)
    assert len(data) > 3 * len(now.to_bytes())
    assert before.signature == Fingerprint.signature_of(now.names, now.shapes, WITHOUT_STREAMS)
    np.testing.assert_array_equal(before.statistics, now.statistics)
    np.testing.assert_array_equal(before.maps, now.maps)
    assert replace(before, format=FORMAT).to_bytes() == now.to_bytes()
    assert header_of(now.to_bytes())[0]["names"] == tuple(weights)


@pytest.mark.parametrize("size", [12, 200])
def test_many_matrices_of_one_module_are_bounded_too(size):
    g = torch.Generator().manual_seed(0)
    weights = {f"experts.{i // size}.w.{i % size}": torch.randn(24, 24, generator=g) for i in range(240)}
    recurrent = {}
    for layer in range(40):
        for part, shape in (("weight_ih", (32, 24)), ("weight_hh", (32, 8)), ("bias_ih", (32,)), ("bias_hh", (32,))):
            recurrent[f"lstm.{part}_l{layer}"] = torch.randn(shape, generator=g)
    for network in (weights, recurrent):
        found = looked_at(network)
        assert found.kept.is_bounded
        assert len(found.maps) >= 8
        assert len(found.to_bytes()) <= MOST_BYTES


def test_checkpoints_of_one_architecture_share_their_names():
    one, other = (Fingerprint.from_bytes(looked_at(deep(3, seed=s)).to_bytes()) for s in (0, 1))
    assert one.names is other.names
    assert one.shapes is other.shapes


def test_names_without_any_order_are_bounded_too():
    names = tuple(f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}.w" for i in range(900))
    kept = kept_rows(names, tuple(2 for _ in names))
    assert len(kept.groups) <= MOST_ROWS
    assert sorted(i for group in kept.groups for i in group) == list(range(900))


@pytest.fixture(scope="module")
def deep_zoo() -> TrainingSet:
    """Twelve runs of four checkpoints; the metric is the size of one late matrix."""
    base, rng = deep(33), np.random.default_rng(0)
    prints, metrics = [], []
    for run in range(12):
        goal, size = deep(33, seed=run + 1), rng.uniform(0.1, 1.0)
        for step in range(4):
            share = size * (step + 1) / 4
            weights = {k: v + share * (goal[k] - v) for k, v in base.items()}
            prints.append(looked_at(weights, base))
            metrics.append([float(weights["layers.30.up.weight"].std())])
    n = len(prints)
    return TrainingSet(
        tuple(map(str, range(n))), tuple(prints), np.repeat(np.arange(12), 4), np.zeros(n, dtype=np.int64), ("size",),
        np.array(metrics),
    )  # fmt: skip


def test_a_map_is_learned_from_such_networks_and_kept(deep_zoo):
    recipe = TrainingConfig(steps=60)
    surrogate, validation = fit(deep_zoo, folds=3, recipe=recipe)
    assert validation.metrics[0].error < 0.5 * deep_zoo.metrics.std()
    again = Surrogate.from_bytes(*surrogate.to_bytes())
    torch.testing.assert_close(again.encode(deep_zoo.fingerprints), surrogate.encode(deep_zoo.fingerprints))


def test_a_map_that_was_learned_from_more_asks_for_a_new_fit(deep_zoo):
    surrogate, _ = fit(deep_zoo, folds=3, recipe=TrainingConfig(steps=30))
    data, meta = surrogate.to_bytes()
    old = Surrogate.from_bytes(data, {**meta, "fingerprint_format": UNBOUNDED})
    with pytest.raises(OtherVersion, match="run 'epsopt fit' again"):
        old.encode(deep_zoo.fingerprints[:1])
    assert "took its fingerprints" in (refinable(old, deep_zoo) or "")
    assert refinable(Surrogate.from_bytes(data, meta), deep_zoo) is None
    shallow = replace(looked_at(deep(2)), format=WITHOUT_STREAMS)
    assert torch.isfinite(old.encode([shallow])).all()
    assert old.to_bytes()[1]["fingerprint_format"] == UNBOUNDED
