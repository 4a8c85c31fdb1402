"""What every test of the hostile corpus needs."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """The file that a fired canary writes to; readers start after this, and inherit it."""
    from epsopt.zoo.reading import pool

    file = tmp_path_factory.mktemp("canary") / "fired"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPSOPT_CANARY", str(file))
        patch.setattr(pool, "_SHARED", {})
        yield file
        for shared in pool._SHARED.values():
            shared.close()
