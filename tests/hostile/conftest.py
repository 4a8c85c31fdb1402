"""What every test of the hostile corpus needs."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest


@pytest.fixture(autouse=True, scope="module")
def _as_for_users(real_start):
    """What a hostile file must not reach is a process that begins as it does for users."""


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """The file that a fired canary writes to; readers start after this, and inherit it."""
    from epsopt.zoo.reading import pool

    file = tmp_path_factory.mktemp("canary") / "fired"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPSOPT_CANARY", str(file))
        patch.setattr(pool, "SHARED", {})
        yield file
        for shared in pool.SHARED.values():
            shared.close()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A project with a map and studies, and beside it a copy of its database before anything happened to it."""
    from .project import make_project

    project = tmp_path_factory.mktemp("intact") / "project"
    project.mkdir()
    make_project(project)
    with contextlib.closing(sqlite3.connect(project / "epsopt.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(project / "epsopt.db", project.parent / "whole.db")
    return project
