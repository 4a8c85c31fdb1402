"""Objects of foreign classes in a checkpoint, read as the plain data they hold; nothing of theirs is imported or run.

``torch.load(weights_only=True)`` refuses a file at the first global that it does not know, and a single OmegaConf
configuration among the hyperparameters costs all weights. Here every unknown global of a class is replaced by a
stand-in that only notes what it is given. Whatever is known to be code (torch's own, the standard library's functions)
is refused as before.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

StandIn = Callable[..., Any] | tuple[Callable[..., Any], str]
_MOST = 1_000  # globals of one file
_DATA = frozenset(
    """argparse.Namespace types.SimpleNamespace typing.Any typing.Union typing.Optional
    pathlib.Path pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.WindowsPath pathlib.PureWindowsPath
    pathlib._local.Path pathlib._local.PosixPath pathlib._local.WindowsPath pathlib._local.PurePosixPath
    datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone
    decimal.Decimal fractions.Fraction uuid.UUID collections.defaultdict collections.deque
    builtins.dict builtins.list builtins.tuple builtins.set builtins.frozenset builtins.str builtins.bytes builtins.int
    builtins.float builtins.bool builtins.complex builtins.object builtins.slice builtins.range""".split()
)
"""The standard library's classes that are data; a stand-in takes their place, too."""
_CODE = {*sys.stdlib_module_names, *IMPORT_MAPPING, *(module for module, _ in NAME_MAPPING), "torch"}
"""Modules of which nothing else is taken, under their names in Python 2 as well: torch.save writes those."""


class Recovered(dict[Any, Any]):
    """What an object of a foreign class held, by attribute; `title` names the class."""

    def __init__(self, title: str, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.title = title


class _Inert:
    """Stands for an object whose class is not known: keeps what a pickle hands it, and does nothing."""

    title = ""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __new__(cls, *arguments: Any) -> Self:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = None
        return made

    arguments: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _dictionary(*_: Any) -> dict[Any, Any]:
    """Stand for collections.defaultdict, without the function that makes what is missing."""
    return {}


def stand_ins(names: list[str]) -> list[StandIn] | None:
    """Return a stand-in for each unknown global of a checkpoint; None where one of them is code, or they are too many.

    Args:
        names: ``module.name`` of each, as a pickle says it.
    """
    if len(names) > _MOST or any(name.partition(".")[0] in _CODE and name not in _DATA for name in names):
        return None
    return [
        (_dictionary if n == "collections.defaultdict" else type("StandIn", (_Inert,), {"title": n}), n) for n in names
    ]


def recovered(tree: Any) -> Any:
    """Return the tree with plain data in the place of stand-ins; what is shared stays shared.

    OmegaConf's nodes become what they hold, an Enum its value, a path its text, any other object its public attributes.
    An object inside itself, a class, and an object whose state is in no such form become ``<module.name>``.
    """
    return _Recovery().of(tree)


class _Recovery:
    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, _Inert):
            return f"<{value.title}>"
        if isinstance(value, torch.Tensor) or not isinstance(value, _Inert | dict | list | tuple | set | frozenset):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if isinstance(value, _Inert):
            self._done[id(value)] = f"<{value.title}>"
            out = self._object(value)
        elif isinstance(value, dict):
            out = self._done[id(value)] = type(value)()
            out.update((_key(self.of(k)), self.of(v)) for k, v in value.items())
        elif isinstance(value, list):
            out = self._done[id(value)] = []
            out.extend(self.of(v) for v in value)
        elif isinstance(value, tuple):
            out = tuple(self.of(v) for v in value) if type(value) is tuple else value
        else:
            out = type(value)(_key(self.of(v)) for v in value)
        self._done[id(value)] = out
        return out

    def _object(self, value: _Inert) -> Any:
        state, arguments = value.state, value.arguments
        if isinstance(state, tuple) and len(state) == 2 and all(s is None or isinstance(s, dict) for s in state):
            state = {**(state[0] or {}), **(state[1] or {})}  # attributes, and those in slots
        if isinstance(state, dict):
            for held in ("_content", "_val"):  # OmegaConf's containers and values
                if held in state and value.title.startswith("omegaconf."):
                    return self.of(state[held])
            public = {k: v for k, v in state.items() if isinstance(k, str) and not k.startswith("_")}
            return Recovered(value.title, {k: self.of(v) for k, v in public.items()})
        if state is not None or not arguments:
            return f"<{value.title}>"
        parts = [self.of(a) for a in arguments]
        if value.title.startswith("pathlib.") and all(isinstance(p, str) for p in parts):
            return "/".join(parts).replace("//", "/")
        if len(parts) == 1 and isinstance(parts[0], str | int | float):  # an Enum by its value
            return parts[0]
        return Recovered(value.title, dict(enumerate(parts)))


def _key(key: Any) -> Any:
    try:
        hash(key)
    except TypeError:
        return str(key)
    return key
