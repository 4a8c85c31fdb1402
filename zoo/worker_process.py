"""The program of a reader's child process: reads files within its limits, answers in JSON and bytes.

Nothing that a checkpoint holds leaves this process but numbers and text. Started by pool.py, never by hand.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import resource
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epsopt.zoo.decoding.weight_gram import weight_products
from epsopt.zoo.decoding.worker import evaluate, recombine
from epsopt.zoo.errors import HookError, UnreadableCheckpoint
from epsopt.zoo.fingerprints.block_statistics import DIRECT
from epsopt.zoo.fingerprints.fingerprint import Fingerprint, _finite
from epsopt.zoo.fingerprints.large_matrix import LargeMatrix
from epsopt.zoo.fingerprints.lineage import ADAPTED, KnownLineage, LineageBook
from epsopt.zoo.fingerprints.sketch import SKETCH, gain_directions, sketch_of
from epsopt.zoo.layouts.adapters import reference_of
from epsopt.zoo.layouts.effective_weights import EffectiveWeights, effective_weights
from epsopt.zoo.layouts.hugging_face import folder_config
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.layouts.parsed import ParsedCheckpoint
from epsopt.zoo.reading.hooks import embed, listen, load_hook
from epsopt.zoo.reading.messages import decode, encode, pack, unpack
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import (
    ChangedWhileReadError,
    Identity,
    Limits,
    identity_at,
    identity_of,
    is_of_memory,
    needs_more,
)
from epsopt.zoo.reading.tensors import OpenCheckpoint
from epsopt.zoo.side_files.worker import compare_logs, deleted, parse_side_files, read_table

Sketch = NDArray[np.float32]
Answer = tuple[dict[str, Any], list[bytes]]
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".pt.tar", ".pth.tar", ".ckpt.tar", ".zip")
_KEPT = 4  # reference checkpoints held in memory, if they are small
_RECENT = 2.0  # seconds: a file this young that fails to parse gets a second look
_LOOK_AGAIN = 0.05
_LOOK_FOR_PARENT = 1.0  # seconds between two looks
_GENERATIONS = 32  # of runs that start from one another; a circle of files ends here too


class _Reference:
    """The checkpoint that a lineage's deltas are taken from."""

    def __init__(self, path: Path, limits: Limits, weights_key: str) -> None:
        self.path = path
        self.weights_key = weights_key
        with open_checkpoint(path, limits, weights_key) as checkpoint:
            self.identity = checkpoint.source.identity
            self.sha256 = checkpoint.source.sha256()
            held = effective_weights(checkpoint, limits)
            self.base = held.reading.base
            self.signature = held.signature()
            self.sketch = _sketch_of(held)
            small = self.identity.size <= limits.at_once
            self._held = dict(held.stream()) if small else None

    @contextlib.contextmanager
    def tensors(self, limits: Limits) -> Iterator[Callable[[str], torch.Tensor | None]]:
        """Give the function that returns a tensor by name, None where the reference has none."""
        if self._held is not None:
            yield self._held.get
            return
        with open_checkpoint(self.path, limits, self.weights_key) as checkpoint:
            held = effective_weights(checkpoint, limits)
            yield lambda name: held.looked_at(name) if name in held.tensors else None


class Child:
    """What a child keeps from one file to the next: lineages on offer, references, the imported hook."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._device = torch.device("cuda") if limits.gpu and torch.cuda.is_available() else None
        self.weights_key = ""
        self.base = ""
        self.book = LineageBook()
        self._references: OrderedDict[Path, _Reference] = OrderedDict()
        self._guesses: dict[str, KnownLineage] = {}  # the last lineage of each signature

    def answer(self, request: dict[str, Any], blobs: list[bytes]) -> Answer | None:
        """Obey one message; lineages offered are only remembered."""
        if request["kind"] == "forget":
            self.book = LineageBook()
            self._guesses = {}
            return None
        if request["kind"] == "lineage":
            fields = {k: request[k] for k in ("id", "signature", "reference_path", "reference_sha256", "declared")}
            self.book.add(KnownLineage(sketch=unpack(blobs[0]), **fields))
            return None
        path = location(request["path"])
        try:
            if request["kind"] == "tell":
                return parse_side_files(request, self.limits), []
            if request["kind"] == "compare":
                return compare_logs(request, self.limits), []
            if request["kind"] == "deleted":
                return deleted(request, self.limits), []
            if request["kind"] == "table":
                return read_table(request, self.limits), []
            if request["kind"] == "recombine":
                return recombine(request, self.limits), []
            if request["kind"] == "products":
                return weight_products(request, self.limits)
            if request["kind"] == "evaluate":
                return evaluate(path, request, self.limits), []
            self.weights_key = request.get("weights_key") or ""
            self.base = request.get("base") or ""
            return self._read(path, request.get("embed"), request.get("lineage"))
        except ChangedWhileReadError:
            return {"status": "waiting"}, []
        except HookError as error:
            return {"status": "hook", "reason": str(error)}, []
        except UnreadableCheckpoint as error:
            # A damaged reference is handled where it is read; here it is this file.
            if request["kind"] in ("recombine", "products"):
                return _failed(str(error))  # which of the parents
            return ({"status": "waiting"}, []) if _still_growing(path) else _failed(error.reason)
        except MemoryError:
            return _failed(needs_more(self.limits))
        except RecursionError:
            return _failed("nested deeper than any checkpoint needs")
        except Exception as error:  # noqa: BLE001 - whatever a hostile file provokes is that file's failure
            if is_of_memory(str(error)):
                return _failed(needs_more(self.limits))
            return _failed(f"cannot be read ({type(error).__name__}: {str(error)[:200]})")

    def _read(self, path: Path, hook: str | None, known_lineage: int | None) -> Answer:
        function = load_hook(hook) if hook else None
        with open_checkpoint(path, self.limits, self.weights_key) as checkpoint:
            held = effective_weights(checkpoint, self.limits)
            reading = held.reading
            checkpoint.verify()
            signature = held.signature()
            gone: list[int] = []
            declared, lineage = None, None
            known = None if known_lineage is None else self.book.get(known_lineage)
            adapted = self._adapted(held)
            base = None
            if adapted is not None:
                reference = None
            elif known is not None and known.reference_path.startswith(ADAPTED):
                reference, lineage = None, known_lineage
            else:
                reference = None if known is None else self._reference_of(known, gone)
                if reference is None:
                    base = self._declared(path, reading.base) or self._shared_base(path, signature)
            if reference is not None:
                kept, lineage = self._fingerprint(held, reference), known_lineage
            elif base is not None:
                kept = self._fingerprint(held, base)
                declared = {"path": str(base.path), "sha256": base.sha256}
            elif adapted is not None or lineage is not None:
                kept = self._fingerprint(held, None)
                declared = adapted
            else:
                kept, lineage, gone = self._fingerprint_in_lineage(held, signature)
            blobs = [kept.to_bytes(), pack(kept.sketch)]
            if adapted is not None:
                blobs.append(pack(np.zeros(SKETCH, dtype=np.float32)))  # of no update at all
            elif base is not None:
                blobs.append(pack(base.sketch if base.signature == signature else kept.sketch))
            if function is not None:
                config = functools.partial(_config, path, reading)
                blobs.append(pack(embed(function, str(hook), checkpoint, reading.weights, config)))
            header = {
                "status": "read",
                "sha256": checkpoint.source.sha256(),
                "identity": _listed(checkpoint.source.identity),
                "signature": signature,
                "n_parameters": kept.n_parameters,
                "nan_weights": kept.nan_weights,
                "hyperparameters": reading.hyperparameters,
                "metrics": reading.metrics,
                "epoch": reading.epoch,
                "step": reading.step,
                "layout": reading.layout,
                "notes": list(reading.notes),
                "best": reading.best,
                "lineage": lineage,
                "declared": declared,
                "gone": gone,
                "embedded": function is not None,
            }
        return header, blobs

    def _adapted(self, held: EffectiveWeights) -> dict[str, str] | None:
        """Return what stands for the base of a low-rank adapter: the one that it names, or that of all runs."""
        if not held.updates:
            return None
        base = (held.adapter.base if held.adapter is not None else "") or self.base
        if not base:
            return None
        path = reference_of(base)
        return {"path": path, "sha256": hashlib.sha256(path.encode()).hexdigest()}

    def _fingerprint(self, held: EffectiveWeights, reference: _Reference | None) -> Fingerprint:
        own = reference is None or _is(reference, held.checkpoint)
        with contextlib.nullcontext() if own or reference is None else reference.tensors(self.limits) as lookup:
            return held.fingerprint(lookup, self._device)

    def _fingerprint_in_lineage(
        self, held: EffectiveWeights, signature: str
    ) -> tuple[Fingerprint, int | None, list[int]]:
        """Fingerprint against the nearest lineage; also return its id and those whose reference is gone."""
        gone: list[int] = []
        sketch: Sketch | None = None
        if self.book.open_for(signature):
            directions = _directions_of(held)
            guess = self._guesses.get(signature)
            if guess is not None and held.checkpoint.source.size <= self.limits.at_once:
                # Most files belong where the one before did: then looking once is enough.
                reference = self._reference_of(guess, gone)
                if reference is not None:
                    kept = self._fingerprint(held, reference)
                    nearest = self.book.nearest(signature, kept.sketch, directions)
                    if nearest is not None and nearest.id == guess.id:
                        return kept, guess.id, gone
                    sketch = kept.sketch
            if sketch is None:
                sketch = _sketch_of(held)
            while (known := self.book.nearest(signature, sketch, directions)) is not None:
                reference = self._reference_of(known, gone)
                if reference is not None:
                    self._guesses[signature] = known
                    return self._fingerprint(held, reference), known.id, gone
        return self._fingerprint(held, None), None, gone

    def _reference_of(self, known: KnownLineage, gone: list[int]) -> _Reference | None:
        reference = self._reference(location(known.reference_path))
        if reference is not None and reference.sha256 == known.reference_sha256:
            return reference
        self.book.close(known.id)
        gone.append(known.id)
        return None

    def _declared(self, path: Path, base: str | None) -> _Reference | None:
        """Return the base that a run says it started from, if that is a checkpoint we can read.

        A base that is itself a fine-tune of another one belongs to that one's lineage, and so do runs from it.
        """
        found = self._named(path, base)
        for _ in range(_GENERATIONS):
            former = None if found is None else self._named(found.path, found.base)
            if found is None or former is None or former.signature != found.signature:
                break
            found = former
        return found

    def _shared_base(self, path: Path, signature: str) -> _Reference | None:
        """Return the base that all runs start from which name none, if it has the same tensors."""
        found = self._named(path, self.base or None)
        return found if found is not None and found.signature == signature else None

    def _named(self, path: Path, base: str | None) -> _Reference | None:
        """Return the checkpoint that a file names as its base."""
        if base is None or not base.lower().endswith(SUFFIXES):
            return None
        for candidate in (path.parent / base, Path(base)):
            with contextlib.suppress(OSError, ValueError):
                if candidate.is_file() and not candidate.samefile(path):
                    return self._reference(candidate.resolve())
        return None

    def _reference(self, path: Path) -> _Reference | None:
        held = self._references.pop(path, None)
        try:
            if held is None or held.weights_key != self.weights_key or held.identity != identity_at(path):
                held = _Reference(path, self.limits, self.weights_key)
        except (OSError, UnreadableCheckpoint, ChangedWhileReadError):
            return None
        self._references[path] = held
        while len(self._references) > _KEPT:
            self._references.popitem(last=False)
        return held


def _is(reference: _Reference, checkpoint: OpenCheckpoint) -> bool:
    """Return whether a checkpoint is its own reference; its deltas stay at zero, as a base checkpoint's do."""
    same_size = reference.identity.size == checkpoint.source.size
    return same_size and reference.sha256 == checkpoint.source.sha256()


def _listed(identity: Identity) -> list[int]:
    return [identity.size, identity.mtime_ns, identity.inode]


def _config(path: Path, reading: ParsedCheckpoint) -> dict[str, Any]:
    """Return what an embed hook may ask for as ``config``."""
    found = folder_config(path)
    return dict(reading.hyperparameters) if found is None else found


def _failed(reason: str) -> Answer:
    return {"status": "failed", "reason": reason}, []


def _still_growing(path: Path) -> bool:
    """Look twice at a file that was written to a moment ago: a writer between two pieces is no damage."""
    try:
        before = path.stat()
        if abs(time.time() - before.st_mtime) > _RECENT:
            return False
        time.sleep(_LOOK_AGAIN)
        return identity_of(path.stat()) != identity_of(before)
    except OSError:
        return False


def _sketch_of(held: EffectiveWeights) -> Sketch:
    # The same sum as fingerprint() makes, to choose the reference before the statistics are taken.
    total = np.zeros(SKETCH, dtype=np.float64)
    for name, tensor in held.stream():
        if tensor.numel():
            total += sketch_of(name, _finite(tensor).reshape(-1))
    return total.astype(np.float32)


def _directions_of(held: EffectiveWeights) -> NDArray[np.float64] | None:
    shapes = {n: tuple(t.shape) for n, t in held.tensors.items() if t.is_floating_point() and t.numel()}
    return gain_directions(tuple(shapes), tuple(shapes.values()))


def _limit_memory(extra: int) -> None:
    """Cap the address space at what is taken now plus `extra`; without /proc only time is limited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + extra
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _start_gpu() -> None:
    """Load what a GPU needs: its driver takes as much address space as there is memory, which is not the file's."""
    side = DIRECT + 1
    block = LargeMatrix(torch.ones(side, side), torch.device("cuda"))
    block.statistics()
    block.sketch("")


def _end_with(parent: int) -> None:
    """End this process when its parent has: whatever a hook is busy with, nobody waits for it any more.

    Not by prctl(PR_SET_PDEATHSIG), which counts the thread that started this process as its parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_FOR_PARENT)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(descriptor: int) -> None:
    """Serve requests from the pipe until the other end closes."""
    torch.set_num_threads(1)
    # A diverged run overflows, as its fingerprint says; standard error is for the parent's progress bar.
    warnings.simplefilter("ignore")
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        hello, _ = decode(connection.recv_bytes())
        limits = Limits(**hello["limits"])
        _end_with(os.getppid())
        if limits.gpu and torch.cuda.is_available():
            _start_gpu()
        _limit_memory(limits.memory)
        listen(lambda hook: connection.send_bytes(encode({"at work": hook})))
        child = Child(limits)
        connection.send_bytes(encode({"status": "ready"}))
        while True:
            answer = child.answer(*decode(connection.recv_bytes()))
            if answer is not None:
                connection.send_bytes(encode(*answer))


if __name__ == "__main__":
    main(int(sys.argv[1]))
