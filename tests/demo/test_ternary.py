import itertools

import numpy as np
import pytest

from epsopt.demo.ternary import (
    N_OPERATIONS,
    anchors,
    fixed_pairs,
    operations,
    partners,
    target_distance,
    trits,
    valuation,
)


def brute_valuation(number):
    if number == 0:
        return 9
    count = 0
    while number % 3 == 0:
        number //= 3
        count += 1
    return count


def test_every_combination_of_nine_trits_occurs_once():
    found = {tuple(row) for row in operations().int().tolist()}
    assert found == set(itertools.product((-1, 0, 1), repeat=9))
    assert len(operations()) == N_OPERATIONS == 19_683


def test_trits_are_the_base_three_digits_lowest_first():
    for number in (0, 1, 2, 3, 5, 364, 19_682):
        digits = trits(np.array([number]))[0] + 1
        assert sum(int(d) * 3**k for k, d in enumerate(digits)) == number


@pytest.mark.parametrize("number", [*range(-30, 31), 6_561, -6_561, 13_122, 19_682])
def test_valuation_agrees_with_dividing_by_hand(number):
    assert valuation(np.array([number]))[0] == brute_valuation(number)


def test_target_distance_is_three_to_the_minus_valuation_and_an_ultrametric():
    some = np.array([0, 1, 2, 3, 9, 10, 27, 81, 6_561, 19_682])
    table = {(a, b): target_distance(np.array([a]), np.array([b]))[0] for a in some for b in some}
    for (a, b), distance in table.items():
        assert distance == (0 if a == b else 3.0 ** -brute_valuation(int(a - b)))
        assert all(distance <= max(table[a, c], table[c, b]) for c in some)


def test_target_distance_counts_the_low_trits_that_agree():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, N_OPERATIONS, (2, 200))
    differ = trits(left) != trits(right)
    first = np.where(differ.any(axis=1), differ.argmax(axis=1), np.inf)
    assert np.allclose(target_distance(left, right), 3.0**-first)


def test_partners_meet_every_level_of_the_tree_and_never_themselves():
    left = np.random.default_rng(1).integers(0, N_OPERATIONS, 9_000)
    right = partners(left, np.random.default_rng(2))
    assert right.min() >= 0
    assert right.max() < N_OPERATIONS
    assert not (left == right).any()
    counts = np.bincount(valuation(left - right), minlength=9)
    assert len(counts) == 9
    assert counts.min() > 800


def test_fixed_pairs_carry_their_own_distance_and_stay_the_same():
    left, right, target = fixed_pairs()
    fixed_pairs.cache_clear()
    again = fixed_pairs()
    assert np.allclose(target.numpy(), target_distance(left.numpy(), right.numpy()))
    assert all((a == b).all() for a, b in zip((left, right, target), again, strict=True))


def test_anchors_are_256_distinct_operations():
    chosen = anchors().tolist()
    assert len(set(chosen)) == 256
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < N_OPERATIONS
