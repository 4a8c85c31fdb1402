"""The statistics of large blocks against their definitions, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt.zoo.fingerprints import block_statistics as blocks
from epsopt.zoo.fingerprints.block_statistics import SINGULAR, ScratchMemory, delta, statistics
from epsopt.zoo.fingerprints.moments import Moments
from epsopt.zoo.fingerprints.order_statistics import order_statistics
from epsopt.zoo.fingerprints.tiled_matmul import add_transposed, times

from ...sweeps import examples  # noqa: TID252

SIZES = [(1, 1), (3, 5), (700, 300), (300, 1_100), (1_281, 641)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("k", [1, 24, 80])
def test_products_are_those_of_the_whole_matrices(shape: tuple[int, int], k: int) -> None:
    matrix, right, left = normal(*shape), normal(shape[1], k, seed=1), normal(shape[0], k, seed=2)
    np.testing.assert_allclose(times(matrix, right), matrix.astype(float) @ right, atol=1e-3)
    out = np.ones((shape[1], k), dtype=np.float32)
    add_transposed(out, matrix, left)
    np.testing.assert_allclose(out, 1 + matrix.T.astype(float) @ left, atol=1e-3)


@settings(max_examples=examples(50), deadline=None)
@given(
    rows=st.integers(1, 9),
    n=st.sampled_from([1, 2, 999, 1_001, 9_000]),
    seed=st.integers(0, 99),
    power=st.sampled_from([0, 1, 9, 99]),
    distinct=st.booleans(),
)
def test_order_statistics_are_those_of_sorted_rows(rows: int, n: int, seed: int, power: int, distinct: bool) -> None:
    values = normal(rows, n, seed=seed)
    if not distinct:  # ties, and rows of one value
        values = np.round(values * np.arange(rows, dtype=np.float32)[:, None])
    with np.errstate(over="ignore"):
        values = values**power  # evenly spread, nearly all in one bin, or infinite
    places = np.unique(np.rint(np.linspace(0, n - 1, 16)).astype(np.int64))
    np.testing.assert_array_equal(order_statistics(values, places), np.sort(values, axis=1)[:, places])


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.3, 1.0, 50.0])
def test_moments_are_central_wherever_the_mean_lies(mean: float) -> None:
    values = (np.abs(normal(400, 300)) ** 1.5 - 0.9).astype(np.float32) + np.float32(mean)
    moments = Moments()
    for start in range(0, 400, 170):
        piece = values[start : start + 170]
        rows, columns = moments.add(piece)
        np.testing.assert_allclose(rows, np.square(piece, dtype=float).sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(columns, np.square(piece, dtype=float).sum(axis=0), rtol=1e-5)
    exact = values.astype(float)
    scaled = (exact - exact.mean()) / exact.std()
    expected = [exact.mean(), exact.std(), np.log(exact.std()), np.abs(exact).mean()]
    expected += [np.log1p((scaled**3).mean()), np.log1p((scaled**4).mean())]
    np.testing.assert_allclose(moments.summary(), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("shape", [(40, 9), (200, 1_000), (1_000, 700), (400, 2_000)])
def test_a_tiny_difference_loses_nothing_to_the_size_of_the_weights(
    shape: tuple[int, int], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_VALUES_HELD", 1 << 30 if whole else 0)
    base = normal(*shape)
    matrix = base + np.float32(1e-4) * normal(*shape, seed=1)
    exact = matrix - base  # of neighbours in float32, without rounding
    found = delta(matrix, float(np.vdot(matrix, matrix)), base)
    np.testing.assert_allclose(found[2:], statistics(exact)[0], rtol=1e-4, atol=2e-5)
    assert np.exp(found[0]) == pytest.approx(np.linalg.norm(exact) / np.linalg.norm(base), rel=0.02)


@pytest.mark.parametrize("shape", [(900, 600), (600, 900)])
def test_leading_singular_values_of_a_decaying_spectrum_are_those_of_the_matrix(shape: tuple[int, int]) -> None:
    left, right = (np.linalg.qr(normal(n, 300, seed=n))[0] for n in shape)
    spectrum = 1 / np.arange(1, 301, dtype=np.float32)
    logs = statistics((left * spectrum) @ right.T)[0][-1 - SINGULAR : -1]
    np.testing.assert_allclose(logs, np.log(spectrum[:8] / np.linalg.norm(spectrum) + 1e-4), atol=0.01)


def test_memory_is_used_again_by_smaller_blocks() -> None:
    workspace = ScratchMemory()
    first = workspace.matrix(30, 20)
    assert np.shares_memory(first, workspace.matrix(10, 50))
    assert workspace.matrix(40, 20).shape == (40, 20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_block_with_wild_values_is_found_by_its_sum_of_squares(bad: float) -> None:
    wild = normal(300, 400)
    wild[7, 7] = bad
    with pytest.raises(OverflowError, match="sum of a block's squares"):
        statistics(wild, most=1e18)
    with pytest.raises(OverflowError, match="sum of a block's squares"):
        delta(normal(300, 400), 1.0, wild, most=1e18)
