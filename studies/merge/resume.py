"""A merge that was interrupted goes on: what it measured is kept, and is not measured again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from epsopt.studies.project.project import Project
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations
from epsopt.zoo.errors import UsageError


@contextlib.contextmanager
def resumable(
    catalogue: Catalogue, project: Project, rank: int | None = None, *, fresh: bool = False
) -> Iterator[KeptEvaluations]:
    """Keep evaluations of merges for as long as a merge lasts, and on if it does not end well.

    They are removed when it has ended without a failed evaluation, and where the hook cannot be used at all. Those of a
    merge that ended with one are for the same command, which measures again what failed.

    Args:
        catalogue: that keeps them.
        project: its hooks measure.
        rank: of merged adapters.
        fresh: whether what an earlier merge kept is measured again.

    Yields:
        What is handed to a :class:`epsopt.zoo.decoding.decoder.WeightDecoder`.
    """
    means = [project.evaluate, project.calibrate, project.weights_key, rank]
    wanted = [objective.name for objective in project.objectives]
    kept = KeptEvaluations(catalogue, project.name, means, wanted, fresh=fresh)
    try:
        yield kept
    except UsageError:
        kept.forget()
        raise
    if kept.failures:
        kept.end()
    else:
        kept.forget()


def resumed_sentences(kept: KeptEvaluations) -> list[str]:
    """Say that evaluations of an earlier merge count, and that a failed one can be measured again by itself."""
    sentences = []
    if kept.used:
        many = "one evaluation" if kept.used == 1 else f"{kept.used} evaluations"
        sentences.append(f"{many} of an earlier merge that did not end well count: --fresh measures them again")
    if kept.failures:
        sentences.append("what was measured is kept: the same command measures nothing again but what failed")
    return sentences
