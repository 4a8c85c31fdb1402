"""What the user asks for: objectives with a direction, and targets that mean "at least this good"."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from epsopt.surrogate.ranges import range_text
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Objective:
    """A metric that counts, and whether more of it is better.

    Attributes:
        name: the metric's name, as the catalogue has it.
        maximize: whether more is better.
        limit: the least good value that is any use, in the metric's own unit: what does not reach it is on no front
            and counts for no hypervolume; None: every value is. Two objectives are the same whatever their limits.
    """

    name: str
    maximize: bool
    limit: float | None = field(default=None, compare=False)


class Objectives(tuple[Objective, ...]):
    """Objectives in the order of a table's columns, with the directions and the front that follow from them.

    ``Objectives(objectives)`` takes any sequence of :class:`Objective`.
    """

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """Names of the metrics."""
        return [o.name for o in self]

    @property
    def maximize(self) -> list[bool]:
        """Whether more is better, by column."""
        return [o.maximize for o in self]

    @property
    def signs(self) -> NDArray[np.float64]:
        """``(m,)`` 1 for a maximised objective, -1 for a minimised one."""
        import numpy as np

        return np.array([1.0 if o.maximize else -1.0 for o in self])

    def front(self, values: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of a table that no other row dominates (:func:`epsopt.optimize.pareto.non_dominated`).

        Args:
            values: ``(n, m)`` in the metrics' own units; rows with NaN are on no front.
        """
        from epsopt.optimize.pareto import non_dominated

        return non_dominated(values, self.maximize).indices

    def hypervolume(self, values: ArrayLike, reference: ArrayLike) -> float:
        """Return the hypervolume of a table's front (:func:`epsopt.optimize.pareto.hypervolume`).

        Args:
            values: ``(n, m)`` in the metrics' own units; rows with NaN count for nothing.
            reference: ``(m,)`` reference point, in the same units.
        """
        from epsopt.optimize.pareto import hypervolume

        return hypervolume(values, reference, self.maximize)


@dataclass(frozen=True)
class Target:
    """At least this good in the objective's own direction: >= for a maximised metric, <= for a minimised.

    Attributes:
        name: the metric's name.
        value: the least good value that is wanted, in the metric's own unit.
    """

    name: str
    value: float


def parse_targets(
    pairs: Mapping[str, float],
    known: Sequence[Objective],
    observed: Mapping[str, tuple[float, float]],
    bounds: Mapping[str, tuple[float, float]],
) -> list[Target]:
    """Check targets against what is known of the metrics.

    Args:
        pairs: metric name to wanted value, in the metric's own unit.
        known: the metrics that can be asked for, with their directions.
        observed: lowest and highest measured value of a metric, only to say what there is; may lack metrics.
        bounds: lowest and highest possible value of a metric; a metric without bounds takes any finite value.

    Returns:
        One target a pair, in the order given. A target that is possible but was never measured is none of
        this function's business: the search answers it.

    Raises:
        UsageError: an unknown name, NaN or infinity, or a value that the metric cannot take.
    """
    directions = {objective.name: objective.maximize for objective in known}
    targets = []
    for name, value in pairs.items():
        if name not in directions:
            raise UsageError(_unknown(name, list(directions)))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"target {name}: expected a finite number, got {value!r}")
        if name in bounds:
            low, high = bounds[name]
            if not low <= value <= high:
                verb = "lies" if math.isfinite(high - low) else "is"
                raise UsageError(
                    f"target {name}: {value:g} is impossible, {name} {verb} {range_text(bounds[name])}"
                    f"{_seen(name, observed, directions[name])}; if it can be more, change its bounds in epsopt.toml",
                )
        targets.append(Target(name, float(value)))
    return targets


def within_limits(table: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Leave out what does not reach the limit of an objective, as if it were not measured.

    Args:
        table: ``(n, m)`` values of the objectives; NaN where not measured.
        objectives: ``m`` of them.

    Returns:
        The same table with NaN in every column of a row that misses a limit.
    """
    import numpy as np

    out = table.copy()
    for j, objective in enumerate(objectives):
        if objective.limit is not None:
            sign = 1.0 if objective.maximize else -1.0
            out[sign * table[:, j] < sign * objective.limit] = np.nan
    return out


def worst_where_missing(table: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Fill in what a hook could not measure, so that a search does not come back to where nothing is measured.

    Args:
        table: ``(n, objectives)`` values; NaN where a hook found none.
        objectives: the columns.

    Returns:
        The same, with the worst that is no outlier in place of every value of a row that lacks one; as it is where no
        row is whole.
    """
    import numpy as np

    from epsopt.optimize.outliers import bulk

    whole = np.asarray(np.isfinite(table).all(axis=1))
    if whole.all() or not whole.any():
        return table
    worst = [bulk(column, maximize=o.maximize)[0] for o, column in zip(objectives, table[whole].T, strict=True)]
    return np.where(whole[:, None], table, worst)


def measured_table(metrics: Sequence[dict[str, float | None]], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Measured metrics as ``(n, objectives)``; NaN where not measured, and in rows that miss an objective's limit."""
    import numpy as np

    names = [o.name for o in objectives]
    rows = [[m.get(name) for name in names] for m in metrics]
    table = np.array(rows, dtype=np.float64).reshape(len(metrics), len(objectives))  # None becomes NaN
    return within_limits(table, objectives)


def limits_as_targets(objectives: Sequence[Objective], targets: Sequence[Target]) -> list[Target]:
    """Return targets that hold the objectives' limits, too: of each objective the one that asks for more."""
    wanted = {t.name: t.value for t in targets}
    for o in objectives:
        if o.limit is not None:
            stricter = max if o.maximize else min
            wanted[o.name] = stricter(o.limit, wanted.get(o.name, o.limit))
    return [Target(name, value) for name, value in wanted.items()]


def meets(values: Mapping[str, float], targets: Sequence[Target], objectives: Sequence[Objective]) -> bool:
    """Say whether metrics reach all targets; a metric that is missing or NaN does not.

    Args:
        values: metric name to measured or predicted value.
        targets: what is wanted; none at all is always met.
        objectives: the directions of the targets' metrics.

    Returns:
        Whether every target is reached.

    Raises:
        UsageError: a target without an objective of its name.
    """
    directions = {objective.name: objective.maximize for objective in objectives}
    for target in targets:
        if target.name not in directions:
            raise UsageError(_unknown(target.name, list(directions)))
        value = values.get(target.name, math.nan)
        reached = value >= target.value if directions[target.name] else value <= target.value
        if not reached:
            return False
    return True


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return f"target {name}: no metric is known yet, ingest checkpoints with metrics first"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    others = ", ".join(sorted(known))
    hint = f"did you mean {nearest[0]}? Known metrics: {others}" if nearest else f"known metrics: {others}"
    return f"target {name}: there is no such metric, {hint}"


def _seen(name: str, observed: Mapping[str, tuple[float, float]], maximize: bool) -> str:
    if name not in observed:
        return ""
    best = observed[name][1] if maximize else observed[name][0]
    return f"; the best measured so far is {best:g}"
