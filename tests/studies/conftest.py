from __future__ import annotations

from pathlib import Path

import pytest

from epsopt.studies import open_storage


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'epsopt.db'}"


@pytest.fixture
def storage(url):
    return open_storage(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'epsopt.db'}"
    url: str = request.getfixturevalue("database")
    return url
