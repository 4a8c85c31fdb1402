"""Merge tensors with operators of mergekit (Goddard et al. 2024), which is an optional extra.

mergekit computes each tensor; which tensors, of which parents and with which coefficients is decided here. Its code is
only ever imported (it is LGPL-3.0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from epsopt.zoo.decoding.operator_names import Operator


def apply_operator(
    operator: Operator,
    name: str,
    tensors: Sequence[torch.Tensor],
    coefficients: Sequence[float],
    *,
    base: torch.Tensor | None,
    density: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Merge one tensor with mergekit.

    Args:
        operator: how.
        name: of the tensor; what an operator draws depends on it and on nothing else.
        tensors: of the parents, all of one shape.
        coefficients: of the parents.
        base: what differences are taken from, for operators that do so.
        density: share of each difference that is kept.
        dtype: in which the tensors are merged.
    """
    from mergekit.merge_methods.api import merge_state_dicts

    models: dict[str, dict[str, torch.Tensor]] = {str(i): {name: t} for i, t in enumerate(tensors)}
    parameters: dict[str, Any] = {}
    if operator.of_two:
        base_id: str | None = "0"
        parameters["t"] = coefficients[1]
    else:
        base_id = None
        parameters["weight"] = dict(zip(models, coefficients, strict=True))
        if operator.sparse:
            parameters["density"] = dict.fromkeys(models, density)
        if operator.from_base:
            assert base is not None, "the recombination was checked"
            base_id = "base"
            models["base"] = {name: base}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # The same each time that these weights are decoded, so that what is saved is what was measured.
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
        merged: torch.Tensor = merge_state_dicts(
            models, operator.method, parameters=parameters, base=base_id, dtype=dtype
        )[name]
    return merged
