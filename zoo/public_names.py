"""The public names of a room, each loaded when it is first used, and former names that still work for one version."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str], former: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` (PEP 562) that imports a public name when it is first used.

    torch, BoTorch and SQLAlchemy take seconds to import; a command pays only for what it uses.

    Args:
        package: full name of the room, such as ``epsopt.zoo``.
        homes: public name to the module inside the room that defines it.
        former: former public name to ``"package:name"``, where it is today. Its use warns.

    Returns:
        A function from a name to its object. It raises AttributeError for any other name.
    """
    moved = former or {}

    def load(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in moved:
            where, today = moved[name].split(":")
            message = f"{package}.{name} is {where}.{today} now, the former name goes with version 0.3"
            warnings.warn(message, FutureWarning, stacklevel=2)
            return getattr(importlib.import_module(where), today)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
