"""Objects of foreign classes in a checkpoint, read as the plain data they hold; nothing of theirs is imported or run.

``torch.load(weights_only=True)`` refuses a file at the first global that it does not know, and a single OmegaConf
configuration among the hyperparameters costs all weights. The pickle of such a file is read once more with every class
and function as a mere name (unpickler.py), and what objects hold is turned into dictionaries, lists and text here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from epsopt.zoo.reading.unpickler import Name, Placeholder, StoredValues

_TIMES: dict[str, Callable[..., Any]] = {
    f"datetime.{kind.__name__}": kind for kind in (dt.datetime, dt.date, dt.time, dt.timedelta)
}
UNUSUAL = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (of the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a library's own class",
}
"""What torch's functions of those names would make: tensors that are not dense numbers in a row."""


class Recovered(dict[Any, Any]):
    """What an object of a foreign class held, by attribute; `title` names the class."""

    opaque = False
    """Whether it stands as ``<title>`` among hyperparameters, whatever it holds."""
    holds_tensors = False
    """Whether a tensor is anywhere in what its pickle says."""

    def __init__(self, title: str, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.title = title


class Opaque(Recovered):
    """An object in no form that can be read."""

    opaque = True


class Module(Recovered):
    """A torch.nn.Module, by its parameters, buffers and modules."""

    opaque = True


class Unusual(Recovered):
    """A tensor that is no plain dense one; `title` says what it is."""

    opaque = True


def recovered(tree: Any) -> Any:
    """Return the tree with plain data in the place of placeholders; what is shared stays shared.

    OmegaConf's nodes become what they hold, an Enum its value, a path or a time its text, a partial its function and
    keywords, an array of NumPy a tensor, an optimiser its defaults, any other object its public attributes. A class, a
    function, a module, an object inside itself, and one whose state is in no such form become ``<module.name>``.
    """
    return _Recovery().of(tree)


class _Recovery:
    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._holding: dict[int, bool] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, Name):
            return "..." if value.title == "builtins.Ellipsis" else f"<{value.title}>"
        if isinstance(value, StoredValues):
            return f"<storage of {value.storage.nbytes()} bytes>"
        if isinstance(value, torch.Tensor) or not isinstance(
            value, Placeholder | dict | list | tuple | set | frozenset
        ):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if isinstance(value, Placeholder):
            self._done[id(value)] = text = f"<{value.title}>"
            out = self._object(value)
            if (out == text or isinstance(out, Recovered)) and self._holds_tensors(value):
                out = Opaque(value.title, {}) if out == text else out
                out.holds_tensors = True
        elif isinstance(value, dict):
            out = self._done[id(value)] = type(value)()
            out.update((_key(self.of(k)), self.of(v)) for k, v in value.items())
        elif isinstance(value, list):
            out = self._done[id(value)] = []
            out.extend(self.of(v) for v in value)
        elif isinstance(value, tuple):
            out = tuple(self.of(v) for v in value)
        else:
            out = type(value)(_key(self.of(v)) for v in value)
        self._done[id(value)] = out
        return out

    def _holds_tensors(self, value: Any) -> bool:
        """Tell whether a tensor is anywhere in what a pickle says of an object."""
        if isinstance(value, torch.Tensor | StoredValues):
            return True
        if isinstance(value, Placeholder):
            parts = [*value.arguments, value.state, *value.items, *(part for pair in value.pairs for part in pair)]
        elif isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            parts = list(value)
        else:
            return False
        if id(value) not in self._holding:
            self._holding[id(value)] = False  # while it is looked at: it may be inside itself
            self._holding[id(value)] = any(self._holds_tensors(part) for part in parts)
        return self._holding[id(value)]

    def _object(self, value: Placeholder) -> Any:
        title, text = value.title, f"<{value.title}>"
        if title in UNUSUAL:
            return Unusual(UNUSUAL[title], {"values": [_tensors_in(a) for a in value.arguments]})
        if title.startswith("numpy."):
            return self._numpy(value)
        if (known := self._of_the_standard_library(value)) is not None:
            return known
        if value.pairs:  # a class derived from dict; its attributes are its own affair
            return {_key(self.of(k)): self.of(v) for k, v in value.pairs}
        if value.items and value.state is None:  # one derived from list or set
            return [self.of(v) for v in value.items]
        state = _attributes(value.state)
        if state is None:
            if value.state is not None or not value.arguments:
                return text
            parts = [self.of(a) for a in value.arguments]
            if len(parts) == 1 and isinstance(parts[0], str | int | float):  # an Enum by its value
                return parts[0]
            return Recovered(title, dict(enumerate(parts)))
        for held in ("_content", "_val"):  # OmegaConf's containers and values
            if held in state and title.startswith("omegaconf."):
                return self.of(state[held])
        if title.startswith("torch.optim.") and isinstance(state.get("defaults"), Mapping):
            state = state["defaults"]
        elif "_modules" in state and "_parameters" in state:
            held_by = {k.lstrip("_"): self.of(state.get(k)) for k in ("_parameters", "_buffers", "_modules")}
            return Module(title, held_by)
        elif title.startswith("torch."):
            plain = {k: v for k, v in state.items() if isinstance(v, str | bool | int | float)}
            state = {k: v for k, v in plain.items() if not k.startswith("_")}
        held_state = _public(state)
        return Recovered(title, {_key(self.of(k)): self.of(v) for k, v in held_state.items()}) if held_state else text

    def _of_the_standard_library(self, value: Placeholder) -> Any:
        """Return what objects of Python's own classes stand for; None for all others."""
        title, arguments = value.title, value.arguments
        parts = [self.of(a) for a in arguments]
        if title.startswith("pathlib."):
            kind = PureWindowsPath if "Windows" in title else PurePosixPath
            return str(kind(*parts)) if all(isinstance(p, str) for p in parts) else f"<{title}>"
        if title in _TIMES:
            with contextlib.suppress(Exception):  # a damaged one stays a name
                return str(_TIMES[title](*parts))
        if title == "uuid.UUID" and isinstance(value.state, dict) and isinstance(value.state.get("int"), int):
            with contextlib.suppress(ValueError):
                return str(uuid.UUID(int=value.state["int"]))
        if title == "functools.partial" and arguments:
            state = value.state if isinstance(value.state, tuple) else ()
            keywords = state[2] if len(state) > 2 and isinstance(state[2], Mapping) else {}
            inner = parts[0].title if isinstance(parts[0], Recovered) else parts[0]
            given = state[1] if len(state) > 1 and isinstance(state[1], tuple | list) else ()
            positional = {"_args_": [self.of(v) for v in given]} if given else {}
            named = {_key(self.of(k)): self.of(v) for k, v in keywords.items()}
            return Recovered(title, {"_target_": inner, **positional, **named})
        if title == "collections.deque" or (title.startswith("collections.User") and isinstance(value.state, dict)):
            held = value.state.get("data") if isinstance(value.state, dict) else None
            return self.of(held) if held is not None else [self.of(v) for v in (*value.items, *_listed(parts))]
        if title == "re._compile" and parts:
            return parts[0]
        if title == "builtins.type" and parts == [None]:
            return "<NoneType>"
        if title.startswith(("_operator.", "operator.", "typing.", "types.GenericAlias", "types.UnionType")):
            return f"<{title}>"  # most are annotations of types
        if title in ("builtins.slice", "builtins.range"):
            return f"{title.rpartition('.')[2]}({', '.join(map(str, parts))})"
        return None

    def _numpy(self, value: Placeholder) -> Any:
        """Return a number or a tensor for what NumPy pickles; ``<numpy.name>`` for what is none."""
        with contextlib.suppress(TypeError, ValueError, IndexError, KeyError, AttributeError):
            if value.title.endswith(".multiarray.scalar"):
                dtype = _numeric(value.arguments[0])
                (number,) = np.frombuffer(_raw(value.arguments[1]), dtype=dtype)
                return number.item()
            if value.title.endswith((".multiarray._reconstruct", ".numeric._frombuffer")):
                return _array(value)
        state = _attributes(value.state)
        if state and (public := _public(state)):
            return Recovered(value.title, {_key(self.of(k)): self.of(v) for k, v in public.items()})
        return f"<{value.title}>"


def _array(value: Placeholder) -> torch.Tensor:
    """Put an array together from what a pickle says of it.

    Raises:
        TypeError, ValueError: it holds no numbers, or other than it says.
    """
    if value.title.endswith("_frombuffer"):  # protocol 5: buffer, type, shape, order
        data, kind, shape, order = value.arguments
        fortran = order == "F"
    else:
        _, shape, kind, fortran, data = value.state
    dtype = _numeric(kind)
    raw, sizes = _raw(data), tuple(int(n) for n in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {sizes} in {len(raw)} bytes")
    array = np.frombuffer(raw, dtype=dtype).reshape(sizes, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array).astype(dtype.newbyteorder("="), copy=True).reshape(sizes))


def _numeric(kind: Any) -> np.dtype[Any]:
    """Return a type of numbers from what a pickle says of it: ``dtype('f4', False, True)`` and its byte order."""
    if not isinstance(kind, Placeholder) or not kind.title.startswith("numpy"):
        raise TypeError("no type of numbers")
    code = kind.arguments[0] if kind.arguments else kind.title.rpartition(".")[2].removesuffix("DType").lower()
    dtype = np.dtype(str(code)[:8])
    if dtype.kind not in "biufc":
        raise TypeError(f"an array of {dtype}")
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "="
    return dtype.newbyteorder(">") if order == ">" else dtype


def _raw(data: Any) -> bytes:
    if isinstance(data, str):  # of Python 2
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise TypeError(f"values in a {type(data).__name__}")


def _tensors_in(value: Any) -> Any:
    if isinstance(value, StoredValues):
        return torch.empty(0, dtype=value.dtype, device="meta")
    return value if isinstance(value, torch.Tensor | str | int | float) else None


def _listed(parts: list[Any]) -> list[Any]:
    return [v for p in parts[:1] if isinstance(p, list | tuple) for v in p]


def _attributes(state: Any) -> dict[str, Any] | None:
    """Return an object's attributes: those in its dictionary, and those in slots; None where there are none."""
    if isinstance(state, tuple) and len(state) == 2 and all(s is None or isinstance(s, dict) for s in state):
        state = {**(state[0] or {}), **(state[1] or {})}
    if not isinstance(state, dict):
        return None
    if isinstance(state.get("__dict__"), dict):  # pydantic
        state = state["__dict__"]
    return {k: v for k, v in state.items() if isinstance(k, str)}


def _public(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out private attributes, unless there are no others: then they hold what the object is for."""
    public = {k: v for k, v in state.items() if not k.startswith("_")}
    if public:
        return public
    private = {k: v for k, v in state.items() if not k.startswith("__")}
    inner = [v for v in private.values() if isinstance(v, Mapping)]
    if len(inner) == 1:
        return {k: v for k, v in inner[0].items() if isinstance(k, str)}
    return {k.lstrip("_") or k: v for k, v in private.items()}


def _key(key: Any) -> Any:
    try:
        hash(key)
    except TypeError:
        return str(key)
    return key
