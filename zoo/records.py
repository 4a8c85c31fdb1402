"""What the catalogue answers with: plain frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """One training run, a folder of checkpoints.

    Attributes:
        id: of its row.
        name: path relative to the folder that was ingested.
        path: absolute path of the folder.
        hyperparameters: flattened with dots, from its newest checkpoint that has any.
    """

    id: int
    name: str
    path: str
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        id: of its row.
        run_id: of its run.
        run: the run's name.
        path: absolute path of the file.
        sha256: of the file's content.
        epoch: epoch or step, None when unknown.
        metrics: measured values by name; None where the file says NaN or infinity.
        hyperparameters: the run's.
        signature: digest of tensor names and shapes.
        lineage_id: of its lineage (D3).
        n_parameters: floating-point values in it.
        layout: the name of the one that read the file.
    """

    id: int
    run_id: int
    run: str
    path: str
    sha256: str
    epoch: int | None
    metrics: dict[str, float | None]
    hyperparameters: dict[str, Any]
    signature: str
    lineage_id: int
    n_parameters: int
    layout: str = "plain"

    @property
    def trained(self) -> int | None:
        """Epochs (or steps) of training behind it, None when unknown: Lightning calls its first epoch 0."""
        return None if self.epoch is None else self.epoch + (self.layout == "lightning")


@dataclass(frozen=True)
class Lineage:
    """Checkpoints that share an initialisation.

    Attributes:
        id: of its row.
        signature: of its members.
        reference_path: the checkpoint that deltas are taken from.
        declared: whether runs name that file as their base; otherwise the lineage was found from distances.
        reference_sha256: that file's content when the lineage was founded.
    """

    id: int
    signature: str
    reference_path: str
    declared: bool
    reference_sha256: str


@dataclass(frozen=True)
class Failure:
    """A file that is not in the catalogue, and why."""

    path: str
    reason: str
