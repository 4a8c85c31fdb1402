"""What merging adds to the measured front of each family, beside the other ways to spend as many evaluations.

    python benchmarks/merging_peers.py run [FAMILY ...] [--seeds 10] [--budget 30]     # minutes a family, one core
    python benchmarks/merging_peers.py table [--seeds 10] [--budget 30]               # what is kept so far

The zoos are those of benchmarks/families.py, made first where they are not there. Fine-tunes begin with one base, which
the catalogue knows; of models that were trained from scratch, epochs of one run are merged. The peers merge the three
checkpoints that dominate most (`epsopt merge --count 3`), know what these were measured to be, and may measure as many
merges. `epsopt merge` chooses checkpoints itself, of several lineages where the front holds several. Soups of ends take
all runs of the one lineage that holds most of the front. What epsopt measures of checkpoints counts among its
evaluations. The methods are in merging_methods.py, the hooks in merging_hooks.py. mergekit's operators need mergekit,
CMA-ES the package cmaes. Every measurement and every result is kept, so that a second call goes on.

Whatever is chosen (the default way of epsopt) is chosen on families.DEVELOPMENT; the others are only reported.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import families
import merging_methods as methods
import numpy as np
import torch
from held_out import Memory, title
from merging_hooks import CORRECTING, OBJECTIVES, hook
from numpy.typing import NDArray

from epsopt.optimize import hypervolume
from epsopt.optimize.merge.lineage_gp import LineageSpace
from epsopt.optimize.merge.lineage_search import LineageMerge, candidate_merges
from epsopt.optimize.merge.simplex_merge import MergeResult, merge
from epsopt.optimize.objectives import Objective, Objectives, measured_table
from epsopt.studies.merge import merge_search, merge_sources
from epsopt.studies.merge.merge_sources import choose_sources
from epsopt.studies.merge.simplex_merge import disagreements, front_parents
from epsopt.studies.merge.weight_space_merge import merge_in_weight_space
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.errors import EmptyCatalogue

PARENTS = 3
HERE = Path(__file__).resolve().parent
SEARCH, OF_THREE = "epsopt merge", "epsopt merge --count 3"
ONE_LINEAGE, DRAWN = "epsopt merge, one lineage", "its candidates, at random"
OURS = (SEARCH, OF_THREE, ONE_LINEAGE, DRAWN)
BASES = {
    "mlp-finetune": "base.pt",
    "ternary-relu": "base.pt",
    "llama": "base/model.safetensors",
    "ppo-finetune": "base.zip",
}
"""Files that runs begin with; an adapter names its base itself."""
Floats = NDArray[np.float64]


@dataclass
class Zoo:
    """A family's catalogue, opened for merging."""

    name: str
    catalogue: Catalogue
    decoder: WeightDecoder
    checkpoints: Sequence[Checkpoint]
    objectives: tuple[Objective, ...]
    memory: Memory

    @property
    def trained(self) -> Floats:
        """``(n, objectives)`` what was measured on checkpoints."""
        table = measured_table([c.metrics for c in self.checkpoints], self.objectives)
        return np.asarray(table[np.isfinite(table).all(axis=1)])

    def measure(self, made_of: Recombination) -> Mapping[str, float | None]:
        """Measure a merge, or remember what it measured."""

        def now() -> Mapping[str, float | None]:
            decoded = self.decoder.decode(made_of)
            try:
                return self.decoder.measure(decoded)
            finally:
                self.decoder.forget(decoded)

        rows = [[round(c, 9) for c in row] for row in made_of.coefficients]
        key = [[p.sha256[:16] for p in made_of.parents], rows, made_of.groups, made_of.operator, made_of.density]
        return self.memory(f"{self.name}: {key}", now)  # type: ignore[return-value]

    def task(self, parents: Sequence[Checkpoint], budget: int) -> methods.Task:
        """What the peers are given."""
        lineage = next(known for known in self.catalogue.lineages() if known.id == parents[0].lineage_id)
        own = [c for c in self.checkpoints if c.lineage_id == lineage.id and c.sha256 != lineage.reference_sha256]
        own = [c for c in own if np.isfinite(measured_table([c.metrics], self.objectives)).all()]
        last = {c.run: c for c in sorted(own, key=lambda c: (c.run, c.epoch or 0))}
        base = Parent(lineage.reference_path, lineage.reference_sha256)
        compared = self.decoder.products([Parent(c.path, c.sha256) for c in parents], base)
        return methods.Task(
            parents, list(last.values()) if len(last) > 1 else own, base if lineage.declared else None,
            compared.names, self.objectives, self.trained, self.measure, budget,
        )  # fmt: skip


@contextmanager
def opened(name: str) -> Iterator[Zoo]:
    """Open a family's zoo with its base and its hook."""
    families.make(name)
    folder = families.OUT / f"{name}-{families.SEED}"
    base = None if name not in BASES else str(families.OUT / f"{folder.name}-base" / BASES[name])
    with (
        Catalogue(f"sqlite:///{families.OUT / f'{name}-{families.SEED}-merging.db'}", base=base) as catalogue,
        WeightDecoder(hook(name)) as decoder,
    ):
        ingest(catalogue, folder, jobs=1)
        yield Zoo(name, catalogue, decoder, catalogue.checkpoints(), OBJECTIVES[name], Memory(f"merging-{name}"))


class _Project:
    """What merging reads of a project."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives, self.bounds = tuple(objectives), dict[str, tuple[float, float]]()


def ours(zoo: Zoo, name: str, budget: int, seed: int) -> Floats:
    """What `epsopt merge` measures, checkpoints' own evaluations left out, which count."""
    if name == DRAWN:
        with patch.object(merge_search, "choose_lineage_merge", _draw):
            return ours(zoo, SEARCH, budget, seed)
    if name in {SEARCH, ONE_LINEAGE}:
        sources = choose_sources(zoo.checkpoints, zoo.catalogue.lineages(), zoo.objectives)
        if name == ONE_LINEAGE:
            with patch.object(merge_sources, "MOST_LINEAGES", 1):
                sources = choose_sources(zoo.checkpoints, zoo.catalogue.lineages(), zoo.objectives)
        with tempfile.TemporaryDirectory() as folder:
            found = merge_in_weight_space(
                zoo.decoder, _Project(zoo.objectives), zoo.checkpoints, sources,  # type: ignore[arg-type]
                lambda i, _: Path(folder) / f"merged_{i:03d}.safetensors",
                budget=budget - 1, seed=seed,
            )  # fmt: skip
        return measured_table([t.measured for t in found.tried], zoo.objectives)
    parents = front_parents(zoo.checkpoints, zoo.objectives, PARENTS)
    result: MergeResult = merge(
        lambda c: zoo.measure(_made_of(parents, c)), len(parents), zoo.objectives,
        known=zoo.trained, budget=budget, seed=seed,
    )  # fmt: skip
    return measured_table([e.measured for e in result.evaluations[len(parents) :]], zoo.objectives)


def _draw(
    space: LineageSpace, points: Floats, values: Floats, _known: Floats, objectives: Sequence[Objective],
    *, rng: np.random.Generator, **_: Any,
) -> LineageMerge:  # fmt: skip
    """Draw a merge instead of choosing one."""
    candidates = candidate_merges(space, points, values, Objectives(objectives).maximize, rng)
    return LineageMerge(rng.choice(candidates), None, None, None, None)


def _made_of(parents: Sequence[Checkpoint], coefficients: Floats) -> Recombination:
    from epsopt.zoo.decoding.recombination import recombination

    return recombination(parents, coefficients.tolist())


def gain(zoo: Zoo, values: Floats) -> float:
    """Hypervolume that merges add to what was trained, as a share of that."""
    maximize = Objectives(zoo.objectives).maximize
    worst = np.where(maximize, zoo.trained.min(axis=0), zoo.trained.max(axis=0))
    fine = values[np.isfinite(values).all(axis=1)]
    before = hypervolume(zoo.trained, worst, maximize)
    return hypervolume(np.vstack([zoo.trained, fine]), worst, maximize) / before - 1.0


def run(name: str, budget: int, seeds: int, wanted: Sequence[str]) -> None:
    """Let everybody merge, seed by seed; what is kept already is not done again."""
    results = Memory("merging-results")
    with opened(name) as zoo:
        parents = front_parents(zoo.checkpoints, zoo.objectives, PARENTS)
        if name not in CORRECTING:
            require_agreement(zoo, parents)
        task = zoo.task(parents, budget)
        for method in (*OURS, *methods.METHODS):
            if method not in wanted or lacking(method, task):
                continue
            for seed in range(1 if method in methods.SEEDLESS else seeds):
                started = time.monotonic()

                def made(method: str = method, seed: int = seed) -> dict[str, Any]:
                    try:
                        values = merged(zoo, task, method, budget, seed)
                    except EmptyCatalogue as error:  # a run of few checkpoints has nothing for --wide
                        return {"gain": None, "refused": str(error)}
                    return {"gain": gain(zoo, values), "evaluations": len(values)}

                results(_key(name, method, budget, seed), made)
                print(f"{name} {method} {seed}: {time.monotonic() - started:.1f} s", file=sys.stderr)


def require_agreement(zoo: Zoo, checkpoints: Sequence[Checkpoint]) -> None:
    """End where the hook measures something else of checkpoints than their runs logged: no gain would be one."""
    for c in checkpoints:
        found = zoo.measure(Recombination((Parent(c.path, c.sha256),), ((1.0,),)))
        said = disagreements(c, found, zoo.objectives)
        if said:
            raise SystemExit(f"{zoo.name}: {'; '.join(said)}")


def merged(zoo: Zoo, task: methods.Task, method: str, budget: int, seed: int) -> Floats:
    """What somebody measures."""
    if method in OURS:
        return ours(zoo, method, budget, seed)
    found = methods.METHODS[method](task, np.random.default_rng(seed))
    return np.array(list(found)).reshape(-1, len(zoo.objectives))


def lacking(method: str, task: methods.Task) -> bool:
    """Whether a method cannot be used: its package or a base is missing, or mergekit would merge adapters' factors."""
    if method in methods.OF_MERGEKIT and task.parents[0].path.endswith("adapter_model.safetensors"):
        return True
    package = "mergekit" if method in methods.OF_MERGEKIT else "cmaes" if method == "CMA-ES" else "numpy"
    return find_spec(package) is None or (method in methods.FROM_BASE and task.base is None)


def _key(name: str, method: str, budget: int, seed: int) -> str:
    return f"{name}/{method}/{budget}/{seed}"


def table(budget: int, seeds: int, wanted: Sequence[str]) -> None:
    """Print the mean gain of everybody who is wanted in every family, and where epsopt is ahead of all others."""
    results = Memory("merging-results").known
    print("a dash: there is no base, mergekit would merge adapters' factors, or the way is refused")
    print(f"gain of the front's hypervolume, mean ± standard deviation over {seeds} seeds; {budget} evaluations each")
    for title_, group in (("development", families.DEVELOPMENT), ("reported", families.REPORTED)):
        names = [n for n in group if _key(n, wanted[-1], budget, seeds - 1) in results]
        gains = {(m, n): _gains(results, m, n, budget, seeds) for m in wanted for n in names}
        print(f"\n{title_:28}" + "".join(f"{n:>17}" for n in names))
        for method in wanted:
            print(f"{method:28}" + "".join(f"{_cell(gains[method, n]):>17}" for n in names))
        for ours_ in OURS if set(wanted) - set(OURS) else ():
            ahead = [n for n in names if gains[ours_, n] and _is_best(np.mean(gains[ours_, n]), gains, n)]
            print(f"{ours_} is ahead of all others on {len(ahead)} of {len(names)}: {', '.join(ahead) or 'none'}")


def _gains(results: Mapping[str, Any], method: str, name: str, budget: int, seeds: int) -> list[float]:
    keys = [_key(name, method, budget, s) for s in range(seeds)]
    return [g for k in keys if k in results and (g := results[k]["gain"]) is not None]


def _cell(gains: Sequence[float]) -> str:
    spread = f" ± {np.std(gains):.2%}" if len(gains) > 1 else ""
    return f"{np.mean(gains):+.2%}{spread}" if gains else "-"


def _is_best(mean: float, gains: Mapping[tuple[str, str], Sequence[float]], name: str) -> bool:
    """Whether a mean gain is above those of all that are not epsopt."""
    return all(mean > np.mean(g) for (m, n), g in gains.items() if n == name and m not in OURS and g)


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging, beside other ways to spend as many evaluations.")
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="All by default.")
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *methods.METHODS], default=[*OURS, *methods.METHODS])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    everybody = [*OURS, *methods.METHODS]
    wanted = sorted(options.only, key=everybody.index)
    if options.command == "table":
        only = [] if wanted == everybody else ["--only", *(f'"{name}"' for name in wanted)]
        asked = ["--budget", str(options.budget), "--seeds", str(options.seeds), *only]
        title(["benchmarks/merging_peers.py", "table", *asked])
        table(options.budget, options.seeds, wanted)
        return
    os.chdir(HERE)  # where the hooks are imported from
    for name in options.families or OBJECTIVES:
        run(name, options.budget, options.seeds, wanted)


if __name__ == "__main__":
    main()
