from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epsopt.optimize.pareto import hypervolume, non_dominated
from epsopt.zoo.errors import UsageError

from ..sweeps import examples  # noqa: TID252

TIED = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, 1.0000000000000002, math.inf])
NAN_RIDDEN = st.one_of(TIED, st.just(math.nan))
ANY = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(-10, 10)


def brute_force(values: np.ndarray, maximize: list[bool]) -> list[int]:
    """The definition: nothing else is as good in everything and better in something, or equal and earlier."""
    rows = [[v if up else -v for v, up in zip(row, maximize, strict=True)] for row in values.tolist()]
    usable = [i for i, row in enumerate(rows) if not any(math.isnan(v) for v in row)]

    def beaten(i: int, j: int) -> bool:
        pairs = list(zip(rows[j], rows[i], strict=True))
        return all(a >= b for a, b in pairs) and (any(a > b for a, b in pairs) or j < i)

    return [i for i in usable if not any(beaten(i, j) for j in usable if j != i)]


@st.composite
def clouds(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    m = draw(st.integers(1, 5))
    n = draw(st.integers(0, 30))
    elements = draw(st.sampled_from([TIED, NAN_RIDDEN, ANY, FINITE]))
    values = draw(arrays(np.float64, (n, m), elements=elements))
    if n and draw(st.booleans()):
        values = values[draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=40))]
    return values, draw(st.lists(st.booleans(), min_size=m, max_size=m))


@settings(max_examples=examples(800), deadline=None)
@given(clouds())
def test_front_is_the_brute_force_one_on_random_tied_duplicated_nan_and_infinite_points(cloud):
    values, maximize = cloud
    before = values.copy()
    front = non_dominated(values, maximize)
    assert front.indices.tolist() == brute_force(values, maximize)
    assert front.n_nan == int(np.isnan(values).any(axis=1).sum())
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_front_is_the_brute_force_one_on_larger_clouds_that_leave_moocores_small_case(m):
    rng = np.random.default_rng(m)
    for values in (rng.integers(0, 6, (300, m)).astype(float), rng.normal(size=(300, m))):
        values[rng.random((300, m)) < 0.02] = np.nan
        values[rng.random((300, m)) < 0.02] = np.inf
        values[rng.random((300, m)) < 0.02] = -np.inf
        maximize = [bool(flag) for flag in rng.random(m) < 0.5]
        assert non_dominated(values, maximize).indices.tolist() == brute_force(values, maximize)


def test_nothing_of_the_front_depends_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (200, 3)).astype(float)
    order = rng.permutation(200)
    front = {tuple(values[i]) for i in non_dominated(values, [True, False, True]).indices}
    assert front == {tuple(values[order][i]) for i in non_dominated(values[order], [True, False, True]).indices}


def test_an_all_nan_first_row_does_not_swallow_a_front_as_it_does_in_botorch():
    x = np.linspace(0, 1, 1500)
    values = np.stack([x, 1 - x], axis=1)
    values[0] = np.nan
    front = non_dominated(values, [True, True])
    assert front.indices.tolist() == list(range(1, 1500))
    assert front.n_nan == 1


def test_identical_rows_are_kept_once_and_the_first_stands_for_them():
    front = non_dominated([[0, 0], [1, 2], [2, 1], [1, 2], [2, 1]], [True, True])
    assert front.indices.tolist() == [1, 2]


def test_negative_and_positive_zero_are_equal():
    assert non_dominated([[-0.0, 0.0], [0.0, -0.0]], [True, False]).indices.tolist() == [0]


@pytest.mark.parametrize("values", [[], np.empty((0, 2)), np.empty((0, 2), dtype=int)])
def test_no_points_have_an_empty_front(values):
    front = non_dominated(values, [True, True])
    assert front.indices.tolist() == []
    assert front.indices.dtype == np.int64


def test_only_nan_rows_have_an_empty_front_and_are_counted():
    front = non_dominated([[np.nan, 1.0], [1.0, np.nan]], [True, True])
    assert (front.indices.tolist(), front.n_nan) == ([], 2)


def test_one_row_is_its_own_front():
    assert non_dominated([[3.0, -np.inf, 1.0]], [True, True, False]).indices.tolist() == [0]


def test_one_column_gives_the_single_best_in_either_direction():
    assert non_dominated([[1], [3], [3], [0]], [True]).indices.tolist() == [1]
    assert non_dominated([[1], [3], [3], [0]], [False]).indices.tolist() == [3]


def test_integers_that_a_double_cannot_tell_apart_are_still_ordered():
    values = np.array([[2**53, 0], [2**53 + 1, 0]])
    assert float(values[0, 0]) == float(values[1, 0])
    assert non_dominated(values, [True, True]).indices.tolist() == [1]


@pytest.mark.parametrize("view", [np.asfortranarray, lambda a: a[::-1, ::-1], lambda a: a.astype(np.float32)])
def test_memory_layout_and_precision_make_no_difference(view):
    values = view(np.random.default_rng(3).integers(0, 20, (100, 3)).astype(float))
    assert non_dominated(values, [True] * 3).indices.tolist() == brute_force(np.asarray(values), [True] * 3)


def test_a_read_only_array_is_fine():
    values = np.array([[1.0, np.inf], [np.inf, 1.0]])
    values.flags.writeable = False
    assert non_dominated(values, [True, True]).indices.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "maximize", "words"),
    [
        ([1.0, 2.0], [True, True], ["values", "(points, objectives)", "(2,)"]),
        ([[1.0, 2.0]], [True], ["maximize", "2 columns", "got 1"]),
        (np.empty((3, 0)), [], ["values", "got 0"]),
        (np.ones((2, 300)), [True] * 300, ["values", "254", "300"]),
        ([["a", "b"]], [True, True], ["values", "numbers"]),
        ([[1.0], [1.0, 2.0]], [True], ["values", "numbers"]),
    ],
)
def test_a_shape_error_says_name_expected_and_got(values, maximize, words):
    with pytest.raises(UsageError) as caught:
        non_dominated(values, maximize)
    assert all(word in str(caught.value) for word in words)


def cells_dominated(values: np.ndarray, reference: list[int], maximize: list[bool]) -> int:
    """Count the unit cells of an integer grid that some point covers: the volume, by definition."""
    signed = [[v if up else -v for v, up in zip(row, maximize, strict=True)] for row in values.tolist()]
    corner = [r if up else -r for r, up in zip(reference, maximize, strict=True)]
    cells = itertools.product(*(range(c, c + 8) for c in corner))
    return sum(any(all(p >= c + 1 for p, c in zip(row, cell, strict=True)) for row in signed) for cell in cells)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_hypervolume_is_the_number_of_covered_grid_cells(data):
    m = data.draw(st.integers(1, 4))
    maximize = data.draw(st.lists(st.booleans(), min_size=m, max_size=m))
    values = data.draw(arrays(np.int64, st.tuples(st.integers(0, 6), st.just(m)), elements=st.integers(-4, 4)))
    reference = data.draw(st.lists(st.integers(-4, 4), min_size=m, max_size=m))
    assert hypervolume(values, reference, maximize) == cells_dominated(values, reference, maximize)


def test_hypervolume_needs_only_the_front_and_skips_nan():
    values = np.random.default_rng(1).random((50, 3))
    with_nan = np.vstack([values, [np.nan, 2, 2]])
    front = values[non_dominated(values, [True] * 3).indices]
    expected = hypervolume(front, [0, 0, 0], [True] * 3)
    assert hypervolume(with_nan, [0, 0, 0], [True] * 3) == pytest.approx(expected, rel=1e-12)


def test_hypervolume_is_zero_behind_the_reference_and_infinite_for_an_infinitely_good_point():
    assert hypervolume([[1.0, -1.0], [-np.inf, np.inf]], [0, 0], [True, True]) == 0.0
    assert hypervolume([[1.0, np.inf, 1.0]], [0, 0, 0], [True, True, True]) == math.inf


@pytest.mark.parametrize("reference", [[0.0], [[0.0, 0.0]], [np.nan, 0.0], [np.inf, 0.0], ["x", "y"]])
def test_a_reference_that_does_not_fit_is_named(reference):
    with pytest.raises(UsageError, match="reference"):
        hypervolume([[1.0, 1.0]], reference, [True, True])
