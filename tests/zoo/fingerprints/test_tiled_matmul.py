"""Inner products of differences from a base are what their definition says, however the files keep their tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from epsopt.zoo.decoding import weight_gram as products
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent
from epsopt.zoo.decoding.weight_gram import WeightProducts, weight_products
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.reading.source import Limits

State = dict[str, torch.Tensor]


def state(seed: int) -> State:
    """A matrix, its like in half precision, one that is stored transposed, a scalar, a counter, an empty tensor."""
    g = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(5, 7, generator=g),
        "a.half": torch.randn(3, 3, generator=g).bfloat16(),
        "b.weight": torch.randn(4, 6, generator=g).T,
        "b.scale": torch.randn((), generator=g),
        "b.seen": torch.tensor(seed),
        "b.nothing": torch.zeros(0),
    }


def saved(path: Path, tensors: State) -> Parent:
    if path.suffix == ".pt":
        torch.save({"model_state_dict": tensors}, path)
    else:
        safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    return Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def decoder():
    with WeightDecoder() as opened:
        yield opened


@pytest.fixture
def files(tmp_path) -> list[Parent]:
    return [saved(tmp_path / name, state(i)) for i, name in enumerate(["base.pt", "x.pt", "y.safetensors", "z.pt"])]


def by_definition(states: list[State]) -> tuple[list[np.ndarray], list[float]]:
    names = ["a.weight", "a.half", "b.weight", "b.scale"]
    wide = [{n: s[n].double().reshape(-1) for n in names} for s in states]
    differences = [torch.stack([s[n] - wide[0][n] for s in wide[1:]]) for n in names]
    return [(d @ d.T).numpy() for d in differences], [float(wide[0][n].norm()) for n in names]


def check(found: WeightProducts) -> None:
    wanted, norms = by_definition([state(i) for i in range(4)])
    assert found.names == ("a.weight", "a.half", "b.weight", "b.scale")
    assert found.others == ("b.seen", "b.nothing")
    assert found.products.shape == (4, 3, 3)
    np.testing.assert_allclose(found.products, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)


def test_products_and_norms_agree_with_their_definition(decoder, files):
    check(decoder.products(files[1:], files[0]))


@pytest.mark.parametrize("piece", [1, 4, 35])
def test_blocks_are_read_in_pieces_without_changing_the_answer(files, monkeypatch, piece):
    monkeypatch.setattr(products, "PIECE", piece)
    base, *others = ({"path": p.path, "sha256": p.sha256} for p in files)
    header, blobs = weight_products({"base": base, "checkpoints": others}, Limits())
    check(WeightProducts.from_message(header, blobs))


def test_weights_that_are_not_finite_show_in_their_own_row_only(decoder, files, tmp_path):
    broken = state(9)
    broken["a.weight"][0, 0] = torch.nan
    found = decoder.products([*files[1:], saved(tmp_path / "nan.pt", broken)], files[0])
    finite = np.isfinite(found.products).all(axis=0)
    assert finite[:3, :3].all()
    assert not finite[3, 3]


def test_a_checkpoint_that_changed_or_is_of_another_architecture_is_named(decoder, files, tmp_path):
    saved(Path(files[2].path), state(7))
    with pytest.raises(EpsoptError, match="is not what was ingested") as error:
        decoder.products(files[1:], files[0])
    assert files[2].path in str(error.value)
    wider = saved(tmp_path / "wider.pt", {**state(1), "a.weight": torch.zeros(5, 8)})
    with pytest.raises(EpsoptError, match=r"'a.weight' has shape \(5, 8\) here and \(5, 7\) there") as error:
        decoder.products([files[1], wider], files[0])
    assert wider.path in str(error.value)
    Path(files[0].path).unlink()
    with pytest.raises(EpsoptError, match="not there"):
        decoder.products(files[1:], files[0])
