"""Which of the metrics that were measured a map learns; the others are kept as data.

Every learned metric costs as much as the first one, and a trainer logs hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from epsopt.studies.project.metric_direction import guess_maximize, is_bookkeeping, leave_out
from epsopt.zoo.errors import UsageError

MOST_LEARNED = 12
"""Metrics that are learned where nobody said which count."""


@dataclass(frozen=True)
class LearnedMetrics:
    """Which metrics are learned.

    Attributes:
        names: of those that are, in the order of the catalogue.
        kept: of those that are kept as data.
        rule: why these, as part of a sentence.
        unmatched: what was asked for and fits no metric that was measured.
    """

    names: tuple[str, ...]
    kept: tuple[str, ...]
    rule: str
    unmatched: tuple[str, ...] = ()


def learned_metrics(
    measured: Mapping[str, int], objectives: Sequence[str] = (), learn: Sequence[str] = ()
) -> LearnedMetrics:
    """Choose what a map learns: objectives and what was asked for; without objectives a dozen at most.

    Args:
        measured: how many checkpoints each metric was measured on.
        objectives: names of the metrics that count.
        learn: names or patterns (``*``, ``?``, ``[...]``) of others, as ``[metrics] learn`` lists them.

    Raises:
        UsageError: an objective was measured on no checkpoint, or nothing that was asked for was. A map without an
            objective answers no search, and would replace one that has it.
    """
    names = [name for name, n in measured.items() if n > 0]
    asked = {name for name in names if any(name == p or fnmatchcase(name, p) for p in learn)}
    unmatched = tuple(p for p in learn if not any(name == p or fnmatchcase(name, p) for name in names))
    if objectives or learn:
        wanted = asked | set(objectives)
        unmeasured = [name for name in objectives if names and name not in names]
        if unmeasured:
            close = get_close_matches(unmeasured[0], names, 1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UsageError(
                f"no checkpoint has {' or '.join(unmeasured)} measured, which epsopt.toml names as "
                f"{'an objective' if len(unmeasured) == 1 else 'objectives'}{hint} Known: {_listed(names)}"
            )
        if names and not wanted.intersection(names):
            missing = ", ".join([*objectives, *unmatched])
            raise UsageError(f"nothing to learn: no checkpoint has any of {missing} measured, known: {_listed(names)}")
        rule = "the objectives" if not learn else "the objectives and what [metrics] learn asks for"
        rule = rule if objectives else "what [metrics] learn asks for"
    else:
        wanted = set(_by_guess(names, measured))
        rule = "no objective is named, so everything that was measured"
        if len(wanted) < len(names):
            rule = (
                f"no objective is named, so at most {MOST_LEARNED} metrics that tell of the model and not of its "
                "training program; [objectives.NAME] or [metrics] learn in epsopt.toml says which"
            )
    return LearnedMetrics(
        tuple(n for n in names if n in wanted), tuple(n for n in names if n not in wanted), rule, unmatched
    )


def _by_guess(names: Sequence[str], measured: Mapping[str, int]) -> list[str]:
    """Metrics of the model: likely objectives first, then by how often they were measured."""
    telling = [n for n in names if not is_bookkeeping(n)] or list(names)
    without = {entry.name for entry in leave_out(telling)}
    return sorted(telling, key=lambda n: (n in without, guess_maximize(n) is None, -measured[n], n))[:MOST_LEARNED]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
