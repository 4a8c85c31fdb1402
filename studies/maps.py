"""The fitted map in the catalogue's database, so that every worker finds the same one (D1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.fitting import fit, fit_key
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.training import Recipe
from epsopt.surrogate.validation import MetricValidation, Validation
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import EmptyCatalogue

_KINDS = {False: "surrogate", True: "surrogate-with-probes"}


def training_set(catalogue: Catalogue) -> TrainingSet:
    """Read what a surrogate learns from: every checkpoint with at least one measured metric.

    Raises:
        EmptyCatalogue: there is none; names the command to run first.
    """
    checkpoints = [c for c in catalogue.checkpoints() if any(v is not None for v in c.metrics.values())]
    if not checkpoints:
        raise EmptyCatalogue(
            "the catalogue holds no checkpoint with metrics: read your runs with 'epsopt ingest RUNS' first"
        )
    names = tuple(catalogue.metric_names())
    ids = [c.id for c in checkpoints]
    metrics = np.array(
        [[np.nan if (v := c.metrics.get(name)) is None else float(v) for name in names] for c in checkpoints]
    )
    embeddings = catalogue.embeddings(ids)
    shapes = [e.shape for e in embeddings if e is not None]
    stacked = None
    if shapes:
        # One shape per map, the most frequent one; another one, or one that is not finite, counts as none.
        shape = max(set(shapes), key=shapes.count)
        blank = np.full(shape, np.nan, dtype=np.float32)
        usable = [e is not None and e.shape == shape and np.isfinite(e).all() for e in embeddings]
        stacked = np.stack([e if ok and e is not None else blank for e, ok in zip(embeddings, usable, strict=True)])
        stacked = stacked.astype(np.float32)
    return TrainingSet(
        keys=tuple(c.sha256 for c in checkpoints),
        fingerprints=tuple(catalogue.fingerprints(ids)),
        runs=np.array([c.run_id for c in checkpoints], dtype=np.int64),
        lineages=np.array([c.lineage_id for c in checkpoints], dtype=np.int64),
        metric_names=names,
        metrics=metrics,
        embeddings=stacked,
    )


def fit_map(
    catalogue: Catalogue,
    *,
    seed: int = 0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    again: bool = False,
    recipe: Recipe | None = None,
    probes: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Surrogate, Validation, bool]:
    """Fit the map to everything in the catalogue and keep it there.

    Args:
        catalogue: what to learn from, and where the map is kept.
        seed: of the fit.
        bounds: declared bounds of metrics.
        again: fit even if the kept map was trained on exactly this.
        recipe: how to train, if not by the default.
        probes: read checkpoints with their anchor embeddings too; such a map is kept beside the one of weights only.
        progress: called as ``progress(what, share done)``.

    Returns:
        The map, its validation on held-out runs, and whether it was fitted now (``False``: the kept one is current).
    """
    train = training_set(catalogue)
    known = {name: limits for name, limits in (bounds or {}).items() if name in train.metric_names}
    key = fit_key(train, seed=seed, bounds=known, recipe=recipe, probes=probes)
    kept = None if again else catalogue.get_artifact(_KINDS[probes], key)
    if kept is not None:
        data, meta = kept
        catalogue.put_artifact(_KINDS[probes], key, data, meta)  # the newest is the one that every other command loads
        return Surrogate.from_bytes(data, meta), _validation(meta["validation"]), False
    surrogate, validation = fit(train, seed=seed, bounds=known, recipe=recipe, probes=probes, progress=progress)
    data, meta = surrogate.to_bytes()
    catalogue.put_artifact(
        _KINDS[probes], key, data, {**meta, "validation": asdict(replace(validation, held_out=None))}
    )
    return surrogate, validation, True


def has_embeddings(catalogue: Catalogue) -> bool:
    """Whether any measured checkpoint was read with its anchor embedding."""
    ids = [c.id for c in catalogue.checkpoints() if any(v is not None for v in c.metrics.values())]
    return any(e is not None for e in catalogue.embeddings(ids))


def load_map(catalogue: Catalogue) -> tuple[Surrogate, Validation]:
    """Load the newest map of weights only that is kept in the catalogue.

    Raises:
        EmptyCatalogue: there is none; names the command to run first.
    """
    kept = catalogue.get_artifact(_KINDS[False])
    if kept is None:
        training_set(catalogue)  # says 'ingest first' when that is what is missing
        raise EmptyCatalogue("the catalogue has no fitted map yet: learn it with 'epsopt fit' first")
    data, meta = kept
    return Surrogate.from_bytes(data, meta), _validation(meta["validation"])


def load_map_with_probes(catalogue: Catalogue) -> Surrogate | None:
    """Load the map that reads anchor embeddings too, if there is one of the same checkpoints as the newest map."""
    plain, probed = catalogue.get_artifact(_KINDS[False]), catalogue.get_artifact(_KINDS[True])
    if plain is None or probed is None:
        return None
    same = [meta["trained_on"].partition("-")[0] for _, meta in (plain, probed)]
    return Surrogate.from_bytes(*probed) if same[0] == same[1] else None


def unseen(catalogue: Catalogue, surrogate: Surrogate) -> int:
    """Count the catalogue's measured checkpoints that the map was not trained on."""
    known = set(surrogate.memory.keys)
    return sum(c.sha256 not in known for c in catalogue.checkpoints() if any(v is not None for v in c.metrics.values()))


def _validation(data: Mapping[str, Any]) -> Validation:
    return Validation(**{**data, "metrics": tuple(MetricValidation(**m) for m in data["metrics"])})
