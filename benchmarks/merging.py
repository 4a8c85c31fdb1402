"""What merging adds to a measured front, and at what price.

    python benchmarks/merging.py [--seed 100]

Fronts: that of the whole ternary zoo, and that of a random quarter of its runs (--quarters: of more of them), as a user
with fewer runs has it. Three parents each, chosen as `epsopt merge` does. Beside 30 evaluations of `merge` (three seeds
on the whole zoo): a uniform grid of 210 merges, the uniform soup, WiSE-FT's line (base to each parent, 30 evaluations
in all), and 30 random merges. Every merge is measured with the demo's own hook. Some minutes a front; resumable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from held_out import BOUNDS, HOOK, Memory, catalogue_of, keep_for_picture, title
from numpy.typing import NDArray
from zoos import OUT as ZOOS

from epsopt.optimize import Objective, hypervolume
from epsopt.optimize.merge.simplex_merge import merge, simplex_grid
from epsopt.optimize.objectives import measured_table
from epsopt.studies.merge.simplex_merge import front_parents
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination

OBJECTIVES = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
MAXIMIZE = [True, True]
PARENTS, GRID, BUDGET, SEEDS = 3, 200, 30, 3
Array = NDArray[np.float64]


class Front:
    """The checkpoints of some runs, their parents, and merges of these, measured once each."""

    def __init__(self, name: str, checkpoints: list[Checkpoint], decoder: WeightDecoder, memory: Memory) -> None:
        self.name, self.decoder, self.memory = name, decoder, memory
        self.trained = measured_table([c.metrics for c in checkpoints], OBJECTIVES)
        self.base = next(c for c in checkpoints if c.run == "base")
        self.parents = front_parents(checkpoints, OBJECTIVES, PARENTS)
        self.reference = self.trained.min(axis=0)

    def measure(self, parents: Sequence[Checkpoint], coefficients: Sequence[float]) -> dict[str, float]:
        """Metrics of one merge."""
        merge = recombination(parents, [np.asarray(coefficients).tolist()])

        def now() -> dict[str, float | None]:
            decoded = self.decoder.decode(merge)
            try:
                return self.decoder.measure(decoded)
            finally:
                self.decoder.forget(decoded)

        key = [[p.sha256 for p in merge.parents], np.round(merge.coefficients[0], 9).tolist()]
        return self.memory(str(key), now)

    def table(self, parents: Sequence[Checkpoint], rows: Array) -> Array:
        """Objectives of merges."""
        return measured_table([self.measure(parents, row) for row in rows], OBJECTIVES)

    def volume(self, merges: Array, *, alone: bool = False) -> float:
        """Hypervolume of merges with what was trained, or with nothing but the parents."""
        with_what = self.trained if not alone else measured_table([p.metrics for p in self.parents], OBJECTIVES)
        return hypervolume(np.vstack([with_what, merges]), self.reference, MAXIMIZE)

    def merged(self, seed: int) -> Array:
        """Objectives of what `epsopt merge` measures."""

        def now() -> list[dict[str, float | None]]:
            result = merge(
                lambda c: self.measure(self.parents, c[0]), PARENTS, OBJECTIVES,
                known=self.trained, bounds=BOUNDS, budget=BUDGET, seed=seed,
            )  # fmt: skip
            return [dict(e.measured) for e in result.evaluations]

        parents = [p.sha256 for p in self.parents]
        return measured_table(self.memory(f"merge {len(self.trained)} {parents} {BUDGET} {seed}", now), OBJECTIVES)

    def line(self) -> Array:
        """WiSE-FT (Wortsman et al. 2022): from the base to each parent, and on to nothing else."""
        alphas = np.linspace(0.0, 1.0, BUDGET // PARENTS + 1)[1:]
        rows = np.stack([1.0 - alphas, alphas], axis=1)
        return np.vstack([self.table([self.base, p], rows) for p in self.parents])

    def random(self, seed: int) -> Array:
        """Objectives of as many random merges."""
        return self.table(self.parents, np.random.default_rng(seed).dirichlet(np.ones(PARENTS), size=BUDGET))


def report(front: Front, seeds: int) -> tuple[float, float, float]:
    grid = front.table(front.parents, simplex_grid(PARENTS, GRID))
    whole, only = front.volume(grid), front.volume(grid, alone=True)
    before = front.volume(np.zeros((0, 2)))
    print(f"\n{front.name}: {len(front.trained)} checkpoints, hypervolume {before:.5f}; parents "
          + ", ".join(f"{p.run}:{p.epoch} ({p.metrics['coverage']:.3f}, {p.metrics['dist_corr']:.3f})"
                      for p in front.parents))  # fmt: skip
    print(f"{'':38}{'evaluations':>12}{'gain of the front':>22}{'of the grid, merges alone':>32}")

    def show(name: str, evaluations: int, tables: Sequence[Array]) -> tuple[float, float]:
        gains = [front.volume(t) / before - 1.0 for t in tables]
        shares = [front.volume(t, alone=True) / only for t in tables]
        spread = f" ± {np.std(gains):.2%}" if len(tables) > 1 else ""
        least = f" (least {min(shares):.2%})" if len(tables) > 1 else ""
        print(
            f"{name:38}{evaluations:12d}{f'{np.mean(gains):+.2%}' + spread:>22}{f'{np.mean(shares):.2%}' + least:>32}"
        )
        return float(np.mean(gains)), float(min(shares))

    show(f"uniform grid of {len(grid)}", len(grid), [grid])
    merged = [front.merged(s) for s in range(seeds)]
    if seeds > 1:
        pictured = {"trained": front.trained, "grid": grid, "merged": merged[0]}
        keep_for_picture("merging", {k: v.tolist() for k, v in pictured.items()})
    found = show("epsopt merge" + (f", {seeds} seeds" if seeds > 1 else ""), BUDGET, merged)
    show("random merges, 3 seeds", BUDGET, [front.random(s) for s in range(3)])
    show("WiSE-FT's line", BUDGET, [front.line()])
    show("uniform soup", 1, [front.table(front.parents, np.full((1, PARENTS), 1 / PARENTS))])
    return found[0], found[1], whole / before - 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging toward the front, against a grid and simpler merges.")
    parser.add_argument("--seed", type=int, default=100, help="of the ternary zoo")
    parser.add_argument("--quarters", type=int, default=1, choices=range(5), help="how many smaller fronts")
    parser.add_argument("--zoos", type=Path, default=ZOOS, help="folder of the zoos")
    options = parser.parse_args()
    title(["benchmarks/merging.py", "--seed", str(options.seed), "--quarters", str(options.quarters)])
    torch.set_num_threads(1)
    memory = Memory(f"merging-{options.seed}")
    with catalogue_of("ternary", options.seed, options.zoos) as catalogue, WeightDecoder(HOOK) as decoder:
        checkpoints = catalogue.checkpoints()
        runs = sorted({c.run for c in checkpoints} - {"base"})
        shuffled = np.random.default_rng(0).permutation(runs)
        figures = [report(Front("the whole zoo", checkpoints, decoder, memory), SEEDS)]
        for i, part in enumerate(np.array_split(shuffled, 4)[: options.quarters], 1):
            own = [c for c in checkpoints if c.run in {*part.tolist(), "base"}]
            figures.append(report(Front(f"quarter {i} of the runs", own, decoder, memory), 1))
    gains, shares, grids = np.array(figures).T
    print(f"\nover {len(figures)} fronts: epsopt merge gains {np.median(gains):+.2%} in the median "
          f"({gains.min():+.2%} to {gains.max():+.2%}), the grid {np.median(grids):+.2%}; least share of the grid's "
          f"hypervolume {shares.min():.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
