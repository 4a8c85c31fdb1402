"""Names that tell runs apart: the folder seen from what was ingested, with more of its path where need be."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from epsopt.zoo.errors import UsageError

_Key = TypeVar("_Key", bound=Hashable)
_LISTED = 4  # names in a sentence


def distinct_names(runs: Mapping[_Key, tuple[str, str]]) -> dict[_Key, str]:
    """Name runs so that no two have the same name: of runs with one name as much of the path as tells them apart.

    Args:
        runs: name and path of each.

    Returns:
        Names by the same keys; a name that only one run has stays as it is. Paths are different, so names are.
    """
    holders: dict[str, list[_Key]] = {}
    for key, (name, _) in runs.items():
        holders.setdefault(name, []).append(key)
    out = {keys[0]: name for name, keys in holders.items() if len(keys) == 1}
    taken = set(holders)
    for name, keys in sorted(holders.items()):
        if len(keys) == 1:
            continue
        parts = {key: PurePosixPath(runs[key][1]).parts for key in keys}
        length = {key: min(len(PurePosixPath(name).parts) + 1, len(parts[key])) for key in keys}
        while True:
            shown = {key: str(PurePosixPath(*parts[key][-length[key] :])) for key in keys}
            same = [
                key
                for key in keys
                if length[key] < len(parts[key])
                and (shown[key] in taken or any(shown[key] == shown[other] for other in keys if other != key))
            ]
            if not same:
                break
            for key in same:
                length[key] += 1
        out.update(shown)
        taken.update(shown.values())
    return {key: out[key] for key in runs}


def short_names(names: Collection[str]) -> dict[str, str]:
    """Return the part of each run's name that tells it from all others, in whole folders.

    Of ``2026-11-28/08-15-32/logs/version_0`` and its like that is ``08-15-32``: what stands behind says nothing where
    each folder holds one run, and what stands before nothing where no other run has a folder of that name. Runs of one
    folder show as much of it as the one that needs most.

    Args:
        names: of all runs, each once.

    Returns:
        By name; no two are the same, and each is a part of its own name and of no other.
    """
    parts = {name: name.split("/") for name in names}
    owners: dict[tuple[str, ...], set[str]] = {}
    for name, own in parts.items():
        for i in range(len(own)):
            for j in range(i + 1, len(own) + 1):
                owners.setdefault(tuple(own[i:j]), set()).add(name)
    below = Counter(tuple(own[:j]) for own in parts.values() for j in range(len(own) + 1))
    end = {name: len(own) for name, own in parts.items()}
    while True:
        # A level of folders says nothing where nearly each of them holds one run: "version_0" of Lightning.
        levels: dict[str, list[str]] = {}
        for name, own in parts.items():
            if end[name] > 1:
                levels.setdefault(_without_number(own[end[name] - 1]), []).append(name)
        idle = []
        for members in levels.values():
            alone = [name for name in members if below[tuple(parts[name][: end[name] - 1])] == 1]
            idle += alone if len(members) > 1 and 2 * len(alone) > len(members) else []
        if not idle:
            break
        for name in idle:
            end[name] -= 1

    def needed(name: str) -> int:
        kept = parts[name][: end[name]]
        lengths = (k for k in range(1, len(kept) + 1) if owners[tuple(kept[-k:])] == {name})
        return next(lengths, len(kept))

    longest: dict[tuple[str, ...], int] = {}
    for name, own in parts.items():
        folder = tuple(own[: end[name] - 1])
        longest[folder] = max(longest.get(folder, 0), needed(name))
    out = {}
    for name, own in parts.items():
        kept = own[: end[name]]
        short = "/".join(kept[-longest[tuple(kept[:-1])] :])
        out[name] = short if owners[tuple(short.split("/"))] == {name} else name
    return out


def _without_number(part: str) -> str:
    return re.sub(r"\d+", "0", part)


_OWN = re.compile(r"(.*/)?(proposal|merged|sample)_\d+(_\d+)?")
ELLIPSIS = "…"
"""Stands for what a shown name leaves out."""


def without_common_words(names: Collection[str]) -> dict[str, str]:
    """Return names without the words that all of them have, with ``…`` where one or several were.

    Args:
        names: each once; words end at ``-``, ``_``, ``,``, ``;``, ``+``, ``/`` and spaces.

    Returns:
        By name; where that leaves two alike, or nothing, all of them as they are.
    """
    words = {name: re.findall(r"[^-_,;+/ ]*[-_,;+/ ]|[^-_,;+/ ]+$", name) for name in names}
    # Runs that epsopt names itself share none of the user's words, and leave all others called as they were.
    users = [set(own) for name, own in words.items() if _OWN.fullmatch(name) is None]
    common = set.intersection(*users) if len(users) > 1 else set()
    out = {}
    for name, own in words.items():
        kept = [ELLIPSIS if word in common else word for word in own]
        out[name] = "".join(w for i, w in enumerate(kept) if w != ELLIPSIS or i == 0 or kept[i - 1] != ELLIPSIS)
    alike = len(set(out.values())) < len(out) or ELLIPSIS in out.values()
    return {name: name for name in names} if alike else out


def named_run(what: str, names: Collection[str]) -> str | None:
    """Return the run that a name means; None: it means none.

    That is the run of that name, or the only one whose name ends so, is shown so (:func:`short_names`; ``…`` stands for
    anything), has such a folder in it, or has it in it anywhere. ``proposal 7`` is the run of that proposal.

    Raises:
        UsageError: several runs may be meant; names them.
    """
    wanted = what.strip().rstrip("/")
    known = set(names)
    if wanted in known or not wanted:
        return wanted or None
    number = re.fullmatch(r"proposal[ _#-]*0*(\d+)", wanted)
    if number is not None:
        wanted = f"proposal_{int(number[1]):03d}"
    rules: list[Callable[[str], bool]] = [
        lambda name: name.endswith(f"/{wanted}"),
        lambda name: f"/{wanted}/" in f"/{name}/",
        lambda name: wanted in name,
    ]
    if ELLIPSIS in wanted:
        shown = re.compile(".*".join(map(re.escape, wanted.split(ELLIPSIS))))
        short = short_names(known)
        rules = [lambda name: shown.fullmatch(short[name]) is not None, lambda name: shown.search(name) is not None]
    for rule in rules:
        found = sorted(name for name in known if rule(name))
        if len(found) > 1:
            listed = ", ".join(found[:_LISTED]) + (" and others" if len(found) > _LISTED else "")
            raise UsageError(f"{what} may be one of {len(found)} runs: {listed}: write more of the name")
        if found:
            return found[0]
    return None


def hint(what: str, names: Collection[str]) -> str:
    """Return which runs may have been meant by a name that no run has: those like it, or else the first ones."""
    shown = short_names(names)
    called = {**{short: short for short in shown.values()}, **shown}
    close = dict.fromkeys(called[match] for match in difflib.get_close_matches(what, called, n=3))
    if close:
        return f"did you mean {' or '.join(close)}?"
    first = ", ".join(sorted(shown.values())[:_LISTED])
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return f"its runs are {first}{more}" if shown else "it holds no run with measured checkpoints"
