"""Patterns of tensor names that tell groups of tensors from one another, as few and as short as are found quickly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from glob import escape


def separating_patterns(inside: Sequence[str], outside: Iterable[str]) -> list[str]:
    """Return patterns that every name inside fits, and no name outside: ``encoder.*``, ``*.bias``, or names in full.

    Args:
        inside: dotted names of tensors, none of which is outside.
        outside: those that must not fit.
    """
    fitting: dict[str, set[str]] = {}
    for name in inside:
        for pattern in _candidates(name):
            fitting.setdefault(pattern, set()).add(name)
    others, found, left = list(outside), [], set(inside)
    # Those that fit many names first, and of equals the shorter; a name in full fits, and is never refused.
    for pattern in sorted(fitting, key=lambda p: (-len(fitting[p]), len(p), p)):
        if not fitting[pattern] & left:
            continue
        matches = re.compile(translate(pattern)).match
        if not any(matches(name) for name in others):
            found.append(pattern)
            left -= fitting[pattern]
    return found


def _candidates(name: str) -> Iterator[str]:
    parts = [escape(part) for part in name.split(".")]
    yield ".".join(parts)
    for i in range(1, len(parts)):
        yield ".".join([*parts[:i], "*"])
        yield ".".join(["*", *parts[i:]])
    if any(part.isdigit() for part in parts):
        yield ".".join("*" if part.isdigit() else part for part in parts)
