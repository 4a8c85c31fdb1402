"""The surrogate: learns the map of a zoo. Takes fingerprints and arrays, gives predictions with calibrated intervals.

It knows no files, databases or Optuna. :func:`fit` trains and validates, :class:`Surrogate` encodes, predicts, decodes
and serves BoTorch as a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.surrogate.dataset import TrainingSet, run_folds
    from epsopt.surrogate.fitting import fit
    from epsopt.surrogate.surrogate import Prediction, Surrogate
    from epsopt.surrogate.training import TrainingConfig
    from epsopt.surrogate.validation import MetricValidation, Validation

__all__ = [
    "MetricValidation",
    "Prediction",
    "Surrogate",
    "TrainingConfig",
    "TrainingSet",
    "Validation",
    "fit",
    "run_folds",
]

# Loaded when first used (PEP 562): torch and BoTorch take seconds to import, and most commands need neither.
_HOMES = {
    "MetricValidation": "validation",
    "Prediction": "surrogate",
    "TrainingConfig": "training",
    "Surrogate": "surrogate",
    "TrainingSet": "dataset",
    "Validation": "validation",
    "fit": "fitting",
    "run_folds": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
