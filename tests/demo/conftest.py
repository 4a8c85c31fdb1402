from pathlib import Path

import pytest
import torch

from epsopt.demo.base import base_path, ensure_base

from ..once import once  # noqa: TID252


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quick_base(tmp_path_factory) -> Path:
    """A base of one epoch: good enough to be a checkpoint."""
    return base_path(once(tmp_path_factory, "base", lambda folder: ensure_base(base_path(folder), epochs=1)))
