"""Runs of which some checkpoints say an epoch and others a step alone: a step stands among epochs then."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath

from sqlalchemy import case, func, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import checkpoints, runs
from epsopt.zoo.errors import Failure


def mixed_clocks(catalogue: Catalogue, run_paths: Collection[str]) -> list[Failure]:
    """Name a checkpoint of each run that says a step alone, where others say a smaller epoch and a number of steps.

    Args:
        catalogue: of the checkpoints.
        run_paths: folders of the runs to look at.
    """
    epoch, step, path = checkpoints.c.epoch, checkpoints.c.step, checkpoints.c.path
    step_alone, both = func.max(case((epoch == step, step))), func.max(case((epoch < step, epoch)))
    query = (
        select(
            runs.c.path, step_alone, both, func.max(case((epoch == step, path))), func.max(case((epoch < step, path)))
        )
        .join(checkpoints, checkpoints.c.run_id == runs.c.id)
        .group_by(runs.c.id, runs.c.path)
        .having(step_alone > both)
    )
    with catalogue.reading() as connection:
        rows = connection.execute(query).all()
    return [
        Failure(str(of_step), _text(int(last), PurePath(of_epoch).name, int(epochs)))
        for run, last, epochs, of_step, of_epoch in rows
        if run in run_paths
    ]


def _text(step: int, name: str, epoch: int) -> str:
    return (
        f"says a step and no epoch, and {name} of its run says both: steps count as epochs there, up to {step:,} after "
        f"epoch {epoch:,}. Save the epoch, too, or keep checkpoints of one of the two kinds"
    )
