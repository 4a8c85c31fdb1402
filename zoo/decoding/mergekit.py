"""A merge as a recipe of mergekit (Goddard et al. 2024), where mergekit can make the same weights."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.decoding.operator_names import OPERATORS, Operator
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.fingerprints.lineage import ADAPTED

_SPECIAL = frozenset("*?[]")


def mergekit_recipe(
    recombination: Recombination, types: Mapping[str, TensorType], layout: Mapping[str, Any]
) -> str | None:
    """Return a recipe that makes the same merge; None where mergekit cannot say the same, or draws at random.

    It cannot cut a sum of adapters to a rank.

    Adapters are named together with their base, as ``base+adapter``: the recipe makes the base with the merge in it.
    Groups of tensors are those whose names hold a text, as ``*.mlp.*``; other patterns mergekit does not know.

    Args:
        recombination: parents, coefficients and groups.
        types: the merge's tensors.
        layout: how the parents keep their weights.
    """
    from ruamel.yaml import YAML

    texts = [_text(pattern) for pattern in recombination.groups]
    if any(text is None for text in texts) or not layout.get("whole", True):
        return None
    operator = OPERATORS.get(recombination.operator)
    if operator is not None and operator.random:
        return None
    base = layout["base"]
    models = []
    for place, parent in enumerate(recombination.parents):
        values = [row[place] for row in recombination.coefficients]
        weight: object = values[-1]
        if texts:
            weight = [{"filter": t, "value": v} for t, v in zip(texts, values[:-1], strict=True)]
            weight = [*weight, {"value": values[-1]}]
        if base is None:
            name = str(Path(parent.path).parent)
        elif not base:
            return None
        else:
            name = base if parent.path.startswith(ADAPTED) else f"{base}+{Path(parent.path).parent}"
        models.append({"model": name, "parameters": {"weight": weight}})
    recipe: dict[str, Any] = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}
    if operator is not None:
        recipe = _of_operator(operator, recombination, models)
    widest = reduce(torch.promote_types, (t.dtype for t in types.values() if t.dtype.is_floating_point))
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(
        {**recipe, "dtype": str(widest).removeprefix("torch.")}, out,
    )  # fmt: skip
    return out.getvalue()


def _of_operator(operator: Operator, recombination: Recombination, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe of another operator, of models with their weights."""
    recipe: dict[str, Any] = {"merge_method": operator.method}
    if operator.of_two:
        recipe |= {"base_model": models[0]["model"], "parameters": {"t": models[1]["parameters"]["weight"]}}
        return {**recipe, "models": [{"model": model["model"]} for model in models]}
    if recombination.base is not None:
        recipe["base_model"] = str(Path(recombination.base.path).parent)
    if operator.sparse:
        for model in models:
            model["parameters"]["density"] = recombination.density
    return {**recipe, "models": list(models)}


def _text(pattern: str) -> str | None:
    """Return what a name must hold to fit a pattern; None where that is not all."""
    inside = pattern.removeprefix("*").removesuffix("*")
    whole = pattern.startswith("*") and pattern.endswith("*") and len(pattern) > 2
    return inside if whole and not set(inside) & _SPECIAL else None
