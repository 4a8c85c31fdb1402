"""Runs from the start that `epsopt init-from` names, against runs from the base: real training, same budget.

    python benchmarks/initialisation.py [--seed 100]

The map knows 48 of the 64 runs of the ternary zoo. Asked for coverage >= .95 and dist_corr >= .85 after ten more
epochs, it names a start with hyperparameters. Trained for real: eight runs of that plan, eight from the base with the
same hyperparameters, eight of the best plan for the base; with --configs, random configurations from both starts too.
All runs of a group differ in their seed (or their configuration) only. A few minutes on one core; resumable.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import HOOK, OUT, Memory, catalogue_of, keep_for_picture, map_without_runs, title
from numpy.typing import NDArray
from zoos import OUT as ZOOS

from epsopt.demo.files import load as load_checkpoint
from epsopt.demo.run import Plan as Training
from epsopt.demo.run import train
from epsopt.demo.space import draw
from epsopt.optimize import Objective, Target
from epsopt.optimize.objectives import measured_table
from epsopt.optimize.pareto import non_dominated
from epsopt.optimize.proposals.warm_start import WarmStart
from epsopt.studies.project.project import Project
from epsopt.studies.worker.rank_warm_starts import rank_warm_starts
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance

OBJECTIVES = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
TARGETS = (Target("coverage", 0.95), Target("dist_corr", 0.85))
EPOCHS, REPEATS = 10, 8
NAMES = ("coverage", "dist_corr", "rad_hier")
Array = NDArray[np.float64]


def trained(memory: Memory, key: str, start: Path, config: Mapping[str, Any], seed: int) -> list[float]:
    """Final metrics of one run; NaN if it diverged."""
    folder = OUT / "runs" / key

    def now() -> list[float]:
        plan = Training(folder, start, config, EPOCHS, seed, save_every=EPOCHS)
        found = load_checkpoint(plan.last())["metrics"] if plan.last().exists() else train(plan)
        return [found[n] for n in NAMES]

    return memory(key, now)


def show(name: str, rows: Array, front: Array) -> None:
    met = ((rows[:, 0] >= TARGETS[0].value) & (rows[:, 1] >= TARGETS[1].value)).sum()
    beaten = (front[None] >= rows[:, None, :2]).all(axis=2).any(axis=1)
    cells = "".join(f"{f'{m:.3f} ± {s:.3f}':>16}" for m, s in zip(rows.mean(axis=0), rows.std(axis=0), strict=True))
    print(f"{name:46}{len(rows):5d}{cells}{met:9d}{(~beaten).sum():14d}")


def head(what: str) -> None:
    print(f"\n{what}\n\n{'':46}{'runs':>5}" + "".join(f"{n:>16}" for n in NAMES) + f"{'targets':>9}{'join front':>14}")


def path_of(plan: WarmStart, mixed: Sequence[Any], decoder: WeightDecoder, seed: int) -> Path:
    """The file to start from; a merge is saved as `epsopt init-from` saves it."""
    if plan.start.checkpoint is not None:
        return Path(plan.start.checkpoint.path)
    file = OUT / f"start-{seed}.pt"
    if not file.exists():
        merge = next(m for s, m in mixed if s is plan.start)
        decoder.save(merge.decoded, file, Provenance("init-from", None, merge.measured, decoder.hook))
    return file


def planned(zoos: Path, seed: int) -> dict[str, Any]:
    """What `epsopt init-from` answers, as JSON values: the best plan, and the best one for the base."""
    with catalogue_of("ternary", seed, zoos) as catalogue, WeightDecoder(HOOK) as decoder:
        surrogate, left_out = map_without_runs(catalogue, f"ternary-{seed}")
        checkpoints = [c for c in catalogue.checkpoints() if c.run_id not in left_out]
        project = Project("ternary", zoos / "epsopt.toml", zoos, "", OBJECTIVES, evaluate=HOOK)
        ranked = rank_warm_starts(
            decoder, catalogue, checkpoints, surrogate, project, [], OBJECTIVES, TARGETS, epochs=EPOCHS
        )
        plans, mixed = ranked.plans, ranked.merged
        from_base = next(p for p in plans if p.start.kind == "base")

        def said(plan: WarmStart) -> dict[str, Any]:
            return {
                "path": str(path_of(plan, mixed, decoder, seed)),
                "label": ("the merge of " if plan.start.kind == "merge" else "") + plan.start.label,
                "metrics": [plan.start.metrics[n] for n in NAMES],
                "measured": plan.start.measured,
                "config": {**plan.fixed, **plan.params},
                "probability": plan.probability,
                **{end: [getattr(plan, end)[n] for n in NAMES] for end in ("point", "low", "high")},
            }

        table = measured_table([c.metrics for c in checkpoints], OBJECTIVES)
        met = (table[:, 0] >= TARGETS[0].value) & (table[:, 1] >= TARGETS[1].value)
        return {
            "guided": said(plans[0]),
            "base": said(from_base),
            "checkpoints": len(checkpoints),
            "runs": len({c.run_id for c in checkpoints}),
            "met": int(met.sum()),
            "front": table[non_dominated(table, [True, True]).indices].tolist(),
            "learned_from": ranked.learned_from,
        }


def describe(plan: Mapping[str, Any]) -> str:
    kind = "measured" if plan["measured"] else "predicted"
    values = ", ".join(f"{n} {v:.3f}" for n, v in zip(NAMES, plan["metrics"], strict=True))
    return f"{plan['label']} ({kind}: {values}); P(targets) {plan['probability']:.2f}"


def judge(plan: Mapping[str, Any], rows: Array) -> None:
    for j, n in enumerate(NAMES):
        point, low, high = (plan[end][j] for end in ("point", "low", "high"))
        inside = ((low <= rows[:, j]) & (rows[:, j] <= high)).sum()
        print(
            f"  {n:12} forecast {point:.3f} [{low:.3f}, {high:.3f}], "
            f"measured {rows[:, j].mean():.3f} ± {rows[:, j].std():.3f}, {inside} of {len(rows)} inside"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Guided initialisation, trained for real.")
    parser.add_argument("--seed", type=int, default=100, help="of the ternary zoo")
    parser.add_argument("--configs", type=int, default=0, help="random configurations from each start")
    parser.add_argument("--zoos", type=Path, default=ZOOS, help="folder of the zoos")
    options = parser.parse_args()
    title(["benchmarks/initialisation.py", "--seed", str(options.seed), "--configs", str(options.configs)])
    torch.set_num_threads(1)
    memory = Memory(f"initialisation-{options.seed}")
    plans = memory("plans", lambda: planned(options.zoos, options.seed))
    guided, from_base, front = plans["guided"], plans["base"], np.array(plans["front"])
    start, base = Path(guided["path"]), Path(from_base["path"])
    print(f"\n{plans['checkpoints']} checkpoints of {plans['runs']} runs, {plans['met']} of them meet both targets.")
    print(f"Predictions rest on the curves of {plans['learned_from']} runs")
    print(f"\nnamed:  {describe(guided)}\nbeside: {describe(from_base)}")

    def repeated(key: str, origin: Path, config: Mapping[str, Any]) -> Array:
        return np.array([trained(memory, f"{key}-{s}", origin, config, 1000 + s) for s in range(REPEATS)])

    head(f"{EPOCHS} epochs from each start, runs that differ in their seed (mean ± standard deviation at the end)")
    named = repeated("guided", start, guided["config"])
    show("the plan that init-from names", named, front)
    same = repeated("base-same", base, guided["config"])
    show("the base, same hyperparameters", same, front)
    of_base = repeated("base-own", base, from_base["config"])
    show("the base, the best plan for it", of_base, front)
    configs = [draw(np.random.default_rng([options.seed, 77, i])) for i in range(options.configs)]
    both = []
    if configs:
        head(f"{EPOCHS} epochs of {len(configs)} random configurations, the same from both")
        for name, key, origin in (("the start that init-from names", "r-guided", start), ("the base", "r-base", base)):
            both.append(np.array([trained(memory, f"{key}-{i}", origin, c, 2000 + i) for i, c in enumerate(configs)]))
            show(name, both[-1], front)
    keep_for_picture(
        "initialisation",
        {
            "front": front.tolist(), "targets": [t.value for t in TARGETS], "start": guided["metrics"],
            "base": from_base["metrics"], "named": named.tolist(), "same": same.tolist(), "of_base": of_base.tolist(),
            "random": [rows.tolist() for rows in both],
        },
    )  # fmt: skip
    print("\nwhat was forecast, and what came of it\nthe plan that init-from names")
    judge(guided, named)
    print("the base, the best plan for it")
    judge(from_base, of_base)
    print("\nThe start has been trained before: from the base, a run has that many epochs fewer behind it.")


if __name__ == "__main__":
    main()
