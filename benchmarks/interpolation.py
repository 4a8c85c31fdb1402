"""How well the way between two checkpoints is predicted, and what decoded weights measure.

    python benchmarks/interpolation.py [--zoo ternary --seed 100]

Twenty random pairs of checkpoints of different runs that the map has never seen (16 of 64 runs are held out), nine
points between each; then forty held-out checkpoints decoded from the other runs' checkpoints. Everything is measured
with the demo's own evaluate hook. About five minutes on one core; resumable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from held_out import HOOK, Memory, catalogue_of, keep_for_picture, map_without_runs, title
from numpy.typing import NDArray
from zoos import OUT as ZOOS

from epsopt.optimize.latent.interpolation import linear_metrics, shares, straight
from epsopt.studies.merge.decode import decode_points
from epsopt.surrogate import Surrogate
from epsopt.zoo import Catalogue, read_fingerprints
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Recombination, recombination
from epsopt.zoo.fingerprints.fingerprint import Fingerprint

PAIRS, STEPS, DECODED = 20, 11, 40
Array = NDArray[np.float64]


class Bench:
    """One zoo with its map; measures merges, each once."""

    def __init__(self, catalogue: Catalogue, key: str, decoder: WeightDecoder) -> None:
        self.catalogue, self.decoder = catalogue, decoder
        self.surrogate, self.left_out = map_without_runs(catalogue, key)
        self.names = self.surrogate.metric_names
        self.checkpoints = catalogue.checkpoints()
        self.strangers = [c for c in self.checkpoints if c.run_id in self.left_out]
        self.memory = Memory(f"interpolation-{key}")

    def encode(self, checkpoints: Sequence[Checkpoint]) -> torch.Tensor:
        """Return z of checkpoints."""
        return self.surrogate.encode(self.catalogue.fingerprints([c.id for c in checkpoints]))

    def measure(self, merges: Sequence[Recombination]) -> tuple[Array, list[Fingerprint]]:
        """Metrics and fingerprints of merges; metrics are kept, fingerprints are made anew."""
        metrics, files = [], []
        for merge in merges:
            decoded = self.decoder.decode(merge)
            found = self.memory(str(merge.to_json()), lambda d=decoded: self.decoder.measure(d))
            metrics.append([found[n] for n in self.names])
            files.append(decoded)
        prints = [r.fingerprint for r in read_fingerprints([d.path for d in files], self.catalogue, jobs=1)]
        for decoded in files:
            self.decoder.forget(decoded)
        return np.array(metrics, dtype=np.float64), prints

    def pairs(self) -> list[tuple[Checkpoint, Checkpoint]]:
        """Draw pairs of different held-out runs."""
        rng = np.random.default_rng(100)
        out = []
        for _ in range(PAIRS):
            runs = rng.choice(sorted(self.left_out), 2, replace=False).tolist()
            both = [[c for c in self.strangers if c.run_id == run] for run in runs]
            out.append(tuple(own[int(rng.integers(len(own)))] for own in both))
        return out


def ways(bench: Bench) -> None:
    surrogate, names = bench.surrogate, bench.names
    rows = {
        "linear between the ends' metrics": [],
        "map, at the point of latent space": [],
        "map, on the mixed weights": [],
    }
    inside, moved, pictures = [], [], []
    for a, b in bench.pairs():
        inner = slice(1, STEPS - 1)
        mixed = [recombination([a, b], [[1.0 - t, t]]) for t in shares(STEPS)[inner]]
        measured, prints = bench.measure(mixed)
        line = linear_metrics(a.metrics, b.metrics, names, STEPS)[inner]
        rows["linear between the ends' metrics"].append(error([[r[n] for n in names] for r in line], measured))
        at_points = surrogate.predict(straight(*bench.encode([a, b]), STEPS)[inner])
        rows["map, at the point of latent space"].append(error(at_points.point, measured))
        on_weights = surrogate.predict(surrogate.encode(prints))
        rows["map, on the mixed weights"].append(error(on_weights.point, measured))
        inside.append(((on_weights.low <= measured) & (measured <= on_weights.high)).mean(axis=0))
        pictures.append({
            "ends": [f"{c.run}:{c.epoch}" for c in (a, b)], "names": list(names), "shares": shares(STEPS)[inner],
            "end_metrics": [[c.metrics[n] for n in names] for c in (a, b)], "measured": measured.tolist(),
            "point": on_weights.point.tolist(), "low": on_weights.low.tolist(), "high": on_weights.high.tolist(),
        })  # fmt: skip
        moved.append(np.abs([a.metrics[n] - b.metrics[n] for n in names]))
    keep_for_picture("interpolation", pictures)
    print(
        f"\n{PAIRS} pairs of held-out checkpoints, {STEPS - 2} points between each: mean absolute error of the metrics"
    )
    print("measured on mixed weights; in brackets, the standard deviation over pairs\n")
    head(names)
    for name, errors in rows.items():
        show(name, errors)
    show("(how far the ends lie apart)", moved)
    print(f"{'90 % intervals on the mixed weights cover':42}" + "".join(f"{v:17.1%}" for v in np.mean(inside, axis=0)))
    wins = [np.mean([m[j] < n[j] for m, n in zip(rows["map, on the mixed weights"],
            rows["linear between the ends' metrics"], strict=True)]) for j in range(len(names))]  # fmt: skip
    print(f"{'pairs on which the map beats the line':42}" + "".join(f"{v:17.0%}" for v in wins))


def decoding(bench: Bench, *, corrected_too: bool) -> None:
    surrogate, names = bench.surrogate, bench.names
    rng = np.random.default_rng(7)
    wanted = [bench.strangers[i] for i in rng.permutation(len(bench.strangers))[:DECODED]]
    z = bench.encode(wanted)
    truth = np.array([[c.metrics[n] for n in names] for c in wanted], dtype=np.float64)
    print(f"\n{DECODED} held-out checkpoints decoded from their z, out of the other runs' checkpoints of the lineage:")
    print("mean absolute difference between what the decoded weights and the checkpoint itself measure\n")
    head(names)
    by_key = {c.sha256: c for c in bench.checkpoints}
    for name, parts in (
        ("nearest checkpoint", nearest(surrogate, z)),
        ("attention head, 8 parents (before)", attention(surrogate, z)),
        ("local reconstruction (surrogate.recombine)", surrogate.recombine(z, wanted[0].lineage_id)),
    ):
        mixed = [recombination([by_key[k] for k, _ in p], [[c for _, c in p]]) for p in map(normal, parts)]
        measured, _ = bench.measure(mixed)
        show(f"{name}", np.abs(measured - truth))
    if corrected_too:
        corrected = decode_points(bench.decoder, bench.catalogue, bench.checkpoints, surrogate, z, wanted[0].lineage_id)
        measured, _ = bench.measure([m.recombination for m in corrected])
        show("the same, looked at and corrected", np.abs(measured - truth))
    show("(map's prediction from z, nothing decoded)", np.abs(surrogate.predict(z).point - truth))
    show("(median of the map's checkpoints)", np.abs(np.median([[c.metrics[n] for n in names] for c in bench.checkpoints
         if c.run_id not in bench.left_out], axis=0) - truth))  # fmt: skip


def nearest(surrogate: Surrogate, z: torch.Tensor) -> list[list[tuple[str, float]]]:
    places = torch.cdist(z, surrogate.memory.latents).argmin(dim=1).tolist()
    return [[(surrogate.memory.keys[i], 1.0)] for i in places]


def attention(surrogate: Surrogate, z: torch.Tensor) -> list[list[tuple[str, float]]]:
    """Decode as the trained head alone would: the eight largest coefficients."""
    memory = surrogate.memory
    with torch.no_grad():
        allowed = torch.ones(len(z), len(memory.latents), dtype=torch.bool)
        values, places = surrogate.network.recombination(z, memory.latents, allowed).topk(8, dim=1)
    rows = zip(values.tolist(), places.tolist(), strict=True)
    return [[(memory.keys[i], v) for v, i in zip(*row, strict=True)] for row in rows]


def normal(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    total = sum(c for _, c in parts)
    return [(key, c / total) for key, c in parts]


def error(predicted: object, measured: Array) -> Array:
    return np.abs(np.asarray(predicted, dtype=np.float64) - measured).mean(axis=0)


def head(names: Sequence[str]) -> None:
    print(f"{'':42}" + "".join(f"{n:>17}" for n in names))


def show(name: str, errors: object) -> None:
    table = np.asarray(errors, dtype=np.float64)
    cells = (f"{m:.4f} ({s:.4f})" for m, s in zip(table.mean(axis=0), table.std(axis=0), strict=True))
    print(f"{name:42}" + "".join(f"{c:>17}" for c in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Interpolation and decoding, against measured truth.")
    parser.add_argument("--zoo", default="ternary", choices=["ternary", "bases"])
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--corrected", action="store_true", help="also decode with studies.merges.decode_points")
    parser.add_argument("--zoos", type=Path, default=ZOOS, help="folder of the zoos")
    options = parser.parse_args()
    title(["benchmarks/interpolation.py", "--zoo", options.zoo, "--seed", str(options.seed)])
    torch.set_num_threads(1)
    with catalogue_of(options.zoo, options.seed, options.zoos) as catalogue, WeightDecoder(HOOK) as decoder:
        bench = Bench(catalogue, f"{options.zoo}-{options.seed}", decoder)
        ways(bench)
        decoding(bench, corrected_too=options.corrected)


if __name__ == "__main__":
    main()
