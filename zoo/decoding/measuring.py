"""Measure decoded weights with the user's hooks: several at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.saving import Decoded, Tensors, name_like, save_decoded
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.errors import EpsoptError, HookError, UsageError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.fingerprints.statistics_buffers import is_statistic
from epsopt.zoo.layouts.hugging_face import folder_config
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import Limits

Metrics = dict[str, float | None]
_DAY = 24 * 3600.0
_LIMITS = Limits(memory=1 << 46, seconds=_DAY, hook=_DAY)
"""The user's own program on a file of ours: as much memory as it takes (a GPU maps terabytes), and a day."""


class Measuring:
    """Processes that apply the project's hooks to decoded weights, and what the hooks corrected.

    Args:
        hook: the project's evaluate hook ``package.module:function``, None where nothing is measured.
        calibrate: the project's calibrate hook, None where nothing is calibrated.
        folder: for temporary files.
        jobs: evaluations at a time.
    """

    def __init__(self, hook: str | None, calibrate: str | None, folder: Path, jobs: int = 1) -> None:
        self.hook, self.calibrate = hook, calibrate
        self.pool = ReaderPool(jobs, _LIMITS)
        self.averaged = False
        self._folder = folder
        self._corrections: dict[str, list[Tensors]] = {}
        self._count = 0

    def measure_all(
        self,
        n: int,
        decode: Callable[[int], Decoded],
        title: str,
        ended: Callable[[int, Decoded | None, Metrics | EpsoptError], None],
    ) -> None:
        """Measure merges, as many at a time as there are processes.

        Args:
            n: how many there are.
            decode: makes one, by its place; called when a process is free for it. What it cannot make has failed.
            title: what is measured, for messages.
            ended: called with the place of each as soon as it is measured, or has failed.

        Raises:
            UsageError: there is no evaluate hook, or a merge cannot be made as it was asked for.
        """
        if self.hook is None:
            raise UsageError(
                "nothing can be measured without an evaluate hook: name it in epsopt.toml, as "
                '[hooks] evaluate = "package.module:function"'
            )
        waiting: deque[tuple[int, Decoded | None, Path | None]] = deque((place, None, None) for place in range(n))
        started: dict[int, tuple[Decoded, Path | None]] = {}
        with self.pool.in_use, contextlib.ExitStack() as folders:
            self.pool.start(n, a_file_each=True)
            try:
                while waiting or started:
                    while waiting and self.pool.has_room():
                        place, decoded, folder = waiting.popleft()
                        try:
                            decoded = decode(place) if decoded is None else decoded
                        except UsageError:
                            raise
                        except EpsoptError as error:
                            ended(place, None, error)
                            continue
                        started[place] = (decoded, folder)
                        self._send(place, decoded, folder, title)
                    for place, (answer, _) in self.pool.receive():
                        decoded, folder = started.pop(place)
                        self._remember(decoded, answer)
                        if answer["status"] == "folder":
                            folder = Path(folders.enter_context(tempfile.TemporaryDirectory(dir=self._folder)))
                            try:
                                save_decoded(
                                    self.corrected(decoded), folder / name_like(decoded), Provenance("evaluate")
                                )
                            except EpsoptError as error:
                                ended(place, decoded, error)
                            else:
                                waiting.appendleft((place, decoded, folder))
                            continue
                        if folder is not None:
                            shutil.rmtree(folder, ignore_errors=True)
                        ended(place, decoded, self._found(decoded, answer))
            finally:
                self.pool.reset()

    def corrected(self, decoded: Decoded) -> Decoded:
        """Return decoded weights with what the hooks corrected of them."""
        return replace(decoded, corrected=tuple(self._corrections.get(_key(decoded.recombination), ())))

    def take(self, recombination: Recombination, tensors: Tensors) -> None:
        """Count tensors as corrected by the hooks, as they were when these weights were measured before."""
        self._corrections[_key(recombination)] = [tensors]

    def _send(self, place: int, decoded: Decoded, folder: Path | None, title: str) -> None:
        self._count += 1
        request: dict[str, Any] = {
            "kind": "evaluate",
            "hook": self.hook,
            "calibrate": self.calibrate,
            "names": list(decoded.types),
            "title": title,
            "corrected": str(self._folder / f"corrected_{self._count:05d}.safetensors"),
            "about": about(decoded),
        }
        if folder is not None:
            request |= {"folder": str(folder), "file": str(folder / name_like(decoded))}
        self.pool.send(place, decoded.path, _size(decoded.path), request, LineageBook())

    def _remember(self, decoded: Decoded, answer: Mapping[str, Any]) -> None:
        """Remember what the hooks corrected: it is saved with these weights."""
        if answer.get("corrected"):
            found = Tensors(Path(answer["corrected_file"]), types_of(answer["corrected"]))
            self._corrections.setdefault(_key(decoded.recombination), []).append(found)

    def _found(self, decoded: Decoded, answer: Mapping[str, Any]) -> Metrics | EpsoptError:
        if answer["status"] != "measured":
            reason = answer.get("reason", "its file changed meanwhile")
            return HookError(reason if answer["status"] == "hook" else f"the evaluate hook {self.hook!r}: {reason}")
        self.count_statistics(decoded.recombination, decoded.types)
        metrics: Metrics = answer["metrics"]
        return metrics

    def count_statistics(self, recombination: Recombination, names: Sequence[str] | Mapping[str, TensorType]) -> None:
        """Remember whether a merge has running statistics that no hook computed anew."""
        statistics = {n for n in names if is_statistic(n)}
        corrected = {n for tensors in self._corrections.get(_key(recombination), ()) for n in tensors.types}
        self.averaged |= len(recombination.parents) > 1 and bool(statistics) and not statistics & corrected


def about(decoded: Decoded) -> dict[str, Any]:
    """Return what an evaluate hook may ask for of decoded weights, as JSON values.

    ``parents`` (path, content hash and coefficients of each), ``dtype`` (of most of the weights, such as
    ``bfloat16``) and ``config`` (of the model or of the adapter; else the hyperparameters that the parents share).
    """
    recombination = decoded.recombination
    parents = [
        {"path": p.path, "sha256": p.sha256, "coefficients": [row[i] for row in recombination.coefficients]}
        for i, p in enumerate(recombination.parents)
    ]
    sizes: dict[torch.dtype, int] = {}
    for kind in decoded.types.values():
        if kind.dtype.is_floating_point:
            sizes[kind.dtype] = sizes.get(kind.dtype, 0) + kind.nbytes
    dtype = str(max(sizes, key=lambda k: sizes[k])).removeprefix("torch.") if sizes else None
    return {"parents": parents, "dtype": dtype, "config": _config(decoded)}


def types_of(listed: Sequence[Mapping[str, Any]]) -> dict[str, TensorType]:
    """Return tensors' types by name, as a child process lists them."""
    return {t["name"]: TensorType(getattr(torch, t["dtype"]), tuple(t["shape"])) for t in listed}


def _config(decoded: Decoded) -> dict[str, Any]:
    layout = decoded.layout
    for kept in (layout.get("adapter"), layout.get("config")):
        if kept is not None:
            return dict(kept)
    found = folder_config(location(str(layout["like"])))
    if found is not None:
        return found
    return {k: v for held in layout["about"].values() if isinstance(held, Mapping) for k, v in held.items()}


def _key(recombination: Recombination) -> str:
    return json.dumps(recombination.to_json())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
