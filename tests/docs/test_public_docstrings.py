"""Every public name says what it takes, gives and raises, as the Python reference of the site prints it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from typing import Any

import griffe
import pytest

ROOMS = ["epsopt.zoo", "epsopt.surrogate", "epsopt.optimize", "epsopt.studies"]
_ARRAY = re.compile(r"^(?!.*Callable).*(NDArray|Tensor|Floats|Array)")
_FLOATS = re.compile(r"^(?!.*(Callable|int64|bool)).*(NDArray|Tensor|Floats|Array)")
_SHAPE = re.compile(r"[Tt]ensors by name|\((\w+,|\w+(, \w+)+|\.\.\., \w+)\)|one (value|number) (for|per|a) ")


def _callables(owner: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield a public function, or the public methods that a class defines itself, with the names that they have."""
    if not inspect.isclass(owner):
        yield name, owner
        return
    foreign = [base for base in owner.__mro__[1:] if not base.__module__.startswith("epsopt") and base is not object]
    for attribute, value in vars(owner).items():
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        # What a library calls (Optuna's samplers, Lightning's callbacks) is described by that library.
        if attribute.startswith("_") or any(hasattr(base, attribute) for base in foreign):
            continue
        if inspect.isfunction(function):
            yield f"{name}.{attribute}", function


def _public() -> Iterator[tuple[str, Any]]:
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            yield f"{room}.{name}", getattr(module, name)


PUBLIC = dict(_public())
CALLABLES = {k: v for name, value in PUBLIC.items() if callable(value) for k, v in _callables(value, name)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
PROPERTIES = {
    f"{name}.{attribute}": value.fget if isinstance(value, property) else value.func
    for name, owner in CLASSES.items()
    for attribute, value in vars(owner).items()
    if isinstance(value, property | cached_property) and not attribute.startswith("_")
}


@cache
def _sections(documented: Any) -> dict[str, Any]:
    """Return the sections of a docstring by kind: text, parameters, attributes, returns, yields, raises."""
    text = inspect.cleandoc(documented.__doc__ or "")
    parsed = griffe.Docstring(text, parser_options={"warnings": False}).parse("google")
    return {section.kind.value: section.value for section in parsed}


def _described(sections: dict[str, Any]) -> dict[str, str]:
    """Return what is said of each argument or attribute."""
    items = [*sections.get("parameters", ()), *sections.get("attributes", ())]
    return {item.name.lstrip("*"): item.description for item in items}


def _arguments(function: Any) -> dict[str, Any]:
    return {n: p.annotation for n, p in inspect.signature(function).parameters.items() if n not in ("self", "cls")}


def _lacking(wanted: dict[str, Any], described: dict[str, str]) -> list[str]:
    missing = [f"{name} is not described" for name in wanted if not described.get(name, "").strip()]
    shapeless = [
        f"{name} has no shape"
        for name, annotation in wanted.items()
        if _ARRAY.search(str(annotation)) and name in described and not _SHAPE.search(described[name])
    ]
    return missing + shapeless


def _says_what_nan_means(wanted: dict[str, Any], documented: Any) -> bool:
    """Whether a docstring names NaN, or says that values are finite, where numbers come in arrays."""
    in_arrays = any(_FLOATS.search(str(annotation)) for annotation in wanted.values())
    return not in_arrays or re.search(r"NaN|finite", documented.__doc__ or "") is not None


def of_every(names: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Make a check of a name one test a room: to report a test for each name takes longer than to check it."""

    def made(check: Callable[[str], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("room", ROOMS)
        def of_room(room: str) -> None:
            failed = []
            for name in names:
                if name.startswith(f"{room}."):
                    try:
                        check(name)
                    except AssertionError as error:
                        failed.append(f"{name}: {error}")
            assert failed == []

        return of_room

    return made


def test_there_are_public_names_of_each_kind():
    assert len(CALLABLES) > 80
    assert len(CLASSES) > 40
    assert PROPERTIES


@of_every(CALLABLES)
def test_a_public_function_describes_its_arguments(name):
    function = CALLABLES[name]
    assert _lacking(_arguments(function), _described(_sections(function))) == []
    assert _says_what_nan_means(_arguments(function), function)


@of_every(CALLABLES)
def test_a_public_function_says_what_it_returns(name):
    function = CALLABLES[name]
    gives = inspect.signature(function).return_annotation
    sections = _sections(function)
    # As Google's style has it: a summary that begins so is enough where nothing else is to be said.
    summary = (function.__doc__ or "").startswith(("Return ", "Whether ", "Yield ", "Open "))
    assert gives in ("None", None) or summary or sections.keys() & {"returns", "yields"}, "it has no Returns section"
    if _ARRAY.search(str(gives)):
        assert _SHAPE.search(function.__doc__ or ""), "what it returns has no shape"


@of_every(CALLABLES)
def test_a_public_function_says_what_it_raises(name):
    function = CALLABLES[name]
    source = textwrap.dedent(inspect.getsource(function))
    if re.search(r"^\s+raise \w+\(", source, re.MULTILINE):
        assert "raises" in _sections(function)


@of_every(CLASSES)
def test_a_public_class_describes_itself_and_what_it_is_made_of(name):
    owner = CLASSES[name]
    assert vars(owner).get("__doc__"), "it has no docstring"
    if dataclasses.is_dataclass(owner):
        wanted = {f.name: f.type for f in dataclasses.fields(owner) if f.init and not f.name.startswith("_")}
    elif "__init__" in vars(owner) and not issubclass(owner, Exception):
        wanted = _arguments(owner.__init__)
    else:
        return
    described = _described(_sections(owner)) | _described(_sections(vars(owner).get("__init__", owner)))
    assert _lacking(wanted, described) == []
    assert _says_what_nan_means(wanted, owner)


@of_every(PROPERTIES)
def test_a_public_property_says_what_it_is(name):
    assert (PROPERTIES[name].__doc__ or "").strip()


_ROLE = re.compile(r":(?:func|meth|class|attr|mod|data|exc):`~?([\w.]+)`")


def _found(target: str, documented: Any, owner: Any) -> bool:
    """Whether a reference names something: of the class, of the module, of a room, or by its full name."""
    first, *rest = target.split(".")
    module = importlib.import_module(documented.__module__)
    places = [owner, module, *(importlib.import_module(room) for room in ROOMS)]
    fields = {f.name for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    if first == "epsopt":
        try:
            return pkgutil.resolve_name(target) is not None
        except (ImportError, AttributeError):  # a field of a dataclass
            holder = pkgutil.resolve_name(target.rpartition(".")[0])
            return target.rpartition(".")[2] in {f.name for f in dataclasses.fields(holder)}
    if not rest and first in fields:
        return True
    found = next((getattr(place, first) for place in places if hasattr(place, first)), None)
    if found is None or not rest:
        return found is not None
    return hasattr(found, rest[0]) or rest[0] in getattr(found, "__dataclass_fields__", {})


@of_every([*CALLABLES, *CLASSES])
def test_a_reference_in_a_docstring_names_something_that_exists(name):
    documented = CALLABLES.get(name) or CLASSES[name]
    owner = CLASSES.get(name) or CLASSES.get(name.rpartition(".")[0])
    text = documented.__doc__ or ""
    assert [target for target in _ROLE.findall(text) if not _found(target, documented, owner)] == []
    assert re.search(r"\bD\d+\b|FACTS\.md", text) is None, "a reference that only those who were there can follow"
