"""A few of many rows are spread evenly over them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epsopt.surrogate.thinning import evenly_spaced


@given(st.integers(0, 5000), st.integers(1, 300), st.sampled_from([np.rint, np.floor]))
def test_places_are_distinct_in_order_and_no_more_than_asked(n, most, rounding):
    found = evenly_spaced(n, most, rounding)
    assert len(found) == min(n, most)
    assert (np.diff(found) > 0).all()
    if n:
        assert found[0] == 0
        assert 0 <= found[-1] < n


@given(st.integers(2, 5000), st.integers(2, 300))
def test_the_last_place_is_kept_and_gaps_are_alike(n, most):
    found = evenly_spaced(n, most)
    assert found[-1] == n - 1
    gaps = np.diff(found)
    assert gaps.max() - gaps.min() <= 1
