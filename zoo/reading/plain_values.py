"""Turn what a checkpoint says about itself into flat, plain values; hostile nesting ends in a budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from epsopt.zoo.reading.text import LONGEST, sanitize

if TYPE_CHECKING:
    import torch

Plain = str | int | float | bool | None
_PLACEHOLDER = re.compile(r"<[A-Za-z_][\w.]*>")
LARGEST = 1e300
"""Metrics of this size count as infinite: databases and loggers write the largest float for infinity, and penalties of
this size are meant as such."""
MOST_METRICS = 2_000
"""Of one checkpoint by itself, and of one run by one kind of its side files. People's runs log up to some hundred; ten
thousand are an accident."""
_DEPTH = 32
VALUES = 10_000
"""Of one file: what hostile nesting may unfold into."""
_STEPS = 10 * VALUES


def plain(value: Any, scalar: Callable[[torch.Tensor], Any]) -> Plain:
    """Return a plain value as it is, a one-element tensor or numpy number as its number, the rest as text."""
    if value is None or isinstance(value, bool | float | int):
        return _number(value)
    if isinstance(value, str):
        return sanitize(value)
    import torch  # by now something asks for it; the texts and numbers of side files do not

    if isinstance(value, torch.Tensor):
        if value.numel() == 1:
            return plain(scalar(value), scalar)
        return f"tensor of shape {tuple(value.shape)}"
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # a numpy scalar
        return plain(value.item(), scalar)
    if isinstance(value, bytes | bytearray):
        return sanitize(value[:LONGEST].decode("utf-8", "backslashreplace"))
    if isinstance(value, list | tuple):
        return sanitize("[" + ", ".join(str(plain(v, scalar)) for v in value) + "]")
    if isinstance(value, set | frozenset):  # in an order that no hash decides
        return sanitize("[" + ", ".join(sorted(str(plain(v, scalar)) for v in value)) + "]")
    if isinstance(value, torch.dtype | torch.device | torch.Size | complex):
        return str(value)
    return f"<{getattr(value, 'title', type(value).__name__)}>"


def is_placeholder(value: Plain) -> bool:
    """Tell whether a value is the text that stands for an object: ``<module.Class>``."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def _number(value: float | bool | None) -> Plain:
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"<an integer of {value.bit_length()} bits>"
    return value


def flatten(tree: Any, scalar: Callable[[torch.Tensor], Any], *, whole: bool = False) -> dict[str, Plain]:
    """Flatten nested mappings and lists into ``{"optimizer.lr": 0.1}``.

    A short list of plain values stays one value, written as text. A container inside itself ends there; one that
    stands in two places is written twice. Depth, number of values and steps are bounded.

    Args:
        tree: what a file says.
        scalar: gives the number of a one-element tensor.
        whole: keep integers of any length; otherwise one that no float can hold becomes text.
    """
    out: dict[str, Plain] = {}
    stack: list[tuple[str, Any, tuple[int, ...]]] = [("", tree, ())]
    steps = 0
    while stack and len(out) < VALUES and steps < _STEPS:
        steps += 1
        key, value, around = stack.pop()
        items = _items(value)
        if items is None:
            out[key] = value if whole and isinstance(value, int) else plain(value, scalar)
        elif id(value) not in around and len(around) < _DEPTH:
            prefix = f"{key}." if key else ""
            inside = (*around, id(value))
            stack.extend((prefix + sanitize(str(plain(k, scalar))), v, inside) for k, v in reversed(items))
    return out


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, Mapping) and not getattr(value, "opaque", False):  # foreign_objects.py
        return list(value.items())[:VALUES]
    if isinstance(value, list | tuple):
        nested = any(isinstance(v, Mapping | list | tuple | set) for v in value)
        return list(enumerate(value))[:VALUES] if nested or len(value) > 64 else None
    return None


def metrics_of(tree: Any, scalar: Callable[[torch.Tensor], Any]) -> dict[str, float | None]:
    """Return the numbers of a metrics mapping, flat; NaN and infinite ones as None, text left out."""
    out: dict[str, float | None] = {}
    for key, value in flatten(tree, scalar, whole=True).items():
        if isinstance(value, bool | int | float):
            out[key] = finite(value)
    return out


def with_defaults(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Add hyperparameters of a second source to those of a first.

    ``optim/lr``, as loggers write nested names, and ``optim.lr`` are one hyperparameter: the first source names it.
    """
    known = {_dotted(name) for name in own}
    return {**{name: value for name, value in others.items() if name in own or _dotted(name) not in known}, **own}


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def finite(value: float) -> float | None:
    """Return a metric's value as a float; None where it is NaN, infinite or at least LARGEST in size."""
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float can hold
        return None
    return number if abs(number) < LARGEST else None  # NaN is below nothing


def finite_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return metrics with None for what is not finite, and without what is no number: what a catalogue keeps.

    Args:
        metrics: by name; None says that a value was logged and was not finite.
    """
    kept: dict[str, float | None] = {}
    for name, value in metrics.items():
        if value is None:
            kept[name] = None
        elif isinstance(value, bool | int | float) or hasattr(value, "__float__"):
            kept[name] = finite(value)
    return kept


def without_prefixes(names: list[str]) -> list[str]:
    """Strip what wrappers add to tensor names: ``module.`` (DDP) and ``_orig_mod.`` (torch.compile)."""
    stripped = [name.replace("_orig_mod.", "") for name in names]
    while stripped and all(name.startswith("module.") for name in stripped):
        stripped = [name.removeprefix("module.") for name in stripped]
    return stripped if len(set(stripped)) == len(names) and all(stripped) else names


def number_or_text(text: str) -> Plain:
    """Return what a text of a table or a parameter file stands for: a whole or other number, true or false, or text."""
    stripped = text.strip()
    if len(stripped) <= 40 and "_" not in stripped:  # "2024_01_15" is no number, though Python reads one
        for kind in (int, float):
            try:
                return kind(stripped)
            except ValueError:
                pass
    known: dict[str, Plain] = {"true": True, "false": False, "none": None, "null": None, "": None}
    return known[stripped.lower()] if stripped.lower() in known else sanitize(text)


_NUMERAL = re.compile(r"[+-]?(?:0|[1-9]\d{0,29})?(?:(?<=\d)\.\d{0,30}|\.\d{1,30})?(?:(?<=[\d.])[eE][+-]?\d{1,3})?")


def numeral(value: Any) -> Any:
    """Return the number that a hyperparameter's text writes (``"1e-3"``), and every other value as it is.

    PyYAML reads ``lr: 1e-3`` as a text, and argparse without a type gives texts; in another run the same value is a
    number. Codes such as ``"007"`` are none.
    """
    if not isinstance(value, str) or not value or _NUMERAL.fullmatch(value) is None or not value.strip("+-."):
        return value
    number = int(value) if value.lstrip("+-").isdecimal() else float(value)
    return number if abs(number) < LARGEST else value


def no_tensor(tensor: torch.Tensor) -> Any:
    """Stand in for a reader of tensors where there can be none."""
    raise TypeError(f"a tensor of shape {tuple(tensor.shape)} in a text file")
