"""The fitted map in the catalogue's database, so that every worker finds the same one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from epsopt.studies.learned_metrics import LearnedMetrics, learned_metrics
from epsopt.studies.map_index import KINDS, digest
from epsopt.studies.training_data import MeasuredZoo, measured_contents, measured_zoo
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.fitting import enough_runs, fit, fit_key
from epsopt.surrogate.map_format import OtherVersion
from epsopt.surrogate.placement import place_on_map
from epsopt.surrogate.ranges import guess_range, n_outside, named_ranges, range_text
from epsopt.surrogate.refinement import GROWTH, Refinement, condition_on_observations, refinable, refine
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.training import TrainingConfig
from epsopt.surrogate.validation import MetricValidation, Validation
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import DamagedArtifact, EmptyCatalogue
from epsopt.zoo.formatting import count
from epsopt.zoo.ray_cluster import RayCluster

DAMAGED = "it is damaged"

_TOGETHER = 500  # checkpoints whose embeddings are read together


@dataclass(frozen=True)
class FitOutcome:
    """How a map came about.

    Attributes:
        how: ``current``: it was kept, and nothing is new; ``refined``; ``fitted`` from scratch.
        change: of a refined one.
        reason: why a fitted one was not refined, where there was one to refine.
        metrics: which were learned, and which are kept as data; ``None`` where nobody chose.
        bounds_contradicted: sentences about ranges of metrics that measurements contradict.
        placed: checkpoints of a large catalogue that were placed on the map, and not learned from.
    """

    how: Literal["current", "refined", "fitted"]
    change: Refinement | None = None
    reason: str | None = None
    metrics: LearnedMetrics | None = None
    bounds_contradicted: tuple[str, ...] = ()
    placed: int = 0


@dataclass(frozen=True, eq=False)
class KeptMap:
    """A map as it is kept in the catalogue.

    Attributes:
        surrogate: the map.
        validation: of the fit, without its held-out predictions.
        fitted_runs: runs that there were when it was last fitted from scratch.
        stored: bytes and description in the database.
    """

    surrogate: Surrogate
    validation: Validation
    fitted_runs: int
    stored: tuple[bytes, dict[str, Any]]


def training_set(catalogue: Catalogue, learned: Sequence[str] | None = None) -> TrainingSet:
    """Read what a surrogate learns from: every checkpoint with at least one measured metric, each content once.

    Of a large catalogue those are read that a map is learned from (:mod:`epsopt.surrogate.thinning`).

    Args:
        catalogue: what to read.
        learned: names of the metrics that are learned, in the order of the columns; by default all.

    Returns:
        Checkpoints as arrays, one row a content; NaN where a metric was not measured.

    Raises:
        EmptyCatalogue: there is none; names the command to run first.
    """
    return training_set_of(catalogue, learned)[0]


def training_set_of(catalogue: Catalogue, learned: Sequence[str] | None) -> tuple[TrainingSet, tuple[str, ...]]:
    """Return the training set, and sentences about embeddings that count as none in it."""
    zoo = measured_zoo(catalogue, learned)
    return zoo.training_set(zoo.rows_to_learn())


def fit_map(
    catalogue: Catalogue,
    *,
    seed: int = 0,
    objectives: Sequence[str] = (),
    learn: Sequence[str] = (),
    bounds: Mapping[str, tuple[float, float]] | None = None,
    again: bool = False,
    recipe: TrainingConfig | None = None,
    probes: bool = False,
    progress: Callable[[str, float], None] | None = None,
    cluster: RayCluster | None = None,
) -> tuple[Surrogate, Validation, FitOutcome]:
    """Fit the map to everything in the catalogue and keep it there; refine the kept one where that is enough.

    Args:
        catalogue: what to learn from, and where the map is kept.
        seed: of the fit.
        objectives: names of the metrics that count: they are learned.
        learn: names or patterns of metrics that are learned besides
            (:func:`epsopt.studies.learned_metrics.learned_metrics`).
        bounds: declared bounds of metrics; others are guessed from their names.
        again: fit from scratch, even if the kept map was trained on exactly this or could be refined.
        recipe: how to train, if not by the default.
        probes: read checkpoints with their anchor embeddings too; such a map is kept beside the one of weights only.
        progress: called as ``progress(what, share done)``.
        cluster: of Ray, on which a fit from scratch trains its folds side by side.

    Returns:
        The map, its validation on runs that were held out or not learned yet, and how it came about.
    """
    chosen = measured_metrics(catalogue, objectives, learn)
    zoo = measured_zoo(catalogue, chosen.names)
    known = {name: limits for name, limits in (bounds or {}).items() if name in zoo.metric_names}
    # Fingerprints of a small zoo are part of what identifies it; of a large one they are read when they are needed.
    whole = None if zoo.is_large else zoo.training_set(zoo.rows_to_learn())
    doubts = doubts_about_ranges(zoo if whole is None else whole[0], known) + (() if whole is None else whole[1])
    if whole is not None and (broken := len(zoo) - len(whole[0])):
        doubts += (f"nothing is learned from {count(broken, 'checkpoint')} whose weights are NaN",)
    if zoo.superseded:
        gone = f"{count(zoo.superseded, 'checkpoint')} whose files are gone"
        doubts += (
            f"nothing is learned from {gone}: an earlier version read them, and this one others of their network",
        )
    same = zoo.digest if whole is None else whole[0].digest
    key = fit_key(same, seed=seed, bounds=known, recipe=recipe, probes=probes)
    kept, damaged = (None, None) if again else _kept(catalogue, probes, key)
    if kept is not None:
        data, meta = kept.stored
        catalogue.put_artifact(KINDS[probes], key, data, meta)  # the newest is the one that every other command loads
        made = FitOutcome("current", metrics=chosen, bounds_contradicted=doubts, placed=_placed(kept.surrogate))
        return kept.surrogate, kept.validation, made
    newest, reason, old = None, damaged, None
    if not again and damaged is None:
        newest, damaged = _kept(catalogue, probes)
        reason = damaged
        if newest is not None:
            reason, old = _refinable(newest, key, zoo, whole, known)
    broken_map = _kept(catalogue, probes)[1] == DAMAGED if again else damaged == DAMAGED
    train = old[1] if old is not None else (whole or zoo.training_set(zoo.rows_to_learn()))[0]
    if newest is not None and old is not None:
        if progress is not None:
            progress("refining the map", 0.0)
        surrogate, validation, change = refine(
            old[0], newest.validation, train, trained_on=key, seed=seed, recipe=recipe
        )
        fitted_runs, made = (
            newest.fitted_runs,
            FitOutcome("refined", change, metrics=chosen, bounds_contradicted=doubts),
        )
    else:
        surrogate, validation = fit(
            train, seed=seed, bounds=known, recipe=recipe, probes=probes, progress=progress, cluster=cluster
        )
        fitted_runs, made = (
            zoo.n_runs if whole is None else train.n_runs,
            FitOutcome("fitted", None, reason, chosen, doubts),
        )
        earlier = _kept(catalogue, probes)[0] or _kept(catalogue, probes=False)[0]
        if earlier is not None:
            surrogate = surrogate.aligned_with(earlier.surrogate)
    if whole is None:
        surrogate = replace(_with_the_others(surrogate, zoo, progress), trained_on=key)
        made = replace(made, placed=_placed(surrogate))
    data, meta = surrogate.to_bytes()
    meta = {**meta, "validation": asdict(replace(validation, held_out=None)), "fitted_runs": fitted_runs}
    meta["digest"] = digest(data, meta)
    if broken_map:  # of what is kept beside it nobody knows either
        catalogue.forget_artifacts(KINDS[probes])
    catalogue.put_artifact(KINDS[probes], key, data, meta)
    return surrogate, validation, made


def _placed(surrogate: Surrogate) -> int:
    return len(surrogate.memory.keys) - surrogate.memory.n_learned


def _with_the_others(
    surrogate: Surrogate, zoo: MeasuredZoo, progress: Callable[[str, float], None] | None
) -> Surrogate:
    """Place what a map of a large zoo was not learned from on it."""
    learned = set(surrogate.memory.keys)
    others = np.array([i for i, c in enumerate(zoo.checkpoints) if c.sha256 not in learned], dtype=np.int64)

    def batches() -> Iterator[TrainingSet]:
        done = 0
        for part in zoo.batches(others):
            if progress is not None:
                progress("placing checkpoints on the map", done / len(others))
            yield part
            done += len(part)

    return place_on_map(surrogate, batches())


def measured_metrics(catalogue: Catalogue, objectives: Sequence[str] = (), learn: Sequence[str] = ()) -> LearnedMetrics:
    """Choose what is learned of a catalogue; arguments and errors as of :func:`learned_metrics`."""
    counts = dict.fromkeys(catalogue.metric_names(), 0)
    for checkpoint in catalogue.checkpoints():
        for name, value in checkpoint.metrics.items():
            if value is not None:
                counts[name] = counts.get(name, 0) + 1
    return learned_metrics(counts, objectives, learn)


def doubts_about_ranges(
    train: TrainingSet | MeasuredZoo, declared: Mapping[str, tuple[float, float]]
) -> tuple[str, ...]:
    """Say where measurements contradict what a metric was declared, or guessed, to be."""
    out = []
    for j, name in enumerate(train.metric_names):
        values = train.metrics[:, j][np.isfinite(train.metrics[:, j])]
        if not len(values):
            continue
        lowest, highest = float(values.min()), float(values.max())
        seen = f"{lowest:g} to {highest:g} were measured"
        if name in declared:
            if outside := n_outside(declared[name], values):
                out.append(
                    f"{name} is declared to be {range_text(declared[name])}, but {seen}: {outside} of "
                    f"{count(len(values), 'measurement')} {'counts' if outside == 1 else 'count'} as the bound, and "
                    "what is predicted stays in its range; if that is wrong, change its bounds in epsopt.toml and run "
                    "'epsopt fit' again"
                )
        elif ranges := named_ranges(name):
            guess = guess_range(name, values)
            if guess == ranges[0] or (guess is not None and all(map(math.isfinite, guess))):
                continue  # a percentage is nothing to wonder about
            instead = "any number is predicted" if guess is None else f"what is predicted is {range_text(guess)}"
            out.append(f"by its name {name} would be {range_text(ranges[0])}, but {seen}: {instead}")
    return tuple(out)


def _refinable(
    newest: KeptMap,
    key: str,
    zoo: MeasuredZoo,
    whole: tuple[TrainingSet, tuple[str, ...]] | None,
    declared: Mapping[str, tuple[float, float]],
) -> tuple[str | None, tuple[Surrogate, TrainingSet] | None]:
    """Return the kept map and what it is to learn, if it can be refined; otherwise why not (None: other settings)."""
    if newest.surrogate.trained_on.partition("-")[2] != key.partition("-")[2]:
        return None, None
    n_runs = zoo.n_runs if whole is None else whole[0].n_runs
    if n_runs >= GROWTH * newest.fitted_runs:
        return "there are half as many runs again as when it was last fitted", None
    old = replace(newest.surrogate, memory=newest.surrogate.memory.learned_only)
    train = (whole or zoo.training_set(zoo.rows_to_learn(newest.surrogate)))[0]
    reason = refinable(old, train) or other_ranges(old, train, declared)
    return reason, None if reason else (old, train)


def other_ranges(surrogate: Surrogate, train: TrainingSet, declared: Mapping[str, tuple[float, float]]) -> str | None:
    """Say which metric was measured outside of what it was guessed to be; None: none was."""
    for j, (name, transform) in enumerate(zip(surrogate.metric_names, surrogate.transforms, strict=True)):
        limits = transform.bounds
        if name not in declared and limits is not None and n_outside(limits, train.metrics[:, j]):
            return f"{name} was taken to be {range_text(limits)}, and other values were measured since"
    return None


def _kept(catalogue: Catalogue, probes: bool, key: str | None = None) -> tuple[KeptMap | None, str | None]:
    """Return a kept map, or why the one that there is cannot be used; ``(None, None)``: there is none."""
    try:
        return find_map(catalogue, probes=probes, key=key), None
    except OtherVersion:
        return None, "it was written by another version"
    except DamagedArtifact:
        return None, DAMAGED


def find_map(catalogue: Catalogue, *, probes: bool = False, key: str | None = None) -> KeptMap | None:
    """Return the map with this key that is kept in the catalogue, or the newest; None when there is none.

    Raises:
        OtherVersion: another version of epsopt wrote it.
        DamagedArtifact: it cannot be read, or is not what was kept: its digest is another one.
    """
    kept = catalogue.get_artifact(KINDS[probes], key)
    if kept is None:
        return None
    return _opened(*kept, probes=probes)


def damage_of_map(meta: Any, data: Any, *, probes: bool) -> str | None:
    """Say what is wrong with a map, given what the database holds of it; None: nothing.

    Args:
        meta: its description, a JSON text.
        data: its bytes.
        probes: whether it reads anchor embeddings, too.
    """
    try:
        _opened(bytes(data), json.loads(meta), probes=probes)
    except OtherVersion:
        return None  # that is no damage
    except (DamagedArtifact, ValueError, TypeError, RecursionError) as error:
        return str(error.__cause__ or error).strip().splitlines()[0][:80]
    return None


def _opened(data: bytes, meta: dict[str, Any], *, probes: bool) -> KeptMap:
    again = "'epsopt fit --probes'" if probes else "'epsopt fit'"
    try:
        if "digest" in meta and meta["digest"] != digest(data, meta):
            raise ValueError("it is not what was kept")  # noqa: TRY301 - said as all the rest
        if "format" not in meta:
            raise ValueError("it does not say its format")  # noqa: TRY301 - said as all the rest
        surrogate = Surrogate.from_bytes(data, meta)
        fitted = int(meta.get("fitted_runs", meta["validation"]["n_runs"]))
        return KeptMap(surrogate, _validation(meta["validation"]), fitted, (data, meta))
    except OtherVersion:
        raise
    except Exception as error:  # whatever damaged bytes and odd JSON provoke in torch, safetensors and numpy
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedArtifact(
            f"the fitted map in the database is damaged ({lines[0][:80]}): run {again} again"
        ) from error


def has_embeddings(catalogue: Catalogue) -> bool:
    """Whether any measured checkpoint was read with its anchor embedding."""
    ids = [c.id for c in catalogue.checkpoints() if any(v is not None for v in c.metrics.values())]
    # A part at a time, to the first one: all of a large catalogue take as much memory as its fingerprints.
    parts = (ids[start : start + _TOGETHER] for start in range(0, len(ids), _TOGETHER))
    return any(e is not None for part in parts for e in catalogue.embeddings(part))


def load_map(catalogue: Catalogue) -> tuple[Surrogate, Validation]:
    """Load the newest map of weights only that is kept in the catalogue.

    Args:
        catalogue: the catalogue that ``epsopt fit`` or :func:`fit_map` learned it from.

    Returns:
        The surrogate and its validation on held-out runs.

    Raises:
        EmptyCatalogue: there is none; names the command to run first.
        CatalogueError: it cannot be read; names the command that learns it again.
    """
    kept = find_map(catalogue)
    if kept is None:
        enough_runs(training_set(catalogue).n_runs)  # where it needs more runs, 'fit' would only say that
        raise EmptyCatalogue("the catalogue has no fitted map yet: learn it with 'epsopt fit' first")
    return kept.surrogate, kept.validation


def extend_map(catalogue: Catalogue, surrogate: Surrogate) -> Surrogate:
    """Return a map that knows the catalogue's new measured checkpoints too, as it encodes them; nothing is kept."""
    return condition_on_observations(surrogate, training_set(catalogue, surrogate.metric_names))


def load_map_with_probes(catalogue: Catalogue) -> Surrogate | None:
    """Load the map that reads anchor embeddings too, if there is one of the same checkpoints as the newest map."""
    plain, probed = find_map(catalogue), find_map(catalogue, probes=True)
    if plain is None or probed is None:
        return None
    same = [kept.surrogate.trained_on.partition("-")[0] for kept in (plain, probed)]
    return probed.surrogate if same[0] == same[1] else None


def unseen(catalogue: Catalogue, surrogate: Surrogate, checkpoints: Sequence[Checkpoint] | None = None) -> int:
    """Count the catalogue's measured checkpoints, each content once, that a fit would learn and the map does not know.

    Nothing is learned from NaN weights: such checkpoints do not count.

    Args:
        catalogue: what to read.
        surrogate: the map.
        checkpoints: all of the catalogue's, where they were read already; None: they are read.
    """
    known = set(surrogate.memory.keys)
    new = [c for c in measured_contents(catalogue, checkpoints) if c.sha256 not in known]
    return len(new) - len(with_nan_weights(catalogue, new))


def with_nan_weights(catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return those of the catalogue's checkpoints of which some weights are NaN, in their order."""
    prints = catalogue.fingerprints([c.id for c in checkpoints])
    return [c for c, found in zip(checkpoints, prints, strict=True) if found.nan_weights]


def _validation(data: Mapping[str, Any]) -> Validation:
    return Validation(**{**data, "metrics": tuple(MetricValidation(**m) for m in data["metrics"])})
