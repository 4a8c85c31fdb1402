"""What a merge says of where it comes from: the checkpoints that most of it is made of."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from epsopt.zoo.layouts.parsed import RECOMBINED

RECORD = "epsopt"
"""Key of a checkpoint under which a merge says where it comes from."""

DIGITS = 16
"""Of a content hash, that are kept of a parent."""

_MOST = 4  # parents that are kept: of a merge of two dozen the others are a small part
_SMALL = 0.02  # of the coefficients' sum: a part of a merge so small is not drawn
_LONGEST = 1 << 20  # characters of a record that are parsed
_SHA256 = re.compile(r"[0-9a-f]{64}")


def parents_of_record(record: Any) -> str | bool:
    """Return the value of the hyperparameter ``recombined``.

    Args:
        record: of a file, from anywhere: a mapping, or the same as JSON.

    Returns:
        First digits of the content hashes of up to four parents, that with the largest coefficients first, with commas
        between them; True where the record does not say.
    """
    if isinstance(record, str):
        try:
            record = json.loads(record) if len(record) <= _LONGEST else None
        except (ValueError, RecursionError):
            return True
    parents = record.get("parents") if isinstance(record, Mapping) else None
    if not isinstance(parents, list):
        return True
    weights: dict[str, float] = {}
    for parent in parents[:256]:
        sha256 = parent.get("sha256") if isinstance(parent, Mapping) else None
        if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
            weights[sha256] = _weight(parent.get("coefficients"))
    total = sum(weights.values())
    kept = [s for s in sorted(weights, key=lambda s: -weights[s]) if weights[s] >= _SMALL * total and weights[s] > 0.0]
    return ",".join(s[:DIGITS] for s in kept[:_MOST]) or True


def merged_parents(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return first digits of the content hashes of the checkpoints that a merge is made of; none where it does not say.

    Args:
        hyperparameters: of the merged checkpoint.
    """
    value = hyperparameters.get(RECOMBINED)
    return value.split(",") if isinstance(value, str) else []


def _weight(coefficients: Any) -> float:
    """How much of a parent is in a merge: the mean of its coefficients' sizes."""
    some = coefficients if isinstance(coefficients, list) else []
    known = [abs(float(c)) for c in some[:4096] if isinstance(c, int | float) and not isinstance(c, bool)]
    finite = [c for c in known if math.isfinite(c)]
    return sum(finite) / len(finite) if finite else 0.0
