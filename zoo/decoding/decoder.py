"""The weight decoder: recombinations become files, are measured by the user's hook, and are kept with their origin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.saving import Decoded, Tensors, name_like, save_decoded
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError, HookError, UnreadableCheckpoint, UsageError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.reading.pool import Message, ReaderPool
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits

_DAY = 24 * 3600.0
_MEASURING = Limits(memory=1 << 46, seconds=_DAY, hook=_DAY)
"""The user's own program on a file of ours: as much memory as it takes (a GPU maps terabytes), and a day."""
_AVERAGED = (
    "the checkpoints hold running statistics of BatchNorm, which in a merge are those of no network: name a hook that "
    'computes them anew, as [hooks] calibrate = "package.module:function", or have evaluate return (metrics, tensors)'
)


class WeightDecoder:
    """Decodes recombinations in a child process with limits, and measures them in another.

    Args:
        evaluate: the project's evaluate hook ``package.module:function``, None where nothing is measured.
        limits: what reading the parents may cost.
        weights_key: the keys that lead to the parents' weights, as the catalogue has it; empty to find them.
        calibrate: the project's calibrate hook ``package.module:function``, None where nothing is calibrated.
        rank: rank of merged low-rank adapters at most: of a sum of a higher rank the largest singular values are kept.
            None: that of the sum.
    """

    def __init__(
        self,
        evaluate: str | None = None,
        limits: Limits | None = None,
        weights_key: str = "",
        calibrate: str | None = None,
        rank: int | None = None,
    ) -> None:
        self.hook = evaluate
        self.calibrate = calibrate
        self._corrections: dict[str, list[Tensors]] = {}
        self._averaged = False
        self._weights_key, self._rank = weights_key, rank
        self._reading = ReaderPool(1, limits)
        self.measuring = ReaderPool(1, _MEASURING)
        self._folder = tempfile.TemporaryDirectory(prefix="epsopt-")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the temporary files."""
        self._reading.close()
        self.measuring.close()
        self._folder.cleanup()

    def rest(self) -> None:
        """End the process of the hook, which may hold a GPU's memory; the next measurement starts another."""
        with self.measuring.in_use:
            self.measuring.close()

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
            "rank": self._rank,
        }
        first = location(recombination.parents[0].path)
        answer, _ = _read(self._reading, first, size, request)
        return Decoded(recombination, to, _types(answer["tensors"]), answer["layout"])

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
        request: dict[str, Any] = {"kind": "evaluate", "hook": self.hook, "calibrate": self.calibrate}
        request |= {"names": list(decoded.types), "title": title}
        answer = self._measured(decoded, request)
        if answer["status"] == "folder":
            with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
                save_decoded(self._corrected(decoded), Path(folder) / name_like(decoded), Provenance("evaluate"))
                answer = self._measured(decoded, {**request, "folder": folder})
        if answer["status"] != "measured":
            reason = answer.get("reason", "its file changed meanwhile")
            raise HookError(reason if answer["status"] == "hook" else f"the evaluate hook {self.hook!r}: {reason}")
        metrics: dict[str, float | None] = answer["metrics"]
        statistics = {n for n in decoded.types if is_statistic(n)}
        corrected = {n for tensors in self._corrected(decoded).corrected for n in tensors.types}
        self._averaged |= len(decoded.recombination.parents) > 1 and bool(statistics) and not statistics & corrected
        return metrics

    def _measured(self, decoded: Decoded, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a measurement, and remember what the hooks corrected: it is saved with these weights."""
        self._count += 1
        to = Path(self._folder.name) / f"corrected_{self._count:05d}.safetensors"
        answer, _ = _ask(self.measuring, decoded.path, _size(decoded.path), {**request, "corrected": str(to)})
        if answer.get("corrected"):
            self._corrections.setdefault(_key(decoded), []).append(Tensors(to, _types(answer["corrected"])))
        return answer

    def _corrected(self, decoded: Decoded) -> Decoded:
        return replace(decoded, corrected=tuple(self._corrections.get(_key(decoded), ())))

    @property
    def notes(self) -> list[str]:
        """Sentences about what was measured so far."""
        return [_AVERAGED] if self._averaged else []

    def forget(self, decoded: Decoded) -> None:
        """Remove decoded weights that nobody will ask for again."""
        decoded.path.unlink(missing_ok=True)

    def save(self, decoded: Decoded, path: Path, provenance: Provenance) -> None:
        """Write decoded weights as a checkpoint that says where it comes from; whole or not at all.

        See :func:`epsopt.zoo.decoding.saving.save_decoded`, whose arguments these are.

        Raises:
            UsageError: something is there already, or another suffix.
            EpsoptError: it cannot be written.
        """
        save_decoded(self._corrected(decoded), path, provenance)


def _types(listed: Sequence[Mapping[str, Any]]) -> dict[str, TensorType]:
    return {t["name"]: TensorType(getattr(torch, t["dtype"]), tuple(t["shape"])) for t in listed}


def _key(decoded: Decoded) -> str:
    return json.dumps(decoded.recombination.to_json())


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
