"""What a layout finds in one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from epsopt.zoo.reading.values import Plain


@dataclass(frozen=True)
class Reading:
    """One checkpoint, interpreted.

    Attributes:
        weights: tensors by name, in state-dict order, prefixes of wrappers stripped; possibly only described
            (meta).
        hyperparameters: flattened with dots.
        metrics: flattened with dots; None where the value is NaN or infinite.
        epoch: epoch or step, None when nothing says it.
        base: the file that the run says it started from, as it says it.
    """

    weights: dict[str, torch.Tensor]
    hyperparameters: dict[str, Plain]
    metrics: dict[str, float | None]
    epoch: int | None
    base: str | None
