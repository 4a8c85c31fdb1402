"""Early stopping for workers and training loops: what the catalogue knows of earlier runs decides about new ones."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epsopt.optimize.forecast.catalogue_curves import objective_vector, past_curves
from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.objectives import Objective
from epsopt.optimize.planned_epochs import epochs_parameter, positive_number
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.schedule.pruner import FEWEST_RUNS, Pruner
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import infer_space_of
from epsopt.studies.protocols import ActiveRun, Trained
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EpsoptError, UsageError

SILENT = "its checkpoints do not say which epoch"
"""Why nothing is decided of a run without a curve."""

_LOG = logging.getLogger(__name__)


def _with_gradients(decide: Callable[..., Decision]) -> Callable[..., Decision]:
    """Decide with gradients, by which curves are learned: training loops evaluate in ``torch.inference_mode``."""

    @functools.wraps(decide)
    def decision(*args: Any, **options: Any) -> Decision:
        import torch

        with torch.inference_mode(False), torch.enable_grad():
            return decide(*args, **options)

    return decision


def _go_on_if_it_fails(decide: Callable[..., Decision]) -> Callable[..., Decision]:
    """Let a training go on where deciding fails, whatever the reason: it matters more than what stopping may save."""

    @functools.wraps(decide)
    def decision(*args: Any, **options: Any) -> Decision:
        try:
            return _with_gradients(decide)(*args, **options)
        except Exception as error:  # noqa: BLE001 - see above
            why = str(error) if isinstance(error, EpsoptError) else f"{type(error).__name__}: {error}"
            _LOG.warning("epsopt: a run goes on, nothing is decided: %s", why, exc_info=error)
            return Decision(stop=False, probability=float("nan"), reason=f"it cannot be judged: {why}")

    return decision


class CataloguePruner:
    """Stops a run that will add hardly anything to the front; learns again when more runs are known.

    Args:
        catalogue: of all runs.
        space: of the hyperparameters; None: what varies among the catalogue's runs.
        objectives: what counts.
        read_again: seconds until the catalogue is read again.
        unfinished: gives the folders of runs that were cut off (stopped, failed, still training). They are learned
            from, but how long they lasted says nothing of how long runs are.
        options: of :class:`epsopt.optimize.schedule.pruner.Pruner`.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        space: Space | None,
        objectives: Sequence[Objective],
        *,
        read_again: float = 30.0,
        unfinished: Callable[[], Collection[Path]] = tuple,
        **options: Any,
    ) -> None:
        self._catalogue, self._space, self._objectives = catalogue, space, tuple(objectives)
        self._read_again, self._unfinished, self.options = read_again, unfinished, options
        Pruner(space or Space(()), objectives, 1.0, **options)  # refuses nonsense now, not after hours
        self._read_at = float("-inf")
        self._checkpoints: list[Checkpoint] = []
        self._starts: dict[str, Checkpoint] = {}
        self._learned_from = -1
        self._pruner: Pruner | None = None
        self._curves: dict[int, Curve] | None = None  # of all runs, as that pruner's space describes them
        self._length_name: str | None = None

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What counts."""
        return self._objectives

    @property
    def space(self) -> Space | None:
        """Of the hyperparameters; None while it is to be inferred."""
        return self._space

    @_with_gradients
    def should_stop(self, run: ActiveRun, checkpoints_so_far: Sequence[Trained]) -> Decision:
        """Decide whether a run is stopped.

        Args:
            run: the run that is training.
            checkpoints_so_far: its own measured checkpoints, oldest first.

        Returns:
            The decision, with its reason; one that does not stop while nothing is measured.
        """
        so_far = curve_so_far(run, checkpoints_so_far, self._objectives)
        if so_far is None:
            return Decision(stop=False, probability=float("nan"), reason=SILENT)
        self._read()
        mine = own_runs(self._checkpoints, checkpoints_so_far)
        return self._decide(run.name, so_far, mine, init_from=run.init_from)

    @_go_on_if_it_fails
    def judge(
        self,
        run: str,
        so_far: Curve,
        *,
        length: float | None = None,
        init_from: str | None = None,
        own: Collection[Path] = (),
    ) -> Decision:
        """Decide on a run of which only the measured curve is known.

        Args:
            run: its name; without `own`, a run of that name in the catalogue is not among those that it is judged by.
            so_far: its checkpoints.
            length: epochs that it will have; None: what its hyperparameters say, or else as many as others had.
            init_from: path of the checkpoint that it started from.
            own: checkpoints of it, and folders that hold nothing else: a run with one of these is not among those that
                it is judged by.

        Returns:
            The decision, with its reason.
        """
        self._read()
        places = frozenset(own)
        mine = {c.run_id for c in self._checkpoints if places and not places.isdisjoint(_within(c))}
        if not mine:
            mine = {c.run_id for c in self._checkpoints if c.run == run or c.run.endswith(f"/{run}")}
        return self._decide(run, so_far, mine, length=length, init_from=init_from)

    def _decide(
        self, run: str, so_far: Curve, mine: Collection[int], *, length: float | None = None, init_from: str | None
    ) -> Decision:
        """Decide on a run by all others, of those that were read.

        Args:
            run: its name.
            so_far: its checkpoints.
            mine: ids that it has in the catalogue.
            length: epochs that it will have.
            init_from: path of the checkpoint that it started from.
        """
        self._learn([c for c in self._checkpoints if c.run_id not in mine])
        if self._pruner is None:
            return Decision(stop=False, probability=float("nan"), reason="no earlier run is known")
        if self._curves is None:
            self._curves = past_curves(self._checkpoints, self._pruner.space, self._objectives)
        pruner = self._pruner.given([curve for run_id, curve in self._curves.items() if run_id not in mine])
        start = None if init_from is None else self._starts.get(init_from)
        if start is not None:
            so_far = Curve(
                so_far.config, so_far.steps, so_far.values, objective_vector(start.metrics, self._objectives)
            )
        if length is None and self._length_name is not None:
            length = positive_number(so_far.config.get(self._length_name))
        return pruner.should_stop(run, so_far, length=length)

    def _read(self) -> None:
        """Read the catalogue, unless it was read a moment ago."""
        if time.monotonic() - self._read_at > self._read_again:
            self._checkpoints, self._curves = self._catalogue.checkpoints(), None
            self._starts = {path: c for c in self._checkpoints for path in c.paths}
            self._read_at = time.monotonic()

    def _learn(self, others: Sequence[Checkpoint]) -> None:
        """Learn from runs when there are a tenth more of them than last time; what they measured since is known anyway.

        What is learned is how hyperparameters and curves go together in general: it serves for any run's judgement.
        """
        known = len({c.run_id for c in others})
        if not known or (self._pruner is not None and known <= 1.1 * self._learned_from):
            return
        space = self._space or _inferred(others, self._objectives)
        curves = {} if space is None else past_curves(others, space, self._objectives)
        if space is None or not curves:
            return
        cut = frozenset(self._unfinished())
        short = {c.run_id for c in others if not cut.isdisjoint(_within(c))}
        whole = [c for run_id, c in curves.items() if run_id not in short] or list(curves.values())
        self._length_name = epochs_parameter(
            [c.config for c in whole], [c.steps[-1] for c in whole], fewest=FEWEST_RUNS
        )
        length = float(np.median([c.steps[-1] for c in whole]))
        self._pruner, self._curves = Pruner(space, self._objectives, length, **self.options), None
        self._pruner.learn(list(curves.values()))
        self._learned_from = known


def curve_so_far(run: ActiveRun, checkpoints: Sequence[Trained], objectives: Sequence[Objective]) -> Curve | None:
    """Return the curve of a run in progress; None where no checkpoint after its start says its epoch.

    Args:
        run: in progress; where it started is not looked up.
        checkpoints: its own, oldest first.
        objectives: what counts.
    """
    steps = [c for c in checkpoints if (c.trained or 0) > 0]
    if not steps:
        return None
    epochs = np.array([float(c.trained or 0) for c in steps])
    return Curve(run.params, epochs, np.stack([objective_vector(c.metrics, objectives) for c in steps]))


def own_runs(known: Sequence[Checkpoint], own: Sequence[Trained]) -> set[int]:
    """Return the ids of the catalogue's runs that hold a file of a run in progress.

    Names say nothing: a run of the same name may lie in another folder.
    """
    paths = {c.path for c in own}
    return {c.run_id for c in known if not paths.isdisjoint(c.paths)}


def _within(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The file and every folder that it lies in."""
    path = Path(checkpoint.path)
    return (path, *path.parents)


def _inferred(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Space | None:
    """What varies among runs; None if nothing does yet."""
    try:
        return infer_space_of(checkpoints, objectives)
    except UsageError:
        return None
