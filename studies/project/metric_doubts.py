"""What looks wrong with metrics: one under two names or of one value, two units, objectives never measured together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from statistics import median

from epsopt.studies.project.metric_direction import is_best_so_far
from epsopt.surrogate.ranges import named_ranges, words
from epsopt.zoo.formatting import count

Measured = Mapping[str, float | None]
_SHARE, _PERCENT = (0.0, 1.0), (0.0, 100.0)
_APART = (
    "No checkpoint has {}, so none is on a front. If they are one metric under two names, name it once under "
    "[metrics.rename]; else take the table [objectives.NAME] of one of them away"
)
_BEST = (
    "{} is by its name the best of a run so far, and several checkpoints of one run have the same: those are not "
    "measured, they have the value of an earlier one. Log what each checkpoint reaches"
)
FEWEST_ALIKE = 3
"""Checkpoints whose equal values show that a metric does not vary."""
_FEWEST = 2  # runs of each kind; one alone may have failed


def renamed_metrics(checkpoints: Sequence[Measured], kept: Collection[str] = ()) -> dict[str, str]:
    """Find metrics of one name, spelled in two ways (``val_acc``, ``val/acc``), of which no checkpoint has both.

    Args:
        checkpoints: metrics by name; the first that has one of two spellings has the new one.
        kept: names that stay.

    Returns:
        The new spelling, which the first checkpoint has that has either, by the old one.
    """
    spellings: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(n for c in checkpoints for n in c):
        spellings.setdefault(tuple(words(name)), []).append(name)
    return {
        old: names[0]
        for names in spellings.values()
        for old in names[1:]
        if old not in kept and not any(old in c and names[0] in c for c in checkpoints)
    }


def metric_doubts(objectives: Sequence[str], runs: Sequence[Sequence[Measured]]) -> list[str]:
    """Say of objectives, a sentence each, that they are never measured together, do not vary, or have two units.

    Args:
        objectives: their names.
        runs: metrics of the checkpoints of each run, by name.
    """
    return [
        *_never_together(objectives, runs),
        *of_one_value(objectives, [c for run in runs for c in run]),
        *(text for name in objectives if (text := _two_units(name, runs))),
        *(_BEST.format(name) for name in objectives if _is_best_so_far(name, runs)),
    ]


def of_one_value(objectives: Sequence[str], checkpoints: Sequence[Measured]) -> list[str]:
    """Say of objectives, a sentence each, that they have one value on all checkpoints, which leaves no hypervolume.

    Args:
        objectives: their names.
        checkpoints: metrics by name.
    """
    found = []
    for name in objectives:
        values = [v for c in checkpoints if (v := c.get(name)) is not None]
        if len(values) >= FEWEST_ALIKE and len(set(values)) == 1:
            found.append(
                f"{name} is {values[0]:.6g} on all {len(values):,} measured checkpoints, so every hypervolume is 0: "
                "take its table under [objectives] away, or measure what varies"
            )
    return found


def _is_best_so_far(name: str, runs: Sequence[Sequence[Measured]]) -> bool:
    """Tell whether a metric is called the best, and several checkpoints of a run have one value of it."""
    values = [[v for c in run if (v := c.get(name)) is not None] for run in runs]
    return is_best_so_far(name) and any(len(set(of_run)) < len(of_run) for of_run in values)


def _never_together(objectives: Sequence[str], runs: Sequence[Sequence[Measured]]) -> list[str]:
    held = Counter(frozenset(n for n in objectives if c.get(n) is not None) for run in runs for c in run)
    measured = [n for n in objectives if any(n in names for names in held)]
    if len(measured) < 2 or any(names.issuperset(measured) for names in held):
        return []
    apart = [f"{a} and {b}" for a, b in combinations(measured, 2) if not any({a, b} <= names for names in held)]
    which = f"both {apart[0]}" if apart else f"all of {', '.join(measured)}"
    return [_APART.format(which)]


def _two_units(name: str, runs: Sequence[Sequence[Measured]]) -> str | None:
    """Say that some runs have a share as a fraction and others as a percentage.

    Those of at most 1 are fractions where a hundred times as much is what the other runs have, about.
    """
    if (named_ranges(name) or ())[:2] != (_SHARE, _PERCENT):
        return None
    best = [max(values) for run in runs if (values := [v for c in run if (v := c.get(name)) is not None])]
    small, large = [v for v in best if 0 < v <= 1], [v for v in best if 1 < v <= 100]
    if min(len(small), len(large)) < _FEWEST or not min(large) / 2 <= 100 * median(small) <= 2 * max(large):
        return None
    return (
        f"{name} is at most 1 in {count(len(small), 'run')} and up to {max(large):.4g} in {len(large)} others. If the "
        "first are fractions and the others percentages, the others win on every front: log one unit, or give the "
        'values of those runs in a CSV ([runs] table = "runs.csv")'
    )
