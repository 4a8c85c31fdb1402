"""Unpickle without running anything: every global becomes a name, every object a record of what a pickle says of it.

``torch.load(weights_only=True)`` refuses a file at the first global that it does not know, and knows only the opcodes
of pickle's protocol 2. This reader takes what torch.load refuses: it follows every opcode, imports nothing, and calls
nothing but the few functions below that put tensors and plain containers together.
"""

from __future__ import annotations

import io
import pickle
import reprlib
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

_DATA_MODULES = frozenset(
    """argparse array calendar collections copyreg dataclasses datetime decimal enum fractions functools ipaddress
    itertools numbers operator pathlib random re statistics string types typing uuid zoneinfo""".split()
)
"""The standard library's modules of data: what is called in them puts data together, and no more."""
_DATA_BUILTINS = frozenset(
    "bool bytearray bytes complex dict float frozenset getattr int list object range set slice str tuple type".split()
)
_CODE_MODULES = {*sys.stdlib_module_names, *IMPORT_MAPPING, *(module for module, _ in NAME_MAPPING), "torch"}
"""Modules whose functions do something when they are called, under their names in Python 2 as well."""
_MOST = 1_000  # globals of one file
_PLAIN_CODECS = frozenset({"latin1", "latin-1", "iso-8859-1", "ascii", "utf-8", "utf8"})


class RefusedGlobalError(pickle.UnpicklingError):
    """A pickle calls something that is code.

    Attributes:
        title: ``module.name`` of it.
    """

    def __init__(self, title: str) -> None:
        super().__init__(f"calls {title}")
        self.title = title


class ForgedTensorError(pickle.UnpicklingError):
    """A tensor of sizes or strides that no tensor has; torch.load takes some of them for others."""


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a pickle refers to; it is neither imported nor called."""

    title: str


class Placeholder:
    """An object whose class is not known: what a pickle gives it, and nothing that it would do with it.

    Attributes:
        title: ``module.name`` of the class, or of the function that would make the object.
        arguments: what that would be called with.
        state: what the object would be restored from, None without one.
        items: what would be appended to it, or added.
        pairs: what would be set under keys, in their order.
    """

    def __init__(self, title: str, arguments: tuple[Any, ...] = ()) -> None:
        self.title = title
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []


@dataclass(frozen=True, eq=False)
class StoredValues:
    """The storage of a tensor, on the meta device, and the type of its values."""

    storage: torch.UntypedStorage
    dtype: torch.dtype


class InertUnpickler(pickle._Unpickler):  # noqa: SLF001 - the one in C has no opcodes to replace
    """Reads one pickle of a torch.save file.

    Args:
        data: the pickle.
        find_storage: gives the place in the file of a storage with a key, and how many bytes it has.

    Raises:
        ForgedTensorError: a tensor has negative strides, or sizes that are no whole numbers.
        RefusedGlobalError: the pickle calls a function that is code: of torch or the standard library, except those
            that put data together.
        pickle.UnpicklingError: it is damaged, or uses what no checkpoint needs.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    # As pickle's own class has them, which says no types.
    stack: list[Any]
    append: Callable[[Any], None]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes, find_storage: Callable[[str], tuple[int, int] | None]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._find_storage = find_storage
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._titles: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Return a dtype as it is, and the name of everything else."""
        if (module, name) in NAME_MAPPING:  # torch.save writes the names that Python 2 had
            module, name = NAME_MAPPING[(module, name)]
        elif module in IMPORT_MAPPING:
            module = IMPORT_MAPPING[module]
        title = f"{module}.{name}"
        if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):
            return found
        self._titles.add(title)
        if len(self._titles) > _MOST:
            raise RefusedGlobalError(f"more than {_MOST:,} classes and functions")
        return Name(title)

    def get_extension(self, code: int) -> None:
        """Refuse: a checkpoint that needs a program's registry of extensions is no data."""
        raise pickle.UnpicklingError(f"extension {code}")

    def persistent_load(self, pid: Any) -> StoredValues:
        """Describe a storage, as torch.load does on the meta device."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] in ("storage", b"storage")):
            raise pickle.UnpicklingError(f"a persistent id that is no storage: {reprlib.repr(pid)}")
        _, kind, key, _, count = pid
        if not isinstance(kind, Name) or not isinstance(key, str) or not _is_size(count):
            raise pickle.UnpicklingError(f"a storage described by {reprlib.repr(pid)}")
        last = kind.title.rpartition(".")[2]
        try:
            dtype = torch.uint8 if last == "UntypedStorage" else torch.serialization.StorageType(last).dtype  # type: ignore[no-untyped-call]
        except KeyError as error:
            raise pickle.UnpicklingError(f"a storage of type {kind.title}") from error
        if key not in self._storages:
            place = self._find_storage(key)
            if place is None:
                raise pickle.UnpicklingError(f"no record data/{key} for a storage")
            storage = torch.UntypedStorage(count * dtype.itemsize, device="meta")  # type: ignore[no-untyped-call]
            storage._checkpoint_offset = place[0]  # noqa: SLF001 - as torch.load does
            self._storages[key] = storage
        return StoredValues(self._storages[key], dtype)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            title = getattr(function, "title", type(function).__name__)
            raise RefusedGlobalError(str(title))
        made = _MAKERS.get(function.title)
        if made is not None:
            return made(*arguments)
        if not _puts_data_together(function.title):
            raise RefusedGlobalError(function.title)
        if function.title == "builtins.getattr" and len(arguments) == 2 and isinstance(arguments[0], Name):
            return Name(f"{arguments[0].title}.{arguments[1]}")
        if function.title in ("copyreg._reconstructor", "copyreg.__newobj__") and arguments:
            if not isinstance(arguments[0], Name):
                raise pickle.UnpicklingError("an object of no class")
            held = Placeholder(arguments[0].title, arguments[1:] if function.title.endswith("newobj__") else ())
            if len(arguments) == 3 and isinstance(arguments[2], Mapping):
                held.pairs = list(arguments[2].items())
            elif len(arguments) == 3 and isinstance(arguments[2], list | tuple | set):
                held.items = list(arguments[2])
            return held
        return Placeholder(function.title, arguments)

    def load_reduce(self) -> None:
        """Call what makes plain data, and note every other call."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Note a new object: a class alone does nothing."""
        arguments = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """Note a new object that takes keywords."""
        keywords, arguments = self.stack.pop(), self.stack.pop()
        made = self._new(self.stack[-1], arguments)
        if isinstance(made, Placeholder) and isinstance(keywords, dict):
            made.pairs = list(keywords.items())
        self.stack[-1] = made

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    @staticmethod
    def _new(kind: Any, arguments: Any) -> Any:
        if not isinstance(kind, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a new object of {type(kind).__name__}")
        if kind.title in ("collections.OrderedDict", "torch.nn.parameter.Parameter"):
            return _MAKERS[kind.title](*arguments)
        return Placeholder(kind.title, arguments)

    def load_inst(self) -> None:
        """Call as `load_reduce` does, in the way of protocol 0."""
        module = self.readline()[:-1].decode("ascii")
        name = self.readline()[:-1].decode("ascii")
        self.append(self._call(self.find_class(module, name), tuple(self.pop_mark())))

    dispatch[pickle.INST[0]] = load_inst

    def load_obj(self) -> None:
        """Call as `load_reduce` does, in the way of protocol 1."""
        kind, *arguments = self.pop_mark()
        self.append(self._call(kind, tuple(arguments)))

    dispatch[pickle.OBJ[0]] = load_obj

    def load_build(self) -> None:
        """Note a state; the attributes of tensors and of ordered dictionaries are not needed."""
        state = self.stack.pop()
        held = self.stack[-1]
        if isinstance(held, Placeholder):
            held.state = state
        elif not isinstance(held, torch.Tensor | OrderedDict):
            raise pickle.UnpicklingError(f"a state for a {type(held).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def _add(self, values: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is list:
            held.extend(values)
        elif type(held) is set:
            held.update(values)
        elif isinstance(held, Placeholder):
            held.items.extend(values)
        else:
            raise pickle.UnpicklingError(f"items for a {type(held).__name__}")

    def load_append(self) -> None:
        """Append to a list."""
        value = self.stack.pop()
        self._add([value])

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        """Append several values to a list, or add them to a set."""
        values = self.pop_mark()
        self._add(values)

    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_appends

    def _set(self, pairs: list[tuple[Any, Any]]) -> None:
        held = self.stack[-1]
        if type(held) in (dict, OrderedDict):
            held.update(pairs)
        elif isinstance(held, Placeholder):
            held.pairs.extend(pairs)
        else:
            raise pickle.UnpicklingError(f"keys for a {type(held).__name__}")

    def load_setitem(self) -> None:
        """Set a value under a key."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set([(key, value)])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """Set several values under keys."""
        items = self.pop_mark()
        self._set(list(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.SETITEMS[0]] = load_setitems


def _puts_data_together(title: str) -> bool:
    module, _, name = title.rpartition(".")
    top = title.partition(".")[0]
    if top not in _CODE_MODULES:
        return True  # a program's own: whatever it does, it is not done
    if title in ("_io.BytesIO", "_io.StringIO", "io.BytesIO", "io.StringIO"):  # extra states of modules
        return True
    if top == "builtins":
        return name in _DATA_BUILTINS
    if top == "torch":  # a class; torch's functions load files and programs, among other things
        return name[:1].isupper() and not module.startswith(("torch.hub", "torch.package"))
    return top.lstrip("_") in _DATA_MODULES  # _operator is the same in C


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _sizes(values: Any) -> list[int] | None:
    return list(values) if isinstance(values, tuple | list) and all(map(_is_size, values)) else None


def _tensor(stored: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """Describe a tensor; what follows (whether it learns, hooks, its type) is of no matter here."""
    shape, steps = _sizes(size), _sizes(stride)
    if not isinstance(stored, StoredValues):
        raise pickle.UnpicklingError(f"a tensor in a {type(stored).__name__}")
    if not _is_size(offset) or shape is None or steps is None or len(shape) != len(steps):
        raise ForgedTensorError(
            f"a tensor has the shape {reprlib.repr(size)}, the stride {reprlib.repr(stride)} and the offset "
            f"{reprlib.repr(offset)}: expected whole numbers, none negative"
        )
    dtype = next((r for r in rest if isinstance(r, torch.dtype)), stored.dtype)
    return torch.empty(0, dtype=dtype, device="meta").set_(stored.storage, offset, shape, steps)


def _first(value: Any, *_: Any) -> Any:
    if not isinstance(value, torch.Tensor | Placeholder):
        raise pickle.UnpicklingError(f"a {type(value).__name__} where a tensor was expected")
    return value


def _typed(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Take a tensor with attributes for the tensor, and one of a foreign class for an object of it."""
    title = kind.title if isinstance(kind, Name) else ""
    if title in ("torch.Tensor", "torch.nn.parameter.Parameter") and isinstance(function, Name):
        maker = _MAKERS.get(function.title)
        if maker is not None and isinstance(arguments, tuple):
            return maker(*arguments)
    return Placeholder(title or "torch._tensor._rebuild_from_type_v2", (arguments,))


def _ordered(*arguments: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(*(arguments[:1]))


def _mapping(*arguments: Any) -> dict[Any, Any]:
    return dict(*(a for a in arguments if isinstance(a, Mapping)))


def _bytes(*arguments: Any) -> bytes:
    """Make bytes of text or of a list of numbers; a number alone would make as many zeros."""
    value, codec = (*arguments, "latin1")[:2] if arguments else (b"", "latin1")
    if isinstance(value, str) and str(codec).lower() in _PLAIN_CODECS:
        return value.encode(str(codec))
    if isinstance(value, bytes | list):
        return bytes(value)
    raise pickle.UnpicklingError(f"bytes of a {type(value).__name__}")


def _set_of(*arguments: Any) -> set[Any]:
    return set(*(a for a in arguments if isinstance(a, list | tuple | set)))


def _complex(*arguments: Any) -> complex:
    return complex(*(float(a) for a in arguments))


def _size(*arguments: Any) -> Any:
    found = _sizes(arguments[0]) if arguments else []
    return Placeholder("torch.Size", arguments) if found is None else tuple(found)


def _device(*arguments: Any) -> str:
    return ":".join(str(a) for a in arguments)


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _mapping,
    "collections.defaultdict": _mapping,
    "_codecs.encode": _bytes,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.set": _set_of,
    "builtins.frozenset": _set_of,
    "builtins.complex": _complex,
    **{
        f"torch._utils.{name}": (lambda *arguments, title=name: Placeholder(f"torch._utils.{title}", arguments))
        for name in (
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_nested_tensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_wrapper_subclass",
        )
    },
    "torch.serialization._get_layout": lambda *_: Placeholder("torch.layout"),
}
"""What makes plain data and tensors, in the place of the functions of those names."""
