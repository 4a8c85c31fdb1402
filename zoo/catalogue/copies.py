"""Runs that are one training: what a tracker kept of a run's checkpoints, and the folder that the run wrote them to.

Weights & Biases links the files that it saves into its own folder, and MLflow copies them. Both folders hold the same
moments, and each says what the other does not know. The one whose checkpoints are all in the other is a part of it.
Two folders without a tracker are never put together: runs that share an untrained epoch 0 are two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """What one run's folder holds.

    Attributes:
        layout: that recognises the folder.
        contents: SHA-256 of its checkpoint files.
        identities: size, time and inode of each file: a link has those of the file that it leads to.
    """

    layout: str
    contents: frozenset[str]
    identities: frozenset[Hashable]


def parts_of_others(runs: Mapping[int, Held], trackers: Collection[str]) -> dict[int, int]:
    """Find the runs that are a part of another one.

    Args:
        runs: by id.
        trackers: layouts whose folders may hold copies of what a run wrote elsewhere.

    Returns:
        The id of the run that counts, by the id of the one that is a part of it. Where several runs could be meant
        (all have their epoch 0 in common so far), the one that a link leads to; without links, none.
    """
    tracked = {i: run for i, run in runs.items() if run.layout in trackers and run.contents}
    if not tracked:
        return {}
    own = {i: run for i, run in runs.items() if run.layout not in trackers and run.contents}
    holding: dict[str, set[int]] = {}
    for i, run in own.items():
        for content in run.contents:
            holding.setdefault(content, set()).add(i)
    found: dict[int, int] = {}
    whole: dict[int, list[int]] = {}
    for i, run in sorted(tracked.items()):
        near = set().union(*(holding.get(content, set()) for content in run.contents))
        around = [j for j in sorted(near) if run.contents <= own[j].contents]
        chosen = _meant(run, {j: own[j] for j in around})
        if chosen is not None:
            found[i] = chosen
        for j in near:
            if own[j].contents < run.contents:
                whole.setdefault(j, []).append(i)
    for j, around in sorted(whole.items()):
        for layout, count in Counter(runs[i].layout for i in around).items():
            chosen = _meant(own[j], {i: runs[i] for i in around if runs[i].layout == layout}) if count else None
            if chosen is not None and j not in found.values():
                found.setdefault(j, chosen)
    return found


def _meant(part: Held, others: Mapping[int, Held]) -> int | None:
    if len(others) > 1:
        others = {i: run for i, run in others.items() if part.identities <= run.identities}
    return next(iter(others)) if len(others) == 1 else None
