"""What takes long to make and is only read: the first process of a session of tests that asks makes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that all processes of a session share; the first one makes it while the others wait."""
    here = tmp_path_factory.getbasetemp()
    shared = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / f"shared-{name}"
    with FileLock(f"{shared}.lock"):
        if not (shared / "made").exists():
            shared.mkdir()
            make(shared)
            (shared / "made").touch()
    return shared
