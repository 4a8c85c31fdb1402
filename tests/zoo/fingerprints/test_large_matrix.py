"""What a GPU computes of large matrices is what the processor does; the same PyTorch code runs on both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from epsopt.zoo.fingerprints import fingerprint as module
from epsopt.zoo.fingerprints.fingerprint import SECTIONS, Fingerprint, fingerprint
from epsopt.zoo.fingerprints.large_matrix import LargeMatrix

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1)


def weights(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "conv.weight": (40, 3, 3, 3),
        "conv.bias": (40,),
        "block.attn.in_proj_weight": (1_200, 400),
        "block.attn.out_proj.weight": (400, 400),
        "block.c_fc.weight": (400, 700),  # Conv1D keeps inputs first
        "wide.weight": (300, 1_100),
        "tall.weight": (1_281, 300),
        "row.weight": (1, 900),
    }
    return {n: (0.1 + torch.randn(s, generator=generator)).to(dtype) for n, s in shapes.items()}


def both(state: dict[str, torch.Tensor], base: dict[str, torch.Tensor] | None = None) -> Iterator[Fingerprint]:
    for device in (None, DEVICE):
        yield fingerprint(state.items(), None if base is None else base.get, device)


def assert_alike(one: Fingerprint, other: Fingerprint) -> None:
    assert (one.names, one.shapes, one.n_parameters, one.nan_weights) == (
        other.names, other.shapes, other.n_parameters, other.nan_weights,
    )  # fmt: skip
    for name, section in SECTIONS.items():
        # What is kept in half precision differs by a step of it.
        tolerance = 2e-3 if name in {"PRODUCT", "RESPONSE"} else 1e-4
        expected, found = one.features[:, section], other.features[:, section]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(other.sketch, one.sketch, rtol=1e-4, atol=1e-4 * np.abs(one.sketch).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprints_agree_with_and_without_a_reference(dtype: torch.dtype) -> None:
    base, state = weights(dtype=dtype), weights(1, dtype=dtype)
    moved = {n: (b + 0.1 * state[n]).to(dtype) for n, b in base.items()}
    assert_alike(*both(moved))
    assert_alike(*both(moved, base))


def test_fingerprints_agree_on_weights_that_are_no_numbers_or_too_large() -> None:
    base, state = weights(), weights(1)
    state["wide.weight"][3, :5] = torch.nan
    state["tall.weight"][0, 0] = torch.inf
    state["block.attn.out_proj.weight"][1, 1] = -1e30
    base["wide.weight"][1, 1] = torch.nan
    base["tall.weight"][2, 2] = 1e20
    one, other = both(state, base)
    assert one.nan_weights == 5
    assert_alike(one, other)


def test_a_gpu_whose_memory_does_not_suffice_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LargeMatrix, "statistics", full)
    one, other = both(weights(1), weights())
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.sketch, other.sketch)


def test_small_matrices_and_vectors_stay_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 300 * 1_100)
    moved: list[tuple[int, ...]] = []
    plain = LargeMatrix.__init__

    def counted(self: LargeMatrix, tensor: torch.Tensor, device: torch.device) -> None:
        moved.append(tuple(tensor.shape))
        plain(self, tensor, device)

    monkeypatch.setattr(LargeMatrix, "__init__", counted)
    fingerprint({**weights(), "vector": torch.ones(400_000)}.items(), None, DEVICE)
    assert moved == [(1_200, 400), (300, 1_100), (1_281, 300)]
