from __future__ import annotations

import pytest

from epsopt.studies import open_storage


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'epsopt.db'}"


@pytest.fixture
def storage(url):
    return open_storage(url)
