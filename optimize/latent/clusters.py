"""Groups of runs that behave alike: where they end on the map, how stable the groups are, what tells them apart.

Distances are those of :mod:`epsopt.optimize.latent.neighbours`. K-means
with the number of groups that has the best mean silhouette (Rousseeuw 1987); stability is the mean Jaccard similarity
with the groups found on subsamples (Hennig 2007), above .75 a group is stable, below .6 it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import chi2_contingency, kruskal
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate.surrogate import Surrogate
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EmptyCatalogue, UsageError

Floats = NDArray[np.float64]

STABLE = 0.75
DOUBTFUL = 0.6
_MOST = 8  # groups that are tried: more cannot be distinguished by eye
_SUBSAMPLES = 40
_SHARE = 0.8
_FEWEST = 6
_SMALLEST = 3  # runs: fewer are no group, but lie apart from the others
_ALONE = 8.0  # median absolute deviations


@dataclass(frozen=True)
class Group:
    """Runs that behave alike.

    Attributes:
        members: rows, nearest to the medoid first.
        medoid: the row with the least mean distance to the others.
        stability: mean Jaccard similarity with the nearest group on subsamples, 0 to 1.
    """

    members: tuple[int, ...]
    medoid: int
    stability: float


@dataclass(frozen=True)
class Difference:
    """A hyperparameter that tells groups apart.

    Attributes:
        name: of the hyperparameter.
        effect: share of its rank variance between groups (epsilon squared), or Cramer's V for categories; 0 to 1.
        p_value: of no difference (Kruskal-Wallis, or chi squared), Holm-corrected for the number of hyperparameters.
    """

    name: str
    effect: float
    p_value: float


@dataclass(frozen=True)
class Clustering:
    """Groups, largest first.

    Attributes:
        groups: the groups.
        unclustered: rows that lie far from all others and belong to no group.
        silhouette: mean silhouette; below about .25 there is hardly any structure.
        redundant: sets of rows that end nearer to each other than a run moves in its last step.
        threshold: that distance.
        differences: hyperparameters that differ between groups at p < .05, strongest first.
    """

    groups: tuple[Group, ...]
    unclustered: tuple[int, ...]
    silhouette: float
    redundant: tuple[tuple[int, ...], ...]
    threshold: float
    differences: tuple[Difference, ...]


def cluster(
    points: Floats,
    configs: Sequence[Mapping[str, Any]],
    space: Space | None,
    *,
    last_step: float,
    groups: int | None = None,
    seed: int = 0,
) -> Clustering:
    """Group runs.

    Args:
        points: ``(n, latent)`` where each run ends, finite.
        configs: each run's hyperparameters.
        space: the hyperparameters to compare; None: nothing is compared.
        last_step: how far a run typically moves in its last step (latent distance); runs that end nearer to each other
            are redundant.
        groups: how many; None chooses.
        seed: of K-means and the subsamples.

    Returns:
        The groups with their medoids and stability, the hyperparameters that tell them apart, and redundant runs.

    Raises:
        EmptyCatalogue: fewer than six runs.
        UsageError: a number of groups below 2 or above half of the runs.
    """
    n = len(points)
    if n < _FEWEST:
        raise EmptyCatalogue(f"there are {n} runs on the map, at least {_FEWEST} are needed to group them")
    if groups is not None and not 2 <= groups <= n // 2:
        raise UsageError(f"the number of groups is {groups}, expected 2 to {n // 2} for {n} runs")
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = _not_alone(between)
    while True:
        inner = points[near]
        tried = [groups] if groups is not None else list(range(2, min(_MOST, len(near) // 3) + 1))
        found = {k: _means(inner, k, seed) for k in tried}
        scores = {k: float(silhouette_score(inner, labels)) for k, labels in found.items()}
        best = max(scores, key=scores.__getitem__)
        labels = found[best]
        large = np.bincount(labels, minlength=best)[labels] >= _SMALLEST
        if groups is not None or large.all() or large.sum() < _FEWEST:
            break
        near = near[large]
    stability = _stability(inner, labels, best, seed)
    made = []
    for k in range(best):
        rows = near[labels == k]
        medoid = int(rows[between[np.ix_(rows, rows)].mean(axis=1).argmin()])
        members = rows[np.argsort(between[medoid, rows], kind="stable")]
        made.append(Group(tuple(members.tolist()), medoid, stability[k]))
    made.sort(key=lambda g: (-len(g.members), g.medoid))
    number = {i: k for k, group in enumerate(made) for i in group.members}
    labels = np.array([number[i] for i in near.tolist()])
    return Clustering(
        tuple(made),
        tuple(sorted(set(range(n)) - set(near.tolist()))),
        scores[best],
        _redundant(points, last_step),
        last_step,
        _differences(labels, [configs[i] for i in near.tolist()], space) if space is not None else (),
    )


def cluster_runs(
    surrogate: Surrogate, checkpoints: Sequence[Checkpoint], *, groups: int | None = None, seed: int = 0
) -> tuple[Clustering, list[Checkpoint], Floats]:
    """Group runs by where their last checkpoints lie on the map.

    Args:
        surrogate: the map; checkpoints that it does not know are left out.
        checkpoints: of all runs.
        groups: number of groups; None for what separates best.
        seed: RNG seed for K-means and the subsamples.

    Returns:
        The groups, whose rows are those of the last known checkpoint of each run, and of their ``(runs, latent)``
        positions.

    Raises:
        EmptyCatalogue: too few runs.
        UsageError: as many groups as there are runs, or more.
    """
    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    rows: dict[int, list[int]] = {}
    for i, c in enumerate(known):
        rows.setdefault(c.run_id, []).append(i)
    ends = [r[-1] for r in rows.values()]
    steps = [float((latents[r[-1]] - latents[r[-2]]).norm()) for r in rows.values() if len(r) > 1]
    shown = [known[i] for i in ends]
    configs = [c.hyperparameters for c in shown]
    try:
        space = infer_space(configs)
    except UsageError:
        space = None
    last_step = float(np.median(steps)) if steps else 0.0
    points = latents[ends].double().numpy()
    return cluster(points, configs, space, last_step=last_step, groups=groups, seed=seed), shown, points


def _not_alone(between: Floats) -> NDArray[np.int64]:
    """Rows whose second nearest neighbour is not much further than usual: K-means makes groups of lone points."""
    gap = np.sort(between, axis=1)[:, 2]
    middle = np.median(gap)
    alone = gap > middle + _ALONE * max(float(np.median(np.abs(gap - middle))), 1e-9)
    return np.flatnonzero(~alone) if alone.sum() <= len(gap) // 4 else np.arange(len(gap))


def _means(points: Floats, k: int, seed: int) -> NDArray[np.int64]:
    return np.asarray(KMeans(k, n_init=10, random_state=seed).fit_predict(points), dtype=np.int64)


def _stability(points: Floats, labels: NDArray[np.int64], k: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    similar = np.zeros((_SUBSAMPLES, k))
    for b in range(_SUBSAMPLES):
        rows = np.sort(rng.choice(len(points), max(k + 1, round(_SHARE * len(points))), replace=False))
        other = np.asarray(KMeans(k, n_init=3, random_state=b).fit_predict(points[rows]))
        for i in range(k):
            mine = labels[rows] == i
            shared = [(mine & (other == j)).sum() / max((mine | (other == j)).sum(), 1) for j in range(k)]
            similar[b, i] = max(shared)
    return [float(v) for v in similar.mean(axis=0)]


def _redundant(points: Floats, threshold: float) -> tuple[tuple[int, ...], ...]:
    # Complete linkage: every two runs of a set lie within the threshold.
    sets = fcluster(linkage(points, "complete"), threshold, "distance")
    rows = [tuple(np.flatnonzero(sets == s).tolist()) for s in np.unique(sets)]
    return tuple(sorted((r for r in rows if len(r) > 1), key=lambda r: (-len(r), r)))


def _differences(
    labels: NDArray[np.int64], configs: Sequence[Mapping[str, Any]], space: Space
) -> tuple[Difference, ...]:
    tested = []
    for p in space.parameters:
        given = [space.given(c) for c in configs]
        active = np.array([p in space.active(c) and p.is_of_kind(c.get(p.name)) for c in configs])
        if p.kind == "categorical":
            test = _categories([g[p.name] for g, a in zip(given, active, strict=True) if a], labels[active])
        else:
            active &= np.array([p.name in g for g in given])
            numbers = [float(g[p.name]) for g, a in zip(given, active, strict=True) if a]  # type: ignore[arg-type]
            test = _numbers(np.array(numbers), labels[active])
        if test is not None:
            tested.append((p.name, *test))
    tested.sort(key=lambda t: t[2])
    out, worst = [], 0.0
    for rank, (name, effect, p_value) in enumerate(tested):
        worst = max(worst, min(p_value * (len(tested) - rank), 1.0))  # Holm 1979
        if worst < 0.05:
            out.append(Difference(name, effect, worst))
    return tuple(sorted(out, key=lambda d: -d.effect))


def _numbers(values: Floats, labels: NDArray[np.int64]) -> tuple[float, float] | None:
    parts = [values[labels == k] for k in np.unique(labels)]
    parts = [p for p in parts if len(p) > 1]
    if len(parts) < 2 or np.ptp(np.concatenate(parts)) == 0:
        return None
    n = sum(map(len, parts))
    statistic, p_value = kruskal(*parts)
    return float(statistic / (n - 1)), float(p_value)


def _categories(values: Sequence[Any], labels: NDArray[np.int64]) -> tuple[float, float] | None:
    names = sorted({repr(v) for v in values})
    numbers = np.unique(labels)
    table = np.array([[sum(repr(v) == name and g == k for v, g in zip(values, labels, strict=True)) for name in names]
                      for k in numbers])  # fmt: skip
    if min(table.shape) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistic, p_value, *_ = chi2_contingency(table)
    return float(np.sqrt(statistic / (table.sum() * (min(table.shape) - 1)))), float(p_value)
