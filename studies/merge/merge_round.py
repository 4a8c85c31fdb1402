"""A round of merges in the loop: measured, saved among the runs, and read into the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from epsopt.studies.merge.merge_sources import choose_sources, left_out_sentences
from epsopt.studies.merge.weight_space_merge import WeightSpaceMerge, merge_in_weight_space, prior_reliability
from epsopt.studies.output_paths import decoded_file, save_folder
from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.errors import EmptyCatalogue
from epsopt.zoo.ingestion.ingest import ingest

_ARTIFACT = "merge_gains"
_ROW = ("kind", "predicted_gain", "realized_gain")
_REMEMBERED = 32  # merges of earlier rounds; older ones hardly count (Reliability)


def merge_round(
    project: Project,
    catalogue: Catalogue,
    budget: int,
    *,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> list[str]:
    """Measure merges while their predicted gain warrants it, and take into the catalogue those that join the front.

    Predicted and realized gains of merges of earlier rounds are remembered in the catalogue, in shares of the front's
    hypervolume.

    Args:
        project: objectives, runs and hooks.
        catalogue: of the checkpoints.
        budget: merges to measure at most.
        seed: of the search.
        progress: called as ``progress(what, share done)``.

    Returns:
        Sentences about what came of it; none while there are too few checkpoints to merge.

    Raises:
        EpsoptError: as :func:`epsopt.studies.merge.weight_space_merge.merge_in_weight_space`.
    """
    checkpoints = catalogue.checkpoints()
    try:
        sources = choose_sources(checkpoints, catalogue.lineages(), project.objectives)
    except EmptyCatalogue:
        return []
    history = _history(catalogue, project.name)
    reliability = prior_reliability()
    for kind, predicted_gain, realized_gain in history:
        reliability.learn(kind, predicted_gain, realized_gain)
    with (
        save_folder(None, project.runs, "merged") as folder,
        WeightDecoder(project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate) as decoder,
    ):
        found = merge_in_weight_space(
            decoder, project, checkpoints, sources,
            lambda i, parents: decoded_file(folder, f"merged_{i:03d}", None, parents),
            budget=budget, give_up=True, reliability=reliability, seed=seed + len(checkpoints), made_by="work --merges",
            progress=progress,
        )  # fmt: skip
    if progress is not None:
        progress("reading merges", 1.0)
    _save_gains(catalogue, project.name, found.shares)
    if found.saved:
        ingest(catalogue, folder, root=project.runs, embed=project.embed, jobs=1, follow_links=project.follow_links)
    return [*_sentences(found, folder.name), *left_out_sentences(found.left_out), *found.disagreements]


def _sentences(found: WeightSpaceMerge, folder: str) -> list[str]:
    if not found.tried:
        return []
    gain = f", hypervolume {found.after / found.before - 1.0:+.2%}" if found.before > 0.0 else ""
    joined = f"{len(found.joined)} of {len(found.tried)} merges joined the front"
    return [f"{folder}: {joined}{gain}" if found.joined else f"none of {len(found.tried)} merges joined the front"]


def _history(catalogue: Catalogue, project: str) -> list[tuple[str, float, float]]:
    kept = catalogue.get_artifact(_ARTIFACT, project)
    return [] if kept is None else [tuple(row[name] for name in _ROW) for row in json.loads(kept[0])]


def _save_gains(catalogue: Catalogue, project: str, shares: Sequence[tuple[str, float, float]]) -> None:
    def changed(kept: bytes | None) -> bytes:
        rows = [*json.loads(kept or b"[]"), *(dict(zip(_ROW, row, strict=True)) for row in shares)]
        return json.dumps(rows[-_REMEMBERED:]).encode()

    catalogue.update_artifact(_ARTIFACT, project, changed)
