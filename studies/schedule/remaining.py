"""What a further budget is expected to add to a project's front."""

from __future__ import annotations

from optuna.storages import RDBStorage

from epsopt.optimize.schedule.remaining_gain import RemainingGain
from epsopt.studies.project.project import Project
from epsopt.studies.schedule.scheduler_adapter import known, make_scheduler, running
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.zoo.catalogue.catalogue import Catalogue

SETTLED = 0.01
"""Share of the front's hypervolume: where no more is expected, the front has settled."""


def project_remaining_gain(
    project: Project, storage: RDBStorage, catalogue: Catalogue, epochs: float, *, seed: int = 0
) -> RemainingGain | None:
    """Predict what so many further epochs of ``epsopt work --budget`` add to the front; takes seconds.

    Args:
        project: objectives, space, train command.
        storage: where its study is.
        catalogue: of all runs.
        epochs: of the further budget, positive.
        seed: of the samples.

    Returns:
        The gain with its interval; ``None``: too few runs are known to predict one.

    Raises:
        UsageError: how long a whole run is, is not known, or no budget is left to predict for.
    """
    snapshot = StudySnapshot.read(project, storage, catalogue)
    return make_scheduler(snapshot, seed=seed).remaining_gain(known(snapshot, None), epochs, running(snapshot))


def remaining_sentence(found: RemainingGain | None, epochs: float) -> str:
    """Say it in one sentence.

    Args:
        found: what was predicted; ``None``: nothing could be.
        epochs: of the budget that was asked about.
    """
    if found is None:
        return f"Too few runs are known to say what {epochs:g} further epochs would add to the front."
    if found.volume <= 0.0:
        return f"{found.epochs:g} further epochs are expected to add a hypervolume of {found.gain:.2g}, from none."
    low, middle, high = (found.share(g) for g in (found.low, found.gain, found.high))
    settled = "The front has settled: " if high < SETTLED else ""
    text = (
        f"{found.epochs:g} further epochs are expected to add {middle:.1%} to the front's hypervolume, "
        f"{low:.1%} to {high:.1%} with a probability of {found.level:.0%}."
    )
    return settled + text
