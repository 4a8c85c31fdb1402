"""What this program offers a tool that looks at its checkpoints: an evaluation and an embedding."""

import functools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from epsopt.demo.metrics import measure
from epsopt.demo.model import TernaryVAE
from epsopt.demo.ternary import anchors, operations


def evaluate(state_dict: Mapping[str, Tensor]) -> dict[str, float]:
    """Measure coverage, dist_corr and rad_hier, exactly as training does; about 0.1 s on one core.

    Args:
        state_dict: all tensors of the ternary model, decoder included.

    Raises:
        RuntimeError: names or shapes are not those of the ternary model.
    """
    return measure(TernaryVAE.from_state_dict(state_dict))


@torch.no_grad()
def embed(state_dict: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """The ball points of the 256 anchors at their mean codes: (256, 16), each with norm < 1; about 2 ms.

    Args:
        state_dict: all tensors of the ternary model.

    Raises:
        RuntimeError: names or shapes are not those of the ternary model.
    """
    inputs = operations()[anchors()]
    points: NDArray[np.float32] = functional_call(_skeleton(), dict(state_dict), inputs, strict=True).numpy()
    return points


@functools.cache
def _skeleton() -> TernaryVAE:
    """The model without its tensors: building it takes longer than embedding the anchors."""
    with torch.device("meta"):
        return TernaryVAE()
