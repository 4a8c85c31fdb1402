"""Folds that are trained side by side on a real local Ray: the same map as without, also when a process is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import psutil
import pytest

from epsopt.surrogate import Surrogate, TrainingConfig, Validation, fit
from epsopt.surrogate.fitting import enough_runs
from epsopt.surrogate.side_by_side import completed, in_order
from epsopt.zoo.errors import EmptyCatalogue

pytestmark = [
    pytest.mark.slow,  # processes of Ray import torch
    pytest.mark.filterwarnings("error:The given NumPy array is not writable"),
    pytest.mark.usefixtures("whole_effort", "real_baseline"),  # what processes of their own spend
]
FEW = TrainingConfig(steps=30, batch=16)


@pytest.fixture(scope="module")
def plainly(zoo) -> tuple[Surrogate, Validation]:
    return fit(zoo[0], recipe=FEW, folds=3)


def assert_same(one: tuple[Surrogate, Validation], other: tuple[Surrogate, Validation]) -> None:
    assert one[0].to_bytes() == other[0].to_bytes()
    for name in ("point", "low", "high"):
        np.testing.assert_array_equal(*(getattr(v.held_out, name) for _, v in (one, other)))
    assert replace(one[1], seconds=0.0, held_out=None) == replace(other[1], seconds=0.0, held_out=None)


def test_the_map_and_its_validation_are_the_same_bytes_as_without_ray(zoo, plainly, local_ray):
    done = []
    there = fit(zoo[0], recipe=FEW, folds=3, cluster=local_ray, progress=lambda what, _share: done.append(what))
    assert_same(there, plainly)
    assert done[-1] == "training network 4 of 4"


def test_a_process_that_is_killed_while_it_trains_changes_nothing(zoo, plainly, local_ray):
    killed = []

    def kill(_what: str, share: float) -> None:
        if share > 0.0 and not killed:
            ours = psutil.Process().children(recursive=True)
            process = next(p for p in ours if "ray::run_call" in " ".join(p.cmdline()))
            process.kill()
            killed.append(process.pid)

    assert_same(fit(zoo[0], recipe=FEW, folds=3, cluster=local_ray, progress=kill), plainly)
    assert killed


def test_what_a_call_raises_there_is_raised_here(local_ray):
    with pytest.raises(EmptyCatalogue, match="a map needs at least 3"):
        in_order(enough_runs, [(5,), (2,)], local_ray)


def test_calls_keep_their_numbers_whatever_the_order_in_which_they_end(local_ray):
    assert dict(completed(divmod, [(i, 3) for i in range(5)], local_ray)) == {i: divmod(i, 3) for i in range(5)}
    assert in_order(max, [(i, 3) for i in range(5)], local_ray) == [3, 3, 3, 3, 4]
