"""The surrogate: learns the map of a zoo. Takes fingerprints and arrays, gives predictions with calibrated intervals.

It knows no files, databases or Optuna. :func:`fit` trains and validates, :class:`Surrogate` encodes, predicts, decodes
and serves BoTorch as a model.
"""

from epsopt.surrogate.dataset import TrainingSet, run_folds
from epsopt.surrogate.fit import fit
from epsopt.surrogate.surrogate import Prediction, Surrogate
from epsopt.surrogate.training import Recipe
from epsopt.surrogate.validation import MetricValidation, Validation

__all__ = [
    "MetricValidation",
    "Prediction",
    "Recipe",
    "Surrogate",
    "TrainingSet",
    "Validation",
    "fit",
    "run_folds",
]
