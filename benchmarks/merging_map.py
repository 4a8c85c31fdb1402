"""Who should choose a merge: the fitted map, or the process over weight space that `epsopt merge` ships?

    python benchmarks/merging_map.py run [FAMILY ...] [--seeds 5]     # minutes a family, one core
    python benchmarks/merging_map.py table [--seeds 5]                # what is kept so far

Before each of 30 measurements all see as many of `epsopt merge`'s candidates, drawn alike: the map, the process, both
together (by the sum of their ranks) and chance choose one. For the map every candidate is decoded and fingerprinted,
as `epsopt interpolate` does, which is why there are only 24. It is fitted to the whole zoo, and learns every merge that
was measured (`condition_on_observations`), as the process does. Merges that chance chose show how right both are; the
parents' own values, weighed with their coefficients, are what they are compared with. The zoos and hooks are those of
merging_peers.py. Every measurement and result is kept, so that a second call goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import families
import numpy as np
import torch
from held_out import Memory, title
from merging_hooks import OBJECTIVES
from merging_peers import HERE, Floats, Zoo, opened
from scipy.stats import rankdata

from epsopt.optimize import hypervolume
from epsopt.optimize.acquisition.confidence_bounds import Z90
from epsopt.optimize.merge.lineage_gp import fit_lineages
from epsopt.optimize.merge.lineage_search import LineageMerge, candidate_merges
from epsopt.optimize.merge.merge_outcomes import MergeOutcomes
from epsopt.optimize.objectives import Objectives, measured_table
from epsopt.studies.merge.merge_search import BETWEEN, MergeSearch, MergeStep
from epsopt.studies.merge.merge_sources import choose_sources
from epsopt.studies.merge.weight_space_merge import _compared
from epsopt.surrogate import Surrogate, fit
from epsopt.surrogate.dataset import TrainingSet
from epsopt.surrogate.refinement import condition_on_observations
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ingestion.ingest import read_fingerprints

BUDGET, CANDIDATES, DRAWS = 30, 24, 64
CHOOSERS = ("map", "process", "both", "chance")


class Project:
    """What merging reads of a project."""

    def __init__(self, zoo: Zoo) -> None:
        self.objectives, self.bounds = zoo.objectives, dict[str, tuple[float, float]]()


class InformedMap:
    """The map, which learns what merges measured."""

    def __init__(self, zoo: Zoo, surrogate: Surrogate) -> None:
        self._zoo, self._surrogate = zoo, surrogate
        self._columns = [surrogate.metric_names.index(o.name) for o in zoo.objectives]
        self._count = 0

    def draws(self, prints: Sequence[Fingerprint], rng: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
        """``(DRAWS, n, m)`` draws, ``(n, m)`` points and both ends of 90 % intervals, in the objectives' own units."""
        z = self._surrogate.encode(prints)
        mean, deviation = self._surrogate.posterior_moments(z)
        noise = torch.from_numpy(rng.standard_normal((DRAWS, *mean.shape)))
        draws = self._surrogate.draws_to_metrics(mean + noise * deviation)[..., self._columns]
        found = self._surrogate.predict(z)
        return draws.numpy(), *(part[:, self._columns] for part in (found.point, found.low, found.high))

    def tell(self, print_: Fingerprint, measured: Mapping[str, float | None]) -> None:
        """Learn a merge."""
        self._count += 1
        names = self._surrogate.metric_names
        row = np.array([[measured.get(n) if measured.get(n) is not None else np.nan for n in names]], dtype=np.float64)
        run = int(self._surrogate.memory.runs.max()) + 1
        one = np.array([run])
        part = TrainingSet((f"merge {self._count}",), (print_,), one, np.zeros(1, dtype=np.int64), names, row)
        self._surrogate = condition_on_observations(self._surrogate, part)


def merge(zoo: Zoo, surrogate: Surrogate, chooser: str, seed: int) -> dict[str, Any]:
    """Measure merges, one chosen after the other."""
    sources = choose_sources(zoo.checkpoints, zoo.catalogue.lineages(), zoo.objectives)
    lineages, _ = _compared(zoo.decoder, sources, lambda _what, _share: None)
    search = MergeSearch(lineages, Project(zoo), zoo.checkpoints)  # type: ignore[arg-type]
    rng, informed = np.random.default_rng(seed), InformedMap(zoo, surrogate)
    before, errors = search.volume(), list[dict[str, Any]]()
    for _ in range(BUDGET):
        maximize = Objectives(zoo.objectives).maximize
        drawn = candidate_merges(search.space, search._points, search._values, maximize, rng)  # noqa: SLF001
        points = rng.permutation(drawn)[:CANDIDATES]
        steps = [MergeStep(LineageMerge(p, None, None, None, None), BETWEEN, "", None, 0.0) for p in points]
        at = int(rng.integers(len(steps)))
        shown = range(len(steps)) if chooser in {"map", "both"} else [at]
        prints = dict(zip(shown, fingerprints(zoo, [search.recombination(steps[i]) for i in shown]), strict=True))
        if chooser != "chance":
            gains = [expected_gains(search, informed.draws(list(prints.values()), rng)[0], maximize)] if prints and (
                chooser != "process"
            ) else []  # fmt: skip
            if chooser != "map":
                gains.append(expected_gains(search, of_process(search, zoo, points, rng)[0], maximize))
            at = int(sum(rankdata(g) for g in gains).argmax()) if len(gains) > 1 else int(gains[0].argmax())
        measured = zoo.measure(search.recombination(steps[at]))
        if chooser == "chance":
            errors.append(compared(search, zoo, informed, points[at], prints[at], measured, rng))
        if at in prints:
            informed.tell(prints[at], measured)
        search.add(steps[at], measured)
    return {"gain": search.volume() / before - 1.0, "errors": errors}


def fingerprints(zoo: Zoo, wanted: Sequence[Any]) -> list[Fingerprint]:
    """Fingerprint merges as if they were read."""
    decoded = [zoo.decoder.decode(w) for w in wanted]
    found = [read.fingerprint for read in read_fingerprints([d.path for d in decoded], zoo.catalogue, jobs=1)]
    for d in decoded:
        zoo.decoder.forget(d)
    return found


def of_process(
    search: MergeSearch, zoo: Zoo, points: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """As :meth:`InformedMap.draws`, of the process over weight space."""
    table = search._table  # noqa: SLF001
    process, transforms = fit_lineages(search.space, search._points, search._values, table, zoo.objectives, {})  # noqa: SLF001
    outcomes = MergeOutcomes(process, zoo.objectives, transforms, table)
    with torch.no_grad():
        found = process.posterior(torch.from_numpy(points[:, None, :]))
        mean, spread = found.mean[:, 0], found.variance[:, 0].clamp(min=0.0).sqrt()
        noise = torch.from_numpy(rng.standard_normal((DRAWS, *mean.shape)))
        own = [outcomes.untransform(mean + k * spread) * outcomes.signs for k in (0.0, -Z90, Z90)]
        draws = outcomes.untransform(mean + noise * spread) * outcomes.signs
    low, high = np.sort(np.stack([own[1].numpy(), own[2].numpy()]), axis=0)
    return draws.numpy(), own[0].numpy(), low, high


def expected_gains(search: MergeSearch, draws: Floats, maximize: Sequence[bool]) -> Floats:
    """Hypervolume that each of ``(DRAWS, n, m)`` is expected to add: ``(n,)``."""
    table = search._table  # noqa: SLF001
    volume = search.volume()
    return np.array([
        np.mean([hypervolume(np.vstack([table, d]), search.reference, maximize) - volume for d in draws[:, i]])
        for i in range(draws.shape[1])
    ])  # fmt: skip


def compared(
    search: MergeSearch,
    zoo: Zoo,
    informed: InformedMap,
    point: Floats,
    print_: Fingerprint,
    measured: Mapping[str, float | None],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What was measured of a merge, beside what everybody says of it."""
    _, by_map, *map_ends = informed.draws([print_], rng)
    _, by_process, *process_ends = of_process(search, zoo, point[None], rng)
    known = search._values[: len(search.space.lineages)]  # noqa: SLF001
    share = np.clip(point[:-1], 0.0, None)
    parents = share @ known / max(share.sum(), 1e-9)
    return {
        "measured": measured_table([dict(measured)], zoo.objectives)[0].tolist(),
        "map": [by_map[0].tolist(), *(e[0].tolist() for e in map_ends)],
        "process": [by_process[0].tolist(), *(e[0].tolist() for e in process_ends)],
        "parents": parents.tolist(),
    }


def run(name: str, seeds: int) -> None:
    """Let everybody choose; what is kept already is not done again."""
    results = Memory("merging-map")
    with opened(name) as zoo:
        made: list[Surrogate] = []

        def fitted() -> Surrogate:
            if not made:
                made.append(fit(families.load(name).train)[0])
            return made[0]

        for seed in range(seeds):
            for chooser in CHOOSERS:
                started = time.monotonic()
                work: Callable[[], object] = lambda c=chooser, s=seed: merge(zoo, fitted(), c, s)  # noqa: E731
                results(f"{name}/{chooser}/{seed}", work)
                print(f"{name} {chooser} {seed}: {time.monotonic() - started:.1f} s", file=sys.stderr)


def table(seeds: int) -> None:
    """Print what each chooser gained, and how right map and process were of merges that chance chose."""
    results = Memory("merging-map").known
    names = [n for n in OBJECTIVES if f"{n}/{CHOOSERS[-1]}/{seeds - 1}" in results]
    print(f"gain of the front's hypervolume by who chooses, {BUDGET} evaluations, {CANDIDATES} candidates before each")
    print(f"mean ± standard deviation over {seeds} seeds\n")
    print(f"{'':28}" + "".join(f"{n:>17}" for n in names))
    for chooser in CHOOSERS:
        cells = []
        for n in names:
            gains = [results[f"{n}/{chooser}/{s}"]["gain"] for s in range(seeds)]
            cells.append(f"{np.mean(gains):+.2%} ± {np.std(gains):.2%}")
        print(f"{chooser:28}" + "".join(f"{c:>17}" for c in cells))
    print("\nmean absolute error on merges that chance chose, as a share of that of the parents' weighed values,")
    print("and how many of their 90 % intervals hold")
    for n in names:
        found = [e for s in range(seeds) for e in results[f"{n}/chance/{s}"]["errors"]]
        truth = np.array([e["measured"] for e in found])
        for j, objective in enumerate(OBJECTIVES[n]):
            usual = np.nanmean(np.abs(np.array([e["parents"] for e in found])[:, j] - truth[:, j]))
            cells = []
            for who in ("map", "process"):
                point, low, high = (np.array([e[who][k] for e in found])[:, j] for k in range(3))
                error = np.nanmean(np.abs(point - truth[:, j])) / usual
                cells.append(f"{who} {error:.2f}, {np.mean((truth[:, j] >= low) & (truth[:, j] <= high)):.0%}")
            print(f"{n + ' ' + objective.name:40} {'; '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Who should choose a merge: the map, or the process?")
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="All by default.")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.command == "table":
        title(["benchmarks/merging_map.py", "table", "--seeds", str(options.seeds)])
        table(options.seeds)
        return
    os.chdir(HERE)
    for name in options.families or OBJECTIVES:
        run(name, options.seeds)


if __name__ == "__main__":
    main()
