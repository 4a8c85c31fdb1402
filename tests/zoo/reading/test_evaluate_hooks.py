"""What hooks take, and how long a sentence about one becomes."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from epsopt.zoo.errors import HookError
from epsopt.zoo.reading.hooks import load_hook, measure
from epsopt.zoo.reading.source import is_of_memory


@pytest.fixture
def module(monkeypatch):
    found = types.ModuleType("hooks_of_a_user")
    monkeypatch.setitem(sys.modules, "hooks_of_a_user", found)
    return found


@pytest.mark.parametrize("name", ["path", "parents", "config"])
def test_a_hook_that_takes_something_else_where_the_weights_come_is_refused(module, name):
    module.evaluate = {
        "path": lambda path, parents: {},
        "parents": lambda parents: {},
        "config": lambda config, path: {},
    }[name]
    with pytest.raises(HookError, match=rf"takes '{name}' first.*evaluate\(state_dict, {name}, \.\.\.\)"):
        load_hook("hooks_of_a_user:evaluate", "evaluate")


def test_an_error_that_holds_tensors_is_cut(module):
    def evaluate(state_dict):
        raise ValueError("cannot load " + repr({i: torch.zeros(50) for i in range(50)}))

    module.evaluate = evaluate
    function = load_hook("hooks_of_a_user:evaluate", "evaluate")
    with pytest.raises(HookError) as caught:
        measure(function, "hooks_of_a_user:evaluate", {"w": torch.zeros(2)}, "a merge", {"w": torch.zeros(2)}, {})
    assert len(str(caught.value)) < 1_300
    assert "ValueError: cannot load" in str(caught.value)
    assert "characters)" in str(caught.value)


def test_what_pytorch_says_of_memory_differs_from_other_errors():
    text = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
    assert is_of_memory(text)
    assert not is_of_memory("unexpected EOF, expected 4 more bytes. The file might be corrupted.")
