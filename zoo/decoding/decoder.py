"""The weight decoder: recombinations become files, are measured by the user's hook, and are kept with their origin."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations
from epsopt.zoo.decoding.measuring import Measuring, Metrics, types_of
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.saving import Decoded, save_decoded
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EpsoptError, UnreadableCheckpoint, UsageError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.layouts.adapters import CONFIG as ADAPTER
from epsopt.zoo.reading.pool import Message, ReaderPool
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits

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
        jobs: evaluations at a time, each in a process of its own.
        kept: keeps what :meth:`evaluate_all` measures, and knows what was measured before; None: nothing is kept.
    """

    def __init__(
        self,
        evaluate: str | None = None,
        limits: Limits | None = None,
        weights_key: str = "",
        calibrate: str | None = None,
        rank: int | None = None,
        jobs: int = 1,
        kept: KeptEvaluations | None = None,
    ) -> None:
        self.hook, self.calibrate = evaluate, calibrate
        self.jobs = jobs
        self._weights_key, self._rank, self._kept = weights_key, rank, kept
        self._reading = ReaderPool(1, limits)
        self._folder = tempfile.TemporaryDirectory(prefix="epsopt-")
        self._measuring = Measuring(evaluate, calibrate, Path(self._folder.name), jobs)
        self.measuring = self._measuring.pool
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
        base = [] if recombination.base is None else [recombination.base]
        size = sum(size_of(parent.path) for parent in (*recombination.parents, *base))
        request = {
            "kind": "recombine",
            "recombination": recombination.to_json(),
            "to": str(to),
            "weights_key": self._weights_key,
            "rank": self._rank,
        }
        first = location(recombination.parents[0].path)
        answer, _ = _read(self._reading, first, size, request)
        config = answer["layout"].pop("adapter_config")
        if config is not None:
            to = _as_adapter(to, config)
        return Decoded(recombination, to, types_of(answer["tensors"]), answer["layout"])

    def products(self, checkpoints: Sequence[Parent], base: Parent) -> WeightProducts:
        """Compare checkpoints with their base, block by block, streamed: a piece of one block of each is held.

        Args:
            checkpoints: ``k`` of one lineage.
            base: what their differences are taken from.

        Raises:
            UnreadableCheckpoint: one is being written to.
            EpsoptError: one is gone, changed since it was ingested, or of another architecture; it is named.
        """
        size = sum(size_of(parent.path) for parent in (base, *checkpoints))
        parents = [{"path": p.path, "sha256": p.sha256} for p in (base, *checkpoints)]
        request = {"kind": "products", "base": parents[0], "checkpoints": parents[1:], "weights_key": self._weights_key}
        return WeightProducts.from_message(*_read(self._reading, location(base.path), size, request))

    def measure(self, decoded: Decoded, title: str = "decoded weights") -> Metrics:
        """Measure decoded weights with the evaluate hook; None for a metric that is NaN or infinite.

        Raises:
            UsageError: there is no evaluate hook.
            HookError: it failed; names the hook and the exception.
        """
        found: list[Metrics | EpsoptError] = []
        self._measuring.measure_all(
            1, lambda _: decoded, title, lambda _place, _decoded, metrics: found.append(metrics)
        )
        if isinstance(found[0], EpsoptError):
            raise found[0]
        return found[0]

    def evaluate_all(
        self, recombinations: Sequence[Recombination], title: str = "a merge"
    ) -> list[Metrics | EpsoptError]:
        """Decode merges and measure them, :attr:`jobs` at a time; their temporary files are removed.

        What is kept of an earlier evaluation is not measured again, and each is kept as soon as it is measured.

        Args:
            recombinations: what the merges are made of.
            title: what is measured, for messages.

        Returns:
            Metrics by name of each, None for one that is NaN or infinite; or how its evaluation failed.

        Raises:
            UsageError: there is no evaluate hook, or a merge cannot be made as it was asked for.
        """
        found: dict[int, Metrics | EpsoptError] = {}
        left = []
        for place, recombination in enumerate(recombinations):
            known = self._known(recombination)
            if known is None:
                left.append(place)
            else:
                found[place] = known

        def ended(i: int, decoded: Decoded | None, metrics: Metrics | EpsoptError) -> None:
            found[left[i]] = metrics
            if self._kept is not None and isinstance(metrics, EpsoptError):
                self._kept.failures += 1
            if decoded is not None:
                if self._kept is not None and not isinstance(metrics, EpsoptError):
                    corrected = self._measuring.corrected(decoded).corrected
                    self._kept.add(decoded.recombination, metrics, corrected, averaged=self._measuring.averaged)
                self.forget(decoded)

        if self.jobs > 1:
            self._measuring.measure_all(len(left), lambda i: self.decode(recombinations[left[i]]), title, ended)
        else:
            for i, place in enumerate(left):
                self._evaluate(i, recombinations[place], title, ended)
        return [found[place] for place in range(len(recombinations))]

    def _evaluate(
        self,
        place: int,
        recombination: Recombination,
        title: str,
        ended: Callable[[int, Decoded | None, Metrics | EpsoptError], None],
    ) -> None:
        decoded: Decoded | None = None
        found: Metrics | EpsoptError
        try:
            decoded = self.decode(recombination)
            found = self.measure(decoded, title)
        except UsageError:
            raise
        except EpsoptError as error:
            found = error
        ended(place, decoded, found)

    def _known(self, recombination: Recombination) -> Metrics | None:
        """Return what is kept of an evaluation, and take what the hooks corrected then."""
        if self._kept is None:
            return None
        self._count += 1
        to = Path(self._folder.name) / f"kept_{self._count:05d}.safetensors"
        found = self._kept.get(recombination, to)
        if found is None:
            return None
        if found.corrected is not None:
            self._measuring.take(recombination, found.corrected)
        self._measuring.averaged |= found.averaged
        return found.metrics

    def unused(self) -> list[Recombination]:
        """Return merges of which an earlier command, which did not end, kept what nobody asked for yet."""
        return [] if self._kept is None else self._kept.unused()

    @property
    def notes(self) -> list[str]:
        """Sentences about what was measured so far."""
        return [_AVERAGED] if self._measuring.averaged else []

    def forget(self, decoded: Decoded) -> None:
        """Remove decoded weights that nobody will ask for again."""
        decoded.path.unlink(missing_ok=True)
        if decoded.path.parent.parent == Path(self._folder.name):  # an adapter's own
            shutil.rmtree(decoded.path.parent, ignore_errors=True)

    def save(self, decoded: Decoded, path: Path, provenance: Provenance) -> None:
        """Write decoded weights as a checkpoint that says where it comes from; whole or not at all.

        See :func:`epsopt.zoo.decoding.saving.save_decoded`, whose arguments these are.

        Raises:
            UsageError: something is there already, or another suffix.
            EpsoptError: it cannot be written.
        """
        save_decoded(self._measuring.corrected(decoded), path, provenance)


def _as_adapter(file: Path, config: Mapping[str, Any]) -> Path:
    """Put a file into a folder of its own, as an adapter with its configuration; return where it lies then.

    Raises:
        UnreadableCheckpoint: there is no room for it.
    """
    folder = file.with_suffix("")
    try:
        folder.mkdir()
        (folder / ADAPTER).write_text(json.dumps(config))
        return file.replace(folder / "adapter_model.safetensors")
    except OSError as error:
        raise UnreadableCheckpoint(
            file, f"its configuration cannot be written ({error.strerror}): let TMPDIR name a folder that has room"
        ) from error


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


def size_of(path: str | Path) -> int:
    """Return the bytes of a file; 0 where it is not there."""
    try:
        return location(str(path)).stat().st_size
    except OSError:
        return 0
