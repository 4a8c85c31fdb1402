"""Where a decoded checkpoint comes from: the record that it carries."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.recombination import Recombination


@dataclass(frozen=True)
class Provenance:
    """What is known of a decoded checkpoint besides its parents and coefficients.

    Attributes:
        made_by: the command that made it, such as ``interpolate``.
        predicted: predicted metrics as ``{"value", "low", "high"}`` by name; None: nothing was predicted.
        measured: what the evaluate hook measured, by metric; None: it was not evaluated.
        hook: the evaluate hook that measured, if one did.
        labels: names of the parents, such as ``run_012:7``, by content hash.
    """

    made_by: str
    predicted: Mapping[str, Mapping[str, float]] | None = None
    measured: Mapping[str, float | None] | None = None
    hook: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, recombination: Recombination) -> dict[str, Any]:
        """Return the record as JSON values."""
        parents = [
            {
                "checkpoint": self.labels.get(p.sha256),
                "path": p.path,
                "sha256": p.sha256,
                "coefficients": [row[i] for row in recombination.coefficients],
            }
            for i, p in enumerate(recombination.parents)
        ]
        return {
            "made_by": f"epsopt {self.made_by}",
            "version": importlib.metadata.version("epsopt"),
            "groups": list(recombination.groups),
            "parents": parents,
            **recombination.operator_json(),
            "predicted": None if self.predicted is None else {k: dict(v) for k, v in self.predicted.items()},
            "measured": None if self.measured is None else dict(self.measured),
            "evaluate": self.hook if self.measured is not None else None,
        }


def labels(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Name checkpoints as ``RUN:EPOCH``, by their content hash."""
    return {c.sha256: c.run if c.epoch is None else f"{c.run}:{c.epoch}" for c in checkpoints}
