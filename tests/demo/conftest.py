from pathlib import Path

import pytest
import torch

from epsopt.demo.base import base_path, ensure_base


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quick_base(tmp_path_factory) -> Path:
    """A base of one epoch: good enough to be a checkpoint."""
    path = base_path(tmp_path_factory.mktemp("quick"))
    ensure_base(path, epochs=1)
    return path
