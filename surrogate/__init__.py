"""The surrogate: learns the map of a zoo. Takes fingerprints and arrays, gives predictions with calibrated intervals.

It knows no files, databases or Optuna. :func:`fit` trains and validates, :class:`Surrogate` encodes, predicts, decodes
and serves BoTorch as a model.

Public is what ``__all__`` lists (docs/reference/api/surrogate.md). All else is internal and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.zoo.public_names import lazy_names

if TYPE_CHECKING:
    from epsopt.surrogate.dataset import TrainingSet, run_folds
    from epsopt.surrogate.fitting import fit
    from epsopt.surrogate.plane import Plane
    from epsopt.surrogate.surrogate import Prediction, Surrogate
    from epsopt.surrogate.training import TrainingConfig
    from epsopt.surrogate.validation import MetricValidation, Validation

__all__ = [
    "MetricValidation",
    "Plane",
    "Prediction",
    "Surrogate",
    "TrainingConfig",
    "TrainingSet",
    "Validation",
    "fit",
    "run_folds",
]

_HOMES = {
    "MetricValidation": "validation",
    "Plane": "plane",
    "Prediction": "surrogate",
    "TrainingConfig": "training",
    "Surrogate": "surrogate",
    "TrainingSet": "dataset",
    "Validation": "validation",
    "fit": "fitting",
    "run_folds": "dataset",
}

# Names of version 0.1.
FORMER = {
    "Recipe": "epsopt.surrogate:TrainingConfig",
}

__getattr__ = lazy_names(__name__, _HOMES, FORMER)
