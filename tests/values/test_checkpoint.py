"""Values in the checkpoint itself."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from .conftest import kept, numbers, others, quick, save


@quick
@given(st.lists(numbers | others, min_size=1, max_size=12))
def test_a_checkpoint_s_values_are_finite_not_measured_or_absent(door, values):
    folder = door.new()
    for epoch, value in enumerate(values):
        save(folder / f"epoch_{epoch}.pt", epoch, metrics={"m": value})
    assert door.read(folder) == {epoch: kept(value) for epoch, value in enumerate(values)}


@quick
@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_tensors_and_numpy_numbers_are_values_like_any_other(door, values):
    folder = door.new()
    for epoch, value in enumerate(values):
        wrapped = [torch.tensor(value), np.float32(value), torch.tensor([value]), np.float64(value)][epoch % 4]
        save(folder / f"epoch_{epoch}.pt", epoch, metrics={"m": wrapped})
    assert door.read(folder) == {epoch: kept(value) for epoch, value in enumerate(values)}


def test_a_whole_number_that_no_float_can_hold_is_not_finite(door):
    folder = door.new()
    for epoch, value in enumerate((10**299, 10**301, -(10**400), 2**70)):
        save(folder / f"epoch_{epoch}.pt", epoch, metrics={"m": value})
    assert door.read(folder) == {0: 1e299, 1: None, 2: None, 3: float(2**70)}
