"""Operators of mergekit (Goddard et al. 2024) for merges that are not linear, by name; mergekit is optional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from epsopt.zoo.errors import UsageError


@dataclass(frozen=True)
class Operator:
    """How mergekit merges.

    Attributes:
        method: its name in mergekit.
        of_two: whether it is between two checkpoints, of which the first is mergekit's base.
        from_base: whether it adds up differences from a base.
        sparse: whether it keeps a share of each difference (``density``).
        random: whether that share is drawn.
    """

    method: str
    of_two: bool = False
    from_base: bool = False
    sparse: bool = False
    random: bool = False


OPERATORS: Mapping[str, Operator] = {
    "slerp": Operator("slerp", of_two=True),
    "multislerp": Operator("multislerp"),
    "task_arithmetic": Operator("task_arithmetic", from_base=True),
    "ties": Operator("ties", from_base=True, sparse=True),
    "dare": Operator("dare_ties", from_base=True, sparse=True, random=True),
    "dare_linear": Operator("dare_linear", from_base=True, sparse=True, random=True),
    "della": Operator("della", from_base=True, sparse=True, random=True),
    "della_linear": Operator("della_linear", from_base=True, sparse=True, random=True),
    "breadcrumbs": Operator("breadcrumbs", from_base=True, sparse=True),
    "breadcrumbs_ties": Operator("breadcrumbs_ties", from_base=True, sparse=True),
}
"""Operators by the names that users give them; ``linear`` is no operator of mergekit here."""

LINEAR = "linear"
DENSITY = 0.5
"""Share of each difference that is kept: what mergekit's own examples of TIES and DARE take."""


def require_operator(name: str, parents: int) -> None:
    """Refuse an operator that cannot be applied.

    Raises:
        UsageError: mergekit is not installed, or the operator takes another number of parents.
    """
    if name == LINEAR:
        return
    if OPERATORS[name].of_two and parents != 2:
        raise UsageError(f"{name} merges two checkpoints, {parents} were named: name two, or another --operator")
    if find_spec("mergekit") is None:
        raise UsageError(f"--operator {name} is mergekit's, which is not installed: pip install 'epsopt[mergekit]'")


def is_sparse(name: str) -> bool:
    """Tell whether an operator keeps a share of each difference."""
    return name in OPERATORS and OPERATORS[name].sparse
