"""Evaluations of merges, kept in the catalogue as soon as each is measured, until the command that asked ends well."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.decoding.measuring import Metrics, types_of
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.saving import Tensors
from epsopt.zoo.decoding.tensor_file import TensorType, file_order, mapped_tensors, write_tensors
from epsopt.zoo.errors import DamagedArtifact, EpsoptError

_KIND = "merge_evaluation"
_LARGEST = 64 << 20
"""Bytes of corrected tensors that are kept with an evaluation: statistics of BatchNorm take far less. An evaluation
that corrects more is measured again after an interruption."""
_ENDED = "ended"
_DIGITS = 9  # of coefficients that are compared


@dataclass(frozen=True)
class KeptEvaluation:
    """What was measured of a merge.

    Attributes:
        metrics: by name; None where one is not finite.
        corrected: tensors that the hooks corrected, in a file; None: none.
        averaged: whether a merge so far held running statistics that no hook computed anew.
    """

    metrics: Metrics
    corrected: Tensors | None
    averaged: bool


class KeptEvaluations:
    """What was measured of merges by a command that did not end.

    Args:
        catalogue: that keeps them.
        project: name of the project.
        means: what the measurements depend on beside the weights, such as the names of the hooks.
        wanted: metrics without which an evaluation is none.
        fresh: whether all is measured again.

    Attributes:
        used: how many evaluations need not be measured again.
        failures: how many evaluations failed meanwhile.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        project: str,
        means: Sequence[object],
        wanted: Sequence[str] = (),
        *,
        fresh: bool = False,
    ) -> None:
        self._catalogue, self._project, self._means = catalogue, project, list(means)
        self._wanted, self._fresh = wanted, fresh
        self._mine: set[str] = set()
        self._earlier: dict[str, Recombination] | None = None
        self.used = 0
        self.failures = 0

    def get(self, recombination: Recombination, to: Path) -> KeptEvaluation | None:
        """Return what was measured of a merge; None: nothing is known.

        Args:
            recombination: what the merge is made of.
            to: file that the tensors are written to.
        """
        key = self._key(recombination)
        if self._fresh and key not in self._mine:
            return None
        try:
            kept = self._catalogue.get_artifact(_KIND, key)
            found = None if kept is None else _read(kept[0], to)
        except DamagedArtifact:
            return None
        if found is None or any(found.metrics.get(name) is None for name in self._wanted):
            return None
        if key not in self._mine:
            self._mine.add(key)
            self.used += 1
        return found

    def add(
        self, recombination: Recombination, metrics: Metrics, corrected: Sequence[Tensors], *, averaged: bool
    ) -> None:
        """Keep what was measured of a merge.

        Args:
            recombination: what the merge is made of.
            metrics: by name; None where one is not finite.
            corrected: tensors that the hooks corrected; of a tensor in several the last counts.
            averaged: whether a merge so far held running statistics that no hook computed anew.
        """
        types = {name: kind for tensors in corrected for name, kind in tensors.types.items()}
        if sum(kind.nbytes for kind in types.values()) > _LARGEST:
            return
        values: dict[str, torch.Tensor] = {}
        for tensors in corrected:
            values |= mapped_tensors(tensors.path, tensors.types)
        record: dict[str, Any] = {"metrics": metrics, "corrected": [], "averaged": averaged}
        for name, kind in types.items():
            data = values[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            record["corrected"].append(
                {"name": name, "dtype": str(kind.dtype).removeprefix("torch."), "shape": list(kind.shape),
                 "data": base64.b64encode(data).decode()}
            )  # fmt: skip
        key = self._key(recombination)
        self._mine.add(key)
        description = {"project": self._project, "means": self._means, "recombination": recombination.to_json()}
        self._catalogue.put_artifact(_KIND, key, json.dumps(record).encode(), description)

    def unused(self) -> list[Recombination]:
        """Return the merges of which something is kept that was not asked for yet, the oldest first."""
        if self._earlier is None:  # read once: what this command keeps is never unused
            self._earlier = {} if self._fresh else self._read_earlier()
        return [recombination for key, recombination in self._earlier.items() if key not in self._mine]

    def _read_earlier(self) -> dict[str, Recombination]:
        out: dict[str, Recombination] = {}
        for key, description in self._catalogue.artifact_descriptions(_KIND).items():
            if description.get("project") != self._project or description.get(_ENDED):
                continue
            if json.dumps(description.get("means")) != json.dumps(self._means):
                continue
            with contextlib.suppress(KeyError, TypeError, ValueError, EpsoptError):
                recombination = Recombination.from_json(description["recombination"])
                if self._key(recombination) == key:
                    out[key] = recombination
        return out

    def end(self) -> None:
        """Leave what was kept here to the same command alone: it has ended, and a later one is not to count it."""
        for key in sorted(self._mine):
            if (kept := self._catalogue.get_artifact(_KIND, key)) is not None and not kept[1].get(_ENDED):
                self._catalogue.put_artifact(_KIND, key, kept[0], {**kept[1], _ENDED: True})

    def forget(self) -> None:
        """Remove the evaluations that were used or added here: the command that asked for them has ended well."""
        self._catalogue.forget_artifacts(_KIND, sorted(self._mine))
        self._mine.clear()
        self._earlier = None

    def __len__(self) -> int:
        return len(self._mine)

    def _key(self, recombination: Recombination) -> str:
        parents = [p.sha256 for p in recombination.parents]
        rows = [[round(c, _DIGITS) + 0.0 for c in row] for row in recombination.coefficients]
        operator = recombination.operator_json()
        document = json.dumps([self._project, self._means, parents, rows, recombination.groups, operator])
        return hashlib.sha256(document.encode()).hexdigest()


def _read(data: bytes, to: Path) -> KeptEvaluation | None:
    """Read what :meth:`KeptEvaluations.add` wrote; None for anything else."""
    try:
        record = json.loads(data)
        metrics: Metrics = {str(k): None if v is None else float(v) for k, v in record["metrics"].items()}
        listed, averaged = record["corrected"], record["averaged"] is True
        types = types_of(listed)
        values = {t["name"]: _tensor(types[t["name"]], base64.b64decode(t["data"], validate=True)) for t in listed}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError, binascii.Error):
        return None
    if not types:
        return KeptEvaluation(metrics, None, averaged)
    with to.open("wb") as file:
        write_tensors(file, types, ((name, values[name]) for name in file_order(types)), {})
    return KeptEvaluation(metrics, Tensors(to, types), averaged)


def _tensor(kind: TensorType, data: bytes) -> torch.Tensor:
    if len(data) != math.prod(kind.shape) * kind.dtype.itemsize:
        raise ValueError("another size than its shape says")
    if not data:
        return torch.empty(kind.shape, dtype=kind.dtype)
    return torch.frombuffer(bytearray(data), dtype=kind.dtype).reshape(kind.shape)
