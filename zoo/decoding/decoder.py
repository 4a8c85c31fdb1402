"""The weight decoder: recombinations become files, are measured by the user's hook, and are kept with their origin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import RECOMBINED, Parent, Recombination
from epsopt.zoo.decoding.tensor_file import TensorType, mapped_tensors, write_tensors
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError, HookError, UnreadableCheckpoint, UsageError
from epsopt.zoo.files import atomic_file
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.reading.pool import Message, ReaderPool
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits

FORMATS = ("safetensors", "pt")
_DAY = 24 * 3600.0
_MEASURING = Limits(memory=1 << 46, seconds=_DAY, hook=_DAY)
"""The user's own program on a file of ours: as much memory as it takes (a GPU maps terabytes), and a day."""


@dataclass(frozen=True)
class Decoded:
    """Decoded weights in a temporary file, which lasts as long as their decoder.

    Attributes:
        recombination: what they are made of.
        path: a .safetensors file.
        types: the tensors in the parents' order, names without wrappers' prefixes.
        layout: how the parents keep their weights.
    """

    recombination: Recombination
    path: Path
    types: Mapping[str, TensorType]
    layout: Mapping[str, Any]


class WeightDecoder:
    """Decodes recombinations in a child process with limits, and measures them in another.

    Args:
        evaluate: the project's evaluate hook ``package.module:function``, None where nothing is measured.
        limits: what reading the parents may cost.
        weights_key: the keys that lead to the parents' weights, as the catalogue has it; empty to find them.
    """

    def __init__(self, evaluate: str | None = None, limits: Limits | None = None, weights_key: str = "") -> None:
        self.hook = evaluate
        self._weights_key = weights_key
        self._reading = ReaderPool(1, limits)
        self._measuring = ReaderPool(1, _MEASURING)
        self._folder = tempfile.TemporaryDirectory(prefix="epsopt-")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the temporary files."""
        self._reading.close()
        self._measuring.close()
        self._folder.cleanup()

    def rest(self) -> None:
        """End the process of the hook, which may hold a GPU's memory; the next measurement starts another."""
        with self._measuring.in_use:
            self._measuring.close()

    def decode(self, recombination: Recombination) -> Decoded:
        """Merge real checkpoints into a temporary file, streamed: three tensors are held at a time.

        Raises:
            UnreadableCheckpoint: a parent is gone, changed since it was ingested, or of another architecture.
        """
        self._count += 1
        to = Path(self._folder.name) / f"decoded_{self._count:05d}.safetensors"
        size = sum(_size(parent.path) for parent in recombination.parents)
        request = {
            "kind": "recombine",
            "recombination": recombination.to_json(),
            "to": str(to),
            "weights_key": self._weights_key,
        }
        first = location(recombination.parents[0].path)
        answer, _ = _read(self._reading, first, size, request)
        types = {t["name"]: TensorType(getattr(torch, t["dtype"]), tuple(t["shape"])) for t in answer["tensors"]}
        return Decoded(recombination, to, types, answer["layout"])

    def products(self, checkpoints: Sequence[Parent], base: Parent) -> WeightProducts:
        """Compare checkpoints with their base, block by block, streamed: a piece of one block of each is held.

        Args:
            checkpoints: ``k`` of one lineage.
            base: what their differences are taken from.

        Raises:
            UnreadableCheckpoint: one is being written to.
            EpsoptError: one is gone, changed since it was ingested, or of another architecture; it is named.
        """
        size = sum(_size(parent.path) for parent in (base, *checkpoints))
        said = [{"path": p.path, "sha256": p.sha256} for p in (base, *checkpoints)]
        request = {"kind": "products", "base": said[0], "checkpoints": said[1:], "weights_key": self._weights_key}
        return WeightProducts.from_message(*_read(self._reading, location(base.path), size, request))

    def measure(self, decoded: Decoded, title: str = "decoded weights") -> dict[str, float | None]:
        """Measure decoded weights with the evaluate hook; None for a metric that is NaN or infinite.

        Raises:
            UsageError: there is no evaluate hook.
            HookError: it failed; names the hook and the exception.
        """
        if self.hook is None:
            raise UsageError(
                "nothing can be measured without an evaluate hook: name it in epsopt.toml, as "
                '[hooks] evaluate = "package.module:function"'
            )
        request = {"kind": "evaluate", "hook": self.hook, "names": list(decoded.types), "title": title}
        answer, _ = _ask(self._measuring, decoded.path, _size(decoded.path), request)
        if answer["status"] != "measured":
            reason = answer.get("reason", "its file changed meanwhile")
            raise HookError(reason if answer["status"] == "hook" else f"the evaluate hook {self.hook!r}: {reason}")
        metrics: dict[str, float | None] = answer["metrics"]
        return metrics

    def forget(self, decoded: Decoded) -> None:
        """Remove decoded weights that nobody will ask for again."""
        decoded.path.unlink(missing_ok=True)

    def save(self, decoded: Decoded, path: Path, provenance: Provenance) -> None:
        """Write decoded weights as a checkpoint that says where it comes from; whole or not at all.

        A ``.pt`` is laid out as its parents: the same key for the weights, the same names, and those hyperparameters
        on which all parents agree. Where parents are bare state dicts so is it, and its origin lies beside it, in a
        file of its name that ends in .json. Only measured metrics are written as metrics.

        Args:
            decoded: what to write.
            path: ends in .safetensors or .pt; nothing may be there.
            provenance: where it comes from.

        Raises:
            UsageError: something is there already, or another suffix.
            EpsoptError: it cannot be written.
        """
        tensors = mapped_tensors(decoded.path, decoded.types)
        about = {k: {**v, RECOMBINED: True} for k, v in decoded.layout["about"].items()}
        about = about or {"config": {RECOMBINED: True}}
        record = provenance.to_json(decoded.recombination)
        measured = {k: v for k, v in (provenance.measured or {}).items() if v is not None}
        if path.suffix == ".safetensors":
            strings = {k: json.dumps(v) for k, v in about.items()}
            strings |= {"metrics": json.dumps(measured), "epsopt": json.dumps(record), "format": "pt"}
            with atomic_file(path) as file:
                order = sorted(tensors, key=lambda n: -decoded.types[n].dtype.itemsize)
                write_tensors(file, decoded.types, ((n, tensors[n]) for n in order), strings)
        elif path.suffix == ".pt":
            names = decoded.layout["names"]
            weights = {names[n]: t for n, t in tensors.items()}
            beside = {**about, "metrics": measured, "epsopt": record}
            if decoded.layout["bare"]:
                with atomic_file(path.with_suffix(".json")) as file:
                    file.write(json.dumps(beside, indent=2).encode())
                beside = {}
            with atomic_file(path) as file:
                key = decoded.layout["weights"] or "state_dict"
                torch.save(weights if decoded.layout["bare"] else {**_nested(key, weights), **beside}, file)
        else:
            raise UsageError(f"{path} ends in {path.suffix or 'nothing'}, expected .safetensors or .pt")


def _nested(key: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Put weights under keys that are joined with dots, as the parents have them."""
    held: dict[str, Any] = weights
    for part in reversed(key.split(".")):
        held = {part: held}
    return held


def _read(pool: ReaderPool, first: Path, size: int, request: Mapping[str, Any]) -> Message:
    """Ask for something that is read from several checkpoints."""
    answer, blobs = _ask(pool, first, size, request)
    if answer["status"] == "waiting":
        raise UnreadableCheckpoint(first, "it or another parent was written to while it was read: try again")
    if answer["status"] == "failed":
        reason = answer["reason"]
        raise EpsoptError(reason if str(first) in reason else f"{first}: {reason}")
    return answer, blobs


def _ask(pool: ReaderPool, path: Path, size: int, request: Mapping[str, Any]) -> Message:
    with pool.in_use:
        pool.start(1)
        try:
            pool.send(0, path, size, dict(request), LineageBook())
            while True:
                for _, message in pool.receive():
                    return message
        finally:
            pool.reset()


def _size(path: str | Path) -> int:
    try:
        return location(str(path)).stat().st_size
    except OSError:
        return 0
