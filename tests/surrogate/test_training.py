"""Networks that are trained side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from joblib.externals.loky import get_reusable_executor

from epsopt.surrogate import TrainingConfig
from epsopt.surrogate.trained import train_all

FEW = TrainingConfig(steps=3, batch=16)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests have one each (conftest.py); the processes end with the test."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    yield
    get_reusable_executor().shutdown(kill_workers=True)


def networks(train) -> list[np.ndarray]:
    half = train.take(np.arange(len(train) // 2))
    return [t.latents.numpy() for t in train_all([half, train], {}, FEW, 0, lambda *_: None, probes=False)]


@pytest.mark.slow
@pytest.mark.usefixtures("whole_effort_here")  # what other processes spend, too
def test_processes_of_their_own_train_the_same_networks_as_this_process(zoo, two_cores):
    elsewhere = networks(zoo[0])
    started = [" ".join(child.cmdline()) for child in psutil.Process().children() if child.is_running()]
    assert len([command for command in started if "LokyProcess" in command]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joblib.cpu_count", lambda: 1)
        here = networks(zoo[0])
    for one, other in zip(elsewhere, here, strict=True):
        np.testing.assert_array_equal(one, other)
