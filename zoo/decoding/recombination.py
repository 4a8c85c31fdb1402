"""What a decoded checkpoint is made of: real checkpoints of one lineage and their coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.operator_names import DENSITY, LINEAR, OPERATORS
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.lineage import NEAR
from epsopt.zoo.layouts.parsed import RECOMBINED

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Parent:
    """A real checkpoint in a recombination: its file and that file's content hash."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Recombination:
    """``base + sum_i c_i (w_i - base)``, written as ``sum_i c_i w_i`` with coefficients that sum to one.

    Attributes:
        parents: ``k`` different checkpoints of one lineage; the base may be one of them.
        coefficients: ``k`` numbers for each group of tensors, one row per group; each row sums to one. A negative one
            extrapolates.
        groups: patterns of tensor names (``*.encoder.*``), one for each row but the last, which is for all tensors
            that no pattern fits; of several that fit, the first counts.
        operator: ``linear``, or one of :data:`epsopt.zoo.decoding.operator_names.OPERATORS`, which take the
            coefficients as weights.
        base: what such an operator takes differences from; None for others.
        density: share of each difference that such an operator keeps.
    """

    parents: tuple[Parent, ...]
    coefficients: tuple[tuple[float, ...], ...]
    groups: tuple[str, ...] = ()
    operator: str = LINEAR
    base: Parent | None = None
    density: float = DENSITY

    def __post_init__(self) -> None:
        if not self.parents:
            raise UsageError("a recombination needs at least one parent")
        if len({p.sha256 for p in self.parents}) < len(self.parents):
            raise UsageError("a recombination names the same checkpoint twice: add its coefficients up")
        if len(self.coefficients) != len(self.groups) + 1:
            raise UsageError(
                f"a recombination has {len(self.coefficients)} rows of coefficients, expected {len(self.groups) + 1}: "
                "one for each group of tensors, and one for the rest"
            )
        if self.operator != LINEAR and OPERATORS[self.operator].from_base and self.base is None:
            raise UsageError(f"{self.operator} adds up differences from a base, which is not known")
        for row in self.coefficients:
            if len(row) != len(self.parents) or not all(math.isfinite(c) for c in row):
                raise UsageError(f"coefficients are {list(row)}, expected {len(self.parents)} finite numbers")
            if abs(sum(row) - 1.0) > _ROUNDING * max(1.0, *map(abs, row)):
                raise UsageError(f"coefficients sum to {sum(row):.6g}, expected 1")

    def row(self, tensor: str) -> tuple[float, ...]:
        """Return the coefficients of a tensor, by its name."""
        for pattern, row in zip(self.groups, self.coefficients, strict=False):
            if fnmatchcase(tensor, pattern):
                return row
        return self.coefficients[-1]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "parents": [{"path": p.path, "sha256": p.sha256} for p in self.parents],
            "coefficients": [list(row) for row in self.coefficients],
            "groups": list(self.groups),
            **self.operator_json(),
        }

    def operator_json(self) -> dict[str, Any]:
        """Return what is said of an operator of mergekit, as JSON values; nothing of a linear merge."""
        if self.operator == LINEAR:
            return {}
        base = None if self.base is None else {"path": self.base.path, "sha256": self.base.sha256}
        return {"operator": self.operator, "base": base, "density": self.density}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recombination:
        """Read what :meth:`to_json` returned."""
        return cls(
            parents=tuple(Parent(p["path"], p["sha256"]) for p in data["parents"]),
            coefficients=tuple(tuple(map(float, row)) for row in data["coefficients"]),
            groups=tuple(data["groups"]),
            operator=data.get("operator", LINEAR),
            base=Parent(**data["base"]) if data.get("base") else None,
            density=data.get("density", DENSITY),
        )


def recombination(
    parents: Sequence[Checkpoint],
    coefficients: Sequence[Sequence[float]],
    groups: Sequence[str] = (),
    *,
    operator: str = LINEAR,
    base: Parent | None = None,
    density: float = DENSITY,
) -> Recombination:
    """Recombine checkpoints of the catalogue; parents without any weight are left out.

    A parent that is left alone is that parent, whatever the operator.

    Args:
        parents: ``k`` checkpoints.
        coefficients: one row of ``k`` for each group of tensors.
        groups: see :class:`Recombination`.
        operator: likewise.
        base: likewise.
        density: likewise.

    Raises:
        UsageError: the checkpoints are not of one lineage, or the coefficients do not fit them.
    """
    require_one_lineage(parents)
    rows = [list(row) for row in coefficients]
    if any(len(row) != len(parents) for row in rows):
        raise UsageError(f"coefficients have {[len(r) for r in rows]} columns, expected one for each of {len(parents)}")
    kept = [i for i in range(len(parents)) if any(row[i] != 0.0 for row in rows)]
    return Recombination(
        parents=tuple(Parent(parents[i].path, parents[i].sha256) for i in kept),
        coefficients=tuple(tuple(float(row[i]) for i in kept) for row in rows),
        groups=tuple(groups),
        operator=operator if len(kept) > 1 else LINEAR,
        base=base if len(kept) > 1 else None,
        density=density,
    )


def is_recombined(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint was decoded: its run was never trained, and teaches nothing about training."""
    return bool(checkpoint.hyperparameters.get(RECOMBINED))


def require_one_lineage(parents: Sequence[Checkpoint]) -> None:
    """Refuse weights that cannot be compared one by one.

    Raises:
        UsageError: names two checkpoints of different lineages, and says why that matters.
    """
    for other in parents[1:]:
        first = parents[0]
        if other.signature != first.signature:
            raise UsageError(
                f"{first.path} and {other.path} have tensors of other names or shapes, so they cannot be merged"
            )
        if other.lineage_id != first.lineage_id:
            raise UsageError(
                f"{first.path} and {other.path} are of two lineages: neither a base that their runs name (init_from) "
                f"nor the distance of their weights (less than {NEAR:g} of their size) tells that they share an "
                "initialisation, and a merge of weights that share none is no network: name checkpoints of one "
                "lineage"
            )
