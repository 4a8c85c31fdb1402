from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.fingerprints.fingerprint import FEATURES, SECTIONS, Fingerprint, fingerprint
from epsopt.zoo.fingerprints.sketch import sketch_distance

from ...sweeps import examples  # noqa: TID252


def mlp(seed: int, hidden: int = 40) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "net.0.weight": torch.randn(hidden, 9, generator=g) / 3,
        "net.0.bias": torch.randn(hidden, generator=g) * 0.1,
        "net.2.weight": torch.randn(24, hidden, generator=g) / hidden**0.5,
        "net.2.bias": torch.randn(24, generator=g) * 0.1,
        "net.4.weight": torch.randn(4, 24, generator=g) / 24**0.5,
        "net.4.bias": torch.randn(4, generator=g) * 0.1,
    }


def section(f: Fingerprint, name: str) -> np.ndarray:
    return f.features[:, SECTIONS[name]]


@pytest.mark.parametrize("name", ["SHAPE", "VALUES", "PRODUCT", "RESPONSE"])
def test_permuting_hidden_units_changes_no_column(name: str) -> None:
    weights = mlp(0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    permuted = dict(weights)
    permuted["net.0.weight"] = weights["net.0.weight"][order]
    permuted["net.0.bias"] = weights["net.0.bias"][order]
    permuted["net.2.weight"] = weights["net.2.weight"][:, order]
    before, after = fingerprint(weights.items()), fingerprint(permuted.items())
    # The order of additions decides between two neighbours in half precision, in which maps are kept.
    step = 2.0**-10 if name in {"PRODUCT", "RESPONSE"} else 1e-7
    np.testing.assert_allclose(section(before, name), section(after, name), rtol=step, atol=2e-5)


def test_product_of_the_last_block_is_the_product_of_the_chain() -> None:
    weights = mlp(1)
    product = weights["net.4.weight"] @ weights["net.2.weight"] @ weights["net.0.weight"]
    last = section(fingerprint(weights.items()), "PRODUCT")[4].reshape(16, 16)
    expected = torch.sign(product) * torch.log1p(product.abs())
    np.testing.assert_allclose(last[:4, :9], expected.numpy(), atol=2e-3)
    assert not last[4:].any()
    assert not last[:, 9:].any()


def test_chains_of_separate_modules_do_not_mix() -> None:
    weights = {f"{side}.{k}": v for side in ("a", "b") for k, v in mlp(2).items()}
    alone = fingerprint(mlp(2).items())
    both = fingerprint(weights.items())
    np.testing.assert_array_equal(both.features[:6], alone.features)
    np.testing.assert_array_equal(both.features[6:], alone.features)


def test_parallel_heads_are_fed_alike_and_the_next_module_by_the_first_of_them() -> None:
    g = torch.Generator().manual_seed(0)
    weights = {
        "encoder.hidden.0.weight": torch.randn(20, 6, generator=g),
        "encoder.mu.weight": torch.randn(4, 20, generator=g),
        "encoder.logvar.weight": torch.randn(4, 20, generator=g),
        "head.angle.0.weight": torch.randn(3, 4, generator=g),
        "head.size.0.weight": torch.randn(2, 4, generator=g),
    }

    def answers(changed: str) -> list[bool]:
        other = {k: 2 * v[torch.randperm(len(v), generator=g)] if k == changed else v for k, v in weights.items()}
        before, after = (section(fingerprint(w.items()), "RESPONSE") for w in (weights, other))
        return [bool((a != b).any()) for a, b in zip(before, after, strict=True)]

    assert answers("encoder.hidden.0.weight") == [True, True, True, True, True]
    assert answers("encoder.mu.weight") == [False, True, False, True, True]
    assert answers("encoder.logvar.weight") == [False, False, True, False, False]
    assert answers("head.angle.0.weight") == [False, False, False, True, False]


def test_a_layers_answer_is_kept_once_with_its_bias() -> None:
    answers = section(fingerprint(mlp(1).items()), "RESPONSE")
    assert not answers[[0, 2, 4]].any()
    assert np.abs(answers[[1, 3, 5]]).max(axis=1).min() > 0


@settings(max_examples=examples(25), deadline=None)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_the_sketch_is_linear_in_the_weights(a: float, b: float) -> None:
    one, two = mlp(3), mlp(4)
    mixed = {k: a * one[k] + b * two[k] for k in one}
    expected = a * fingerprint(one.items()).sketch + b * fingerprint(two.items()).sketch
    np.testing.assert_allclose(fingerprint(mixed.items()).sketch, expected, atol=1e-4)


def test_sketch_distances_are_distances_between_weights() -> None:
    one = mlp(5, hidden=400)
    near = {k: v + 0.1 * v.pow(2).mean().sqrt() * torch.randn(v.shape, generator=torch.Generator().manual_seed(9))
            for k, v in one.items()}  # fmt: skip
    flat = [torch.cat([v.flatten() for v in w.values()]) for w in (one, near)]
    real = float((flat[0] - flat[1]).norm() / max(flat[0].norm(), flat[1].norm()))
    prints = [fingerprint(w.items()) for w in (one, near, mlp(6, hidden=400))]
    assert sketch_distance(prints[0].sketch, prints[1].sketch) == pytest.approx(real, rel=0.1)
    assert sketch_distance(prints[0].sketch, prints[2].sketch) > 1.2


def test_delta_columns_are_zero_without_a_reference_and_say_the_distance_with_one() -> None:
    base, tuned = mlp(7), {k: v * 1.1 for k, v in mlp(7).items()}
    assert not section(fingerprint(tuned.items()), "DELTA").any()
    delta = section(fingerprint(tuned.items(), base.get), "DELTA")
    np.testing.assert_allclose(np.exp(delta[:, 0]), 0.1, rtol=1e-3)
    np.testing.assert_allclose(delta[:, 1], 1.0, rtol=1e-5)


def test_nan_weights_are_counted_and_kept_and_masks_of_infinity_are_not() -> None:
    weights = mlp(0)
    assert fingerprint(weights.items()).nan_weights == 0
    weights["net.0.weight"][:2] = torch.nan
    weights["net.2.weight"][0, 0] = -torch.inf
    found = fingerprint(weights.items())
    assert found.nan_weights == 18
    assert Fingerprint.from_bytes(found.to_bytes()).nan_weights == 18


def test_nan_and_infinite_weights_still_give_finite_columns() -> None:
    weights = mlp(8)
    weights["net.0.weight"][0, 0] = torch.nan
    weights["net.2.weight"][0, 0] = torch.inf
    weights["net.4.weight"] *= 1e30
    found = fingerprint(weights.items())
    assert np.isfinite(found.features).all()
    assert np.isfinite(found.sketch).all()
    against = fingerprint(mlp(8).items(), weights.get)  # a reference that has them
    assert np.isfinite(against.features).all()
    assert section(against, "DELTA").any(axis=1).all()


def test_tensors_are_read_one_at_a_time() -> None:
    alive: list[int] = []

    def stream():
        for name, value in mlp(9).items():
            alive.append(1)
            yield name, value.clone()
            alive.pop()
            assert not alive

    assert fingerprint(stream()).n_parameters == sum(v.numel() for v in mlp(9).values())


def test_integer_and_empty_tensors_are_left_out() -> None:
    weights = {**mlp(10), "steps": torch.tensor(7), "nothing": torch.zeros(0, 3)}
    assert fingerprint(weights.items()).names == tuple(mlp(10))


@pytest.mark.parametrize("shape", [(3,), (1, 5), (5, 1), (8, 3, 3, 3), (600, 300), (1, 1, 1)])
def test_any_shape_has_a_row(shape: tuple[int, ...]) -> None:
    found = fingerprint([("w", torch.randn(shape, generator=torch.Generator().manual_seed(0)))])
    assert found.features.shape == (1, FEATURES)
    assert np.isfinite(found.features).all()


def test_signature_tells_architectures_apart_but_not_weights() -> None:
    assert fingerprint(mlp(0).items()).signature == fingerprint(mlp(1).items()).signature
    assert fingerprint(mlp(0).items()).signature != fingerprint(mlp(0, hidden=41).items()).signature


def test_bytes_round_trip_without_loss() -> None:
    one = fingerprint(mlp(11).items(), mlp(0).get)
    two = Fingerprint.from_bytes(one.to_bytes())
    assert (two.names, two.shapes, two.n_parameters) == (one.names, one.shapes, one.n_parameters)
    np.testing.assert_array_equal(two.features, one.features)
    np.testing.assert_array_equal(two.sketch, one.sketch)


@pytest.mark.parametrize("cut", [0, 3, 10, 100, -5])
def test_damaged_bytes_say_what_to_do(cut: int) -> None:
    with pytest.raises(CatalogueError, match="ingest the runs again"):
        Fingerprint.from_bytes(fingerprint(mlp(0).items()).to_bytes()[:cut])


def test_a_fingerprint_is_tens_of_kilobytes_whatever_the_size() -> None:
    big = {"w.0.weight": torch.zeros(2000, 1500).normal_(), "w.1.weight": torch.zeros(2000, 2000).normal_()}
    assert len(fingerprint(big.items()).to_bytes()) < 64_000


def test_a_safetensors_file_has_the_fingerprint_of_the_same_pt_file(tmp_path) -> None:
    from safetensors.torch import save_file

    from epsopt.zoo import CheckpointContents, read_fingerprints

    g = torch.Generator().manual_seed(0)
    sizes = [(8, 4), *[(8, 8)] * 10, (3, 8)]
    weights = {}
    for i, size in enumerate(sizes):  # layer 10 comes before layer 2 in the alphabet, a bias before its weight
        weights[f"layers.{i}.weight"] = torch.randn(size, generator=g)
        weights[f"layers.{i}.bias"] = torch.randn(size[0], generator=g)
    torch.save(weights, tmp_path / "a.pt")
    save_file(weights, tmp_path / "b.safetensors")
    one, two = read_fingerprints([tmp_path / "a.pt", tmp_path / "b.safetensors"])
    assert isinstance(one, CheckpointContents)
    assert isinstance(two, CheckpointContents)
    assert one.fingerprint.names == two.fingerprint.names
    assert one.fingerprint.signature == two.fingerprint.signature
    np.testing.assert_array_equal(one.fingerprint.features, two.fingerprint.features)
