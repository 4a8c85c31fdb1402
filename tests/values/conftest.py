"""Values that people's runs log, and what a catalogue has to make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest

ABSENT = "absent"
_SMALL = [0.0, -0.0, 1.0, 1e8, -1e8, 1e-300, 9.9e299]
SHARP = [*_SMALL, 1e300, -1e300, 1.7976931348623157e308, math.inf, -math.inf, math.nan]
"""Zeros, penalties, and numbers at both sides of what counts as infinite."""

numbers = st.sampled_from(SHARP) | st.floats(width=64) | st.integers(-(10**6), 10**6)
others = st.none() | st.booleans() | st.text("abc ", max_size=5) | st.lists(st.floats(0, 1), max_size=3)

# A door is opened a few times, with many values at once: each time is an ingest.
quick = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


def kept(value: Any) -> Any:
    """What is to be in the catalogue: a finite number, None for what is not finite, nothing for what is no number."""
    if not isinstance(value, bool | int | float):
        return ABSENT
    number = float(value)
    return number if abs(number) < 1e300 else None


def save(path: Path, epoch: int, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"w": torch.randn(2, 3, generator=torch.Generator().manual_seed(epoch))}
    torch.save({"model_state_dict": weights, "epoch": epoch, **content}, path)


class Door:
    """A folder of one run, new for each try, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._tries = folder, 0
        self.catalogue: Catalogue | None = None

    def new(self) -> Path:
        self._tries += 1
        self.close()
        folder = self._folder / f"try_{self._tries}"
        folder.mkdir()
        return folder

    def read(self, folder: Path, **options: Any) -> dict[int | None, Any]:
        """Ingest the folder, twice; return what was measured as `m`, by epoch."""
        self.catalogue = Catalogue(f"sqlite:///{folder.parent / (folder.name + '.db')}")
        self.report = ingest(self.catalogue, folder, jobs=1, **options)
        assert self.report.side_file_failures == [] == self.report.failed
        found = {c.epoch: c.metrics.get("m", ABSENT) for c in self.catalogue.checkpoints()}
        again = ingest(self.catalogue, folder, jobs=1, **options)
        assert (again.added, again.not_finite) == (0, self.report.not_finite)
        lost = sum(value is None for value in found.values())
        assert sum(n.checkpoints for n in self.report.not_finite if n.metric == "m") == lost, "said, with their number"
        assert ("m" in self.catalogue.metric_names()) == any(isinstance(v, float) for v in found.values())
        return found

    def close(self) -> None:
        if self.catalogue is not None:
            self.catalogue.close()
            self.catalogue = None


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    opened = Door(tmp_path)
    yield opened
    opened.close()
