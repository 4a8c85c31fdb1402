"""Catalogues of any size, made of real fingerprints: what `scale.py` measures on.

A synthetic run is a blend of two real ones, at as many moments of its training as wanted; fingerprints, sketches and
metrics are mixed alike, and vary a little besides. Where more tensors are wanted than the real network has, its blocks
repeat, each repetition varied in a way of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.queries import reader_of
from epsopt.zoo.catalogue.tables import checkpoints, files, fingerprints, lineages, runs
from epsopt.zoo.catalogue.types import Checkpoint, each_content_once
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.reading.messages import pack

EPOCHS = 20
"""Checkpoints of a run."""

_TOGETHER = 20  # runs that are written in one transaction
_VARIED = 0.1  # of a column's standard deviation over the real checkpoints: what no blend explains
_BLOCK = 0.3  # the same, of a repetition of a block; one pattern for all checkpoints, whose size a run chooses


@dataclass(frozen=True, eq=False)
class RealZoo:
    """Real runs of one network, as arrays.

    Attributes:
        names: of the tensors.
        shapes: of the tensors.
        features: ``(runs, moments, tensors, columns)``.
        sketches: ``(runs, moments, buckets)``.
        metrics: ``(runs, moments, metrics)``.
        metric_names: of the last axis.
        hyperparameters: one dictionary a run.
        n_parameters: of the network.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    features: NDArray[np.float32]
    sketches: NDArray[np.float32]
    metrics: NDArray[np.float64]
    metric_names: tuple[str, ...]
    hyperparameters: list[dict[str, Any]]
    n_parameters: int


def real_zoo(url: str) -> RealZoo:
    """Read the runs of a catalogue's most frequent architecture, all metrics measured, of the most frequent length."""
    with Catalogue.existing(url) as catalogue:
        known = each_content_once(catalogue.checkpoints())
        architecture = Counter(c.signature for c in known).most_common(1)[0][0]
        metric_names = tuple(n for n in catalogue.metric_names() if not n.startswith(("epoch", "step")))
        members: dict[int, list[Checkpoint]] = {}
        for c in known:
            if c.signature == architecture and all(c.metrics.get(n) is not None for n in metric_names):
                members.setdefault(c.run_id, []).append(c)
        length = Counter(map(len, members.values())).most_common(1)[0][0]
        kept = [some for some in members.values() if len(some) == length]
        prints = [catalogue.fingerprints([c.id for c in some]) for some in kept]
    first = prints[0][0]
    return RealZoo(
        first.names,
        first.shapes,
        np.stack([[f.features for f in some] for some in prints]),
        np.stack([[f.sketch for f in some] for some in prints]),
        np.array([[[c.metrics[n] for n in metric_names] for c in some] for some in kept], dtype=np.float64),
        metric_names,
        [some[0].hyperparameters for some in kept],
        first.n_parameters,
    )


class Maker:
    """Makes runs.

    Args:
        real: what they are blends of.
        tensors: how many each checkpoint has.
        seed: of everything random.
    """

    def __init__(self, real: RealZoo, tensors: int, seed: int) -> None:
        self._real, self._rng = real, np.random.default_rng(seed)
        own = len(real.names)
        self._block = np.arange(tensors) % own
        turns = np.arange(tensors) // own
        self.names = tuple(f"layers.{t}.{real.names[b]}" for t, b in zip(turns, self._block, strict=True))
        self.shapes = tuple(real.shapes[b] for b in self._block)
        # A constant column stays one.
        spread = real.features.std(axis=(0, 1))[self._block]
        self._spread = spread.astype(np.float32)
        pattern = self._rng.standard_normal(spread.shape, dtype=np.float32)
        self._pattern = np.where(turns[:, None] > 0, pattern, 0.0).astype(np.float32) * self._spread * _BLOCK
        self.n_parameters = real.n_parameters * tensors // own

    def run(self) -> tuple[dict[str, Any], list[tuple[bytes, bytes, dict[str, float]]]]:
        """Return a run's hyperparameters, and of each moment the fingerprint, the sketch and the metrics."""
        rng, real = self._rng, self._real
        one, other = rng.choice(len(real.hyperparameters), 2, replace=False)
        share, size = rng.random(), rng.standard_normal()
        moments = np.linspace(0, real.features.shape[1] - 1, EPOCHS)
        out = []
        for moment in moments:
            before = int(moment)
            after, late = min(before + 1, real.features.shape[1] - 1), moment - before
            corners = [(one, before, (1 - share) * (1 - late)), (one, after, (1 - share) * late),
                       (other, before, share * (1 - late)), (other, after, share * late)]  # fmt: skip

            def mixed(values: NDArray[Any], corners: list[tuple[Any, int, Any]] = corners) -> NDArray[Any]:
                return np.asarray(sum(np.float32(w) * values[r, m] for r, m, w in corners))

            features = mixed(real.features)[self._block] + np.float32(size) * self._pattern
            noise = rng.standard_normal(features.shape, dtype=np.float32)
            features += np.float32(_VARIED) * self._spread * noise
            sketch = mixed(real.sketches)
            sketch = sketch + 0.01 * np.abs(sketch).mean() * rng.standard_normal(len(sketch), dtype=np.float32)
            kept = Fingerprint.of_tensors(
                self.names, self.shapes, features, sketch.astype(np.float32), self.n_parameters
            )
            measured = mixed(real.metrics) + 0.02 * real.metrics.std(axis=(0, 1)) * rng.standard_normal(
                len(real.metric_names)
            )
            measured = np.clip(measured, real.metrics.min(axis=(0, 1)), real.metrics.max(axis=(0, 1)))
            metrics = dict(zip(real.metric_names, measured.astype(float).tolist(), strict=True))
            out.append((kept.to_bytes(), kept.sketch.tobytes(), metrics))
        return self._hyperparameters(one, other, share), out

    def _hyperparameters(self, one: int, other: int, share: float) -> dict[str, Any]:
        a, b = self._real.hyperparameters[one], self._real.hyperparameters[other]
        out: dict[str, Any] = {}
        for name, value in a.items():
            second = b.get(name, value)
            if isinstance(value, float) and isinstance(second, int | float) and value > 0 and second > 0:
                out[name] = float(value ** (1 - share) * float(second) ** share)
            else:
                out[name] = value if share < 0.5 else second
        return out


def make(file: Path, real: RealZoo, n: int, tensors: int, seed: int = 0) -> None:
    """Write a catalogue of `n` checkpoints; one that is there already is left as it is."""
    if file.exists():
        return
    part = file.with_name(f"{file.name}.part")
    for old in part.parent.glob(f"{part.name}*"):
        old.unlink()
    maker = Maker(real, tensors, seed)
    signature = Fingerprint.signature_of(maker.names, maker.shapes)
    with Catalogue(f"sqlite:///{part}") as catalogue:
        reader, done = reader_of(""), 0
        while done < n:
            made = [maker.run() for _ in range(min(_TOGETHER, -(-(n - done) // EPOCHS)))]
            rows: dict[Any, list[dict[str, Any]]] = {t: [] for t in (runs, checkpoints, fingerprints, files)}
            for i, (hyperparameters, moments) in enumerate(made):
                run_id = done // EPOCHS + i + 1
                folder, said = f"/zoo/run_{run_id:06d}", json.dumps(hyperparameters)
                name = folder.rpartition("/")[2]
                rows[runs].append(
                    {"id": run_id, "name": name, "path": folder, "hyperparameters": said, "layout": "plain"}
                )
                for epoch, (print_bytes, sketch, metrics) in enumerate(moments, 1):
                    own, path = (run_id - 1) * EPOCHS + epoch, f"{folder}/epoch_{epoch:03d}.pt"
                    sha256 = hashlib.sha256(sketch).hexdigest()
                    if own == 1:
                        rows[lineages] = [{
                            "id": 1, "signature": signature, "reference_path": path, "reference_sha256": sha256,
                            "declared": False, "sketch": pack(np.frombuffer(sketch, dtype=np.float32)),
                        }]  # fmt: skip
                    rows[checkpoints].append({
                        "id": own, "run_id": run_id, "path": path, "sha256": sha256, "epoch": epoch,
                        "metrics": json.dumps(metrics), "hyperparameters": said, "signature": signature,
                        "lineage_id": 1, "n_parameters": maker.n_parameters, "step": None, "layout": "plain",
                        "weights": sha256,
                    })  # fmt: skip
                    rows[fingerprints].append({"checkpoint_id": own, "data": print_bytes})
                    rows[files].append({
                        "path": path, "size": 1, "mtime_ns": 1, "inode": str(own), "checkpoint_id": own,
                        "reason": None, "reader": reader, "sha256": sha256, "metadata": "{}",
                    })  # fmt: skip
            with catalogue.writing() as connection:
                for table in (runs, lineages, checkpoints, fingerprints, files):
                    if rows.get(table):
                        connection.execute(insert(table), rows[table])
            done += len(made) * EPOCHS
    part.rename(file)


def add_run(file: Path) -> None:
    """Add to a catalogue a run that trained as its first one did."""
    shift = 1_000_000_000
    with Catalogue(f"sqlite:///{file}") as catalogue, catalogue.writing() as connection:
        members = connection.execute(select(checkpoints).where(checkpoints.c.run_id == 1)).mappings().all()
        ids = [row["id"] for row in members]
        kept = connection.execute(select(fingerprints).where(fingerprints.c.checkpoint_id.in_(ids))).mappings().all()
        run = connection.execute(select(runs).where(runs.c.id == 1)).mappings().one()
        connection.execute(insert(runs), [{**run, "id": shift, "name": "run_again", "path": "/zoo/run_again"}])
        for row in members:
            own = {"id": row["id"] + shift, "run_id": shift, "path": f"/zoo/run_again/epoch_{row['epoch']:03d}.pt"}
            sha256 = hashlib.sha256(own["path"].encode()).hexdigest()
            connection.execute(insert(checkpoints), [{**row, **own, "sha256": sha256, "weights": sha256}])
        for row in kept:
            connection.execute(insert(fingerprints), [{**row, "checkpoint_id": row["checkpoint_id"] + shift}])
