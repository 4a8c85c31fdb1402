"""Names that tell runs apart: the folder seen from what was ingested, with more of its path where need be."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from epsopt.zoo.errors import UsageError

_Key = TypeVar("_Key", bound=Hashable)


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


def named_run(what: str, names: Collection[str]) -> str | None:
    """Return the run that a name means: one of that name, or the only one whose name ends so; None: none does.

    Raises:
        UsageError: several runs may be meant; names them.
    """
    wanted = what.rstrip("/")
    if wanted in names:
        return wanted
    ending = sorted(name for name in set(names) if wanted and name.endswith(f"/{wanted}"))
    if len(ending) > 1:
        shown = ", ".join(ending[:4]) + (" and others" if len(ending) > 4 else "")
        raise UsageError(f"{what} may be one of {len(ending)} runs: {shown}: write more of the name")
    return ending[0] if ending else None


def hint(what: str, names: Collection[str], otherwise: str) -> str:
    """Return what may have been meant by a name that no run has."""
    close = difflib.get_close_matches(what, names, n=1)
    return f"did you mean {close[0]}?" if close else otherwise
