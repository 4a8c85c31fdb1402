"""A merge as a recipe of mergekit (Goddard et al. 2024), where mergekit can make the same weights."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.fingerprints.lineage import ADAPTED

_SPECIAL = frozenset("*?[]")


def mergekit_recipe(
    recombination: Recombination, types: Mapping[str, TensorType], layout: Mapping[str, Any]
) -> str | None:
    """Return a recipe of mergekit's linear method; None where it cannot say the same.

    Adapters are named together with their base, as ``base+adapter``: the recipe makes the base with the merge in it.
    Groups of tensors are those whose names hold a text, as ``*.mlp.*``; other patterns mergekit does not know.

    Args:
        recombination: parents, coefficients and groups.
        types: the merge's tensors.
        layout: how the parents keep their weights.
    """
    from ruamel.yaml import YAML

    texts = [_text(pattern) for pattern in recombination.groups]
    if any(text is None for text in texts):
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
    widest = max((t.dtype for t in types.values() if t.dtype.is_floating_point), key=lambda d: d.itemsize)
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(
        {"merge_method": "linear", "models": models, "parameters": {"normalize": False},
         "dtype": str(widest).removeprefix("torch.")}, out,
    )  # fmt: skip
    return out.getvalue()


def _text(pattern: str) -> str | None:
    """Return what a name must hold to fit a pattern; None where that is not all."""
    inside = pattern.removeprefix("*").removesuffix("*")
    whole = pattern.startswith("*") and pattern.endswith("*") and len(pattern) > 2
    return inside if whole and not set(inside) & _SPECIAL else None
