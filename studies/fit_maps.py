"""Fit a project's maps: of weights, and of weights with anchor embeddings where there are any."""

from __future__ import annotations

from collections.abc import Callable

from epsopt.studies import surrogate_store
from epsopt.studies.project.project import Project
from epsopt.studies.surrogate_store import FitOutcome, has_embeddings
from epsopt.surrogate.surrogate import Surrogate
from epsopt.surrogate.validation import Validation
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ray_cluster import RayCluster


def fit_maps(
    catalogue: Catalogue,
    project: Project | None,
    *,
    seed: int = 0,
    from_scratch: bool = False,
    probes: bool | None = None,
    progress: Callable[[str, float | None], None] = lambda _what, _share: None,
    cluster: RayCluster | None = None,
) -> tuple[Surrogate, Validation, FitOutcome, Validation | None]:
    """Fit the map to everything in the catalogue, and the one that reads embeddings, and keep both there.

    Args:
        catalogue: what to learn from, and where maps are kept.
        project: its objectives, what else to learn, and declared bounds; None: all from the catalogue.
        seed: of the fits.
        from_scratch: even where the kept map is current or could be refined.
        probes: whether to fit the map that reads embeddings; None: if there are any.
        progress: called as ``progress(what, share done)``.
        cluster: of Ray, on which folds are trained side by side.

    Returns:
        The map of weights, its validation, how it came about, and the validation of the map that reads embeddings; None
        where none was fitted.

    Raises:
        EpsoptError: as :func:`epsopt.studies.surrogate_store.fit_map`.
    """
    objectives = [o.name for o in project.objectives] if project else []
    learn, bounds = (project.learn, project.bounds) if project else ((), None)
    surrogate, validation, outcome = surrogate_store.fit_map(
        catalogue, seed=seed, objectives=objectives, learn=learn, bounds=bounds, again=from_scratch, progress=progress,
        cluster=cluster,
    )  # fmt: skip
    if not (probes or (probes is None and has_embeddings(catalogue))):
        return surrogate, validation, outcome, None
    _, probed, _ = surrogate_store.fit_map(
        catalogue, seed=seed, objectives=objectives, learn=learn, bounds=bounds, again=from_scratch, probes=True,
        progress=lambda what, share: progress(f"with probes: {what}", share), cluster=cluster,
    )  # fmt: skip
    return surrogate, validation, outcome, probed
