"""Infer a search space from the hyperparameters of past runs (D10)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from epsopt.optimize.space import Parameter, Space, Value
from epsopt.zoo.errors import UsageError
from epsopt.zoo.words import count


def infer_space(runs: Sequence[Mapping[str, Any]], ignore: Sequence[str] = ()) -> Space:
    """Infer a search space from the hyperparameters of past runs (D10).

    A number that varies is searched over the range seen, logarithmically when it spans a factor of five or more; text
    and truth values that vary are categories; what never varies is fixed. A parameter that is absent from some runs
    is conditional when a category tells exactly when it is there; that category may be conditional itself. Seeds and
    paths are bookkeeping, not hyperparameters.

    Args:
        runs: one mapping per run.
        ignore: names to leave out besides.

    Returns:
        The space.

    Raises:
        UsageError: no hyperparameter varies.
    """
    runs = _of_one_kind(runs)
    names = sorted({name for run in runs for name in run} - set(ignore))
    present = {n: [r[n] for r in runs if r.get(n) is not None] for n in names}
    kept = [n for n in names if not _bookkeeping(n, present[n])]
    varying = [n for n in kept if len({repr(v) for v in present[n]}) > 1]
    fixed = {n: present[n][0] for n in kept if len(present[n]) == len(runs) and n not in varying}
    if not varying:
        why = f"no hyperparameter varies over {count(len(runs), 'run')}" if runs else "no run is known"
        raise UsageError(f"{why}, so there is nothing to search: declare [space.NAME] tables in epsopt.toml")
    always = [n for n in varying if len(present[n]) == len(runs)]
    parameters = [_infer(n, present[n]) for n in always]
    # Those that most runs have come first: a parent is there whenever its child is.
    for name in sorted((n for n in varying if n not in always), key=lambda n: -len(present[n])):
        condition = condition_of(name, runs, [p for p in parameters if p.kind == "categorical"])
        inferred = _infer(name, present[name])
        parameters.append(Parameter(**{**inferred.__dict__, "active_when": condition}))
    return Space(tuple(parameters), fixed)


def _of_one_kind(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out runs of another kind, such as the base that the others start from: they lack what the others share."""
    known = Counter(name for run in runs for name, value in run.items() if value is not None)
    common = {n for n, times in known.items() if times > 0.8 * len(runs)}
    return [run for run in runs if 2 * sum(run.get(n) is not None for n in common) >= len(common)]


# Names that say where a run is kept or which one it is; a seed is noise, not a choice.
_BOOKKEEPING = frozenset({
    "seed", "device", "name", "run", "run_name", "run_id", "init_from", "base",
    "out", "output", "output_dir", "out_dir", "save_dir",
})  # fmt: skip


def _bookkeeping(name: str, values: list[Any]) -> bool:
    if name.rsplit(".", 1)[-1].lower() in _BOOKKEEPING:
        return True
    texts = [v for v in values if isinstance(v, str)]
    # Free text (a different one for nearly every run) and paths name things; they are not choices.
    return bool(texts) and (any("/" in t or "\\" in t for t in texts) or len(set(texts)) > max(12, len(values) // 2))


def _infer(name: str, values: list[Any]) -> Parameter:
    if any(isinstance(v, str | bool) for v in values):
        choices = tuple(sorted({v for v in values if isinstance(v, str | bool)}, key=str))
        return Parameter(name, "categorical", choices=choices)
    numbers = [float(v) for v in values if math.isfinite(float(v))]
    low, high = min(numbers), max(numbers)
    whole = all(isinstance(v, int) for v in values)
    distinct = sorted(set(values))
    if whole and len(distinct) <= min(4, len(values) // 3):
        # A few whole numbers that return again and again (batch sizes) were chosen from a list: 300 may not be on it.
        return Parameter(name, "categorical", choices=tuple(distinct))
    if not whole:
        low, high = _inside(low, high)
    return Parameter(name, "int" if whole else "float", low, high, log=low > 0 and high / low >= 5)


def _inside(low: float, high: float) -> tuple[float, float]:
    """Round a range to three significant digits, never beyond what was seen."""
    digits = [2 - math.floor(math.log10(abs(v))) if v else 0 for v in (low, high)]
    up, down = math.ceil(low * 10.0 ** digits[0]), math.floor(high * 10.0 ** digits[1])
    rounded = (float(f"{up * 10.0 ** -digits[0]:.3g}"), float(f"{down * 10.0 ** -digits[1]:.3g}"))
    return rounded if low <= rounded[0] < rounded[1] <= high else (low, high)


def condition_of(
    name: str, runs: Sequence[Mapping[str, Any]], parents: Sequence[Parameter]
) -> tuple[str, tuple[Value, ...]] | None:
    """Find the categorical parameter whose values tell exactly which runs have a parameter; ``None`` if none does."""
    for parent in parents:
        on = {r.get(parent.name) for r in runs if r.get(name) is not None}
        off = {r.get(parent.name) for r in runs if r.get(name) is None}
        # Where the parent is absent the child is inactive whatever its value would be.
        if not on & (off - {None}) and None not in on:
            return parent.name, tuple(c for c in parent.choices if c in on)
    return None
