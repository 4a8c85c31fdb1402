"""Public names: each can be imported, and what was public in version 0.1 still can, with a warning."""

from __future__ import annotations

import importlib

import pytest

ROOMS = ["epsopt.zoo", "epsopt.surrogate", "epsopt.optimize", "epsopt.figures", "epsopt.studies"]
PUBLIC = [(room, name) for room in ROOMS for name in importlib.import_module(room).__all__]
FORMER = [(room, name) for room in ROOMS for name in vars(importlib.import_module(room)).get("FORMER", ())]


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=str)
def test_a_public_name_can_be_imported(room, name):
    assert getattr(importlib.import_module(room), name) is not None


@pytest.mark.parametrize(("room", "name"), FORMER, ids=str)
def test_a_former_name_warns_and_gives_what_it_is_today(room, name):
    module = importlib.import_module(room)
    where, today = module.FORMER[name].split(":")
    with pytest.warns(FutureWarning, match=f"{where}.{today}"):
        former = getattr(module, name)
    assert former is getattr(importlib.import_module(where), today)
    assert name not in module.__all__


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_which_name_it_does_not_have(room):
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_that_name'"):
        importlib.import_module(room).nothing_of_that_name  # noqa: B018
