"""What can be recorded: anything with these fields, whatever folder it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from epsopt.figures.protocols import Measured as DrawnCheckpoint
from epsopt.figures.protocols import Predicted


class Measured(DrawnCheckpoint, Protocol):
    """A checkpoint as the catalogue knows it (``epsopt.zoo.catalogue.catalogue.Checkpoint`` is one)."""

    @property
    def path(self) -> str:
        """Where its file lies."""

    @property
    def sha256(self) -> str:
        """Digest of the file's content, by which it is known."""


class Catalogued(Measured, Protocol):
    """A checkpoint of which it is known to which run of the catalogue it belongs."""

    @property
    def run_id(self) -> int:
        """Of its run: names may be the same."""


class Trained(Measured, Protocol):
    """A checkpoint of which it is known how long it was trained."""

    @property
    def trained(self) -> int | None:
        """Epochs (or steps) of training behind it, 0 at the run's start, None when unknown."""


class Neighbour(Protocol):
    """A real checkpoint near a predicted point."""

    @property
    def path(self) -> str:
        """Where its file lies."""

    @property
    def run(self) -> str:
        """Name of its run."""

    @property
    def epoch(self) -> int | None:
        """Epoch or step, None when unknown."""

    @property
    def distance(self) -> float:
        """Distance to the predicted point in the latent space."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Measured values by name."""

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """The run's hyperparameters by name."""


class Answer(Predicted, Protocol):
    """One answer of a search: a predicted point and the real checkpoints nearest to it, nearest first."""

    @property
    def nearest(self) -> Sequence[Neighbour]:
        """Real checkpoints, nearest first."""


class Proposal(Predicted, Protocol):
    """A configuration to train next, with what it is expected to reach."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Active hyperparameters by name."""

    @property
    def init_from(self) -> str | None:
        """The checkpoint that the run starts from, None from scratch."""

    @property
    def joins_front(self) -> float | None:
        """Probability that it joins the measured front, None when that is not known."""

    @property
    def nearest_runs(self) -> Sequence[tuple[str, float]]:
        """Past runs with the most similar hyperparameters, and how far they are, nearest first."""

    @property
    def reason(self) -> str | None:
        """Why it was chosen, in one line; None when nobody said."""


class Decision(Protocol):
    """Whether to stop a run, and why."""

    @property
    def stop(self) -> bool:
        """Whether it should stop."""

    @property
    def probability(self) -> float:
        """Probability that the run is worth its remaining epochs."""

    @property
    def reason(self) -> str:
        """Why, in one line."""


class ActiveRun(Protocol):
    """A training run in progress."""

    @property
    def number(self) -> int:
        """Of its trial."""

    @property
    def name(self) -> str:
        """Of its folder; in the catalogue it has the name that its checkpoints say (:attr:`Measured.run`)."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Active hyperparameters by name."""

    @property
    def init_from(self) -> str | None:
        """The checkpoint that it started from, None from scratch."""


class RunPruner(Protocol):
    """Decides at each new checkpoint of a run whether it goes on."""

    def should_stop(self, run: ActiveRun, checkpoints_so_far: Sequence[Trained]) -> Decision:
        """Decide; the checkpoints are the run's own, measured, oldest first."""
