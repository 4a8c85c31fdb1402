"""What merging LoRA adapters adds to their measured front, beside what needs no model of merges.

    python benchmarks/merging_peers.py [--budget 20] [--seeds 3]

The zoo is the `lora` family of benchmarks/families.py (a development family), made first if it is not there: adapters
of rank 4 and 8 over one base, two losses. Everybody may measure as many merges, each an adapter that peft loads.
Beside `epsopt merge`, which chooses its parents itself, in either way: random merges of the same parents, the uniform
soup of the ends of all runs (Wortsman et al. 2022), and their greedy soup for three weights of the two losses. Minutes
on one core; resumable.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import torch
from family_data import sentences
from held_out import Memory, title
from numpy.typing import NDArray

from epsopt.optimize import Objective, hypervolume
from epsopt.optimize.merge.simplex_merge import merge
from epsopt.optimize.objectives import measured_table
from epsopt.studies.merge.expected_parents import parents_by_gain
from epsopt.studies.merge.simplex_merge import front_parents
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination

OBJECTIVES = (Objective("eval_first_loss", maximize=False), Objective("eval_second_loss", maximize=False))
MAXIMIZE = [False, False]
PARENTS = 3
HERE = Path(__file__).resolve().parent
ZOO = families.OUT / f"lora-{families.SEED}"
Array = NDArray[np.float64]
Measure = Callable[[Sequence[Checkpoint], Sequence[float]], Mapping[str, float | None]]


@lru_cache(maxsize=1)
def _base() -> Any:
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return LlamaForCausalLM.from_pretrained(families.OUT / f"lora-{families.SEED}-base" / "base")


@torch.no_grad()
def evaluate(folder: Path) -> dict[str, float]:
    """The hook: both losses of an adapter, on the sentences that the Trainer judged by."""
    from copy import deepcopy

    from peft import PeftModel

    model = PeftModel.from_pretrained(deepcopy(_base()), folder).eval()
    judged = {"first": sentences(0)[768:], "second": sentences(1)[768:]}
    return {f"eval_{name}_loss": float(model(input_ids=rows, labels=rows).loss) for name, rows in judged.items()}


def ours(parents: Sequence[Checkpoint], measure: Measure, trained: Array, budget: int, seed: int) -> Array:
    """Objectives of what `epsopt merge` measures of these parents."""
    result = merge(
        lambda c: measure(parents, c[0].tolist()), len(parents), OBJECTIVES, known=trained, budget=budget, seed=seed
    )
    return measured_table([e.measured for e in result.evaluations], OBJECTIVES)


def at_random(parents: Sequence[Checkpoint], measure: Measure, budget: int, seed: int) -> Array:
    """Objectives of random merges of these parents."""
    rows = np.random.default_rng(seed).dirichlet(np.ones(len(parents)), size=budget)
    return measured_table([measure(parents, row.tolist()) for row in rows], OBJECTIVES)


def greedy_soup(ends: Sequence[Checkpoint], measure: Measure, budget: int, weight: float) -> Array:
    """Objectives along the greedy soup for one weight of the first loss: the next best end joins if it helps."""
    table = measured_table([c.metrics for c in ends], OBJECTIVES)
    judge = np.array([weight, 1.0 - weight]) / table.std(axis=0)
    order = np.argsort(table @ judge)[:budget]
    soup, best, found = [ends[order[0]]], float(table[order[0]] @ judge), []
    for i in order[1:]:
        tried = [*soup, ends[i]]
        values = measured_table([measure(tried, [1.0 / len(tried)] * len(tried))], OBJECTIVES)
        found.append(values)
        if float(values[0] @ judge) < best:
            soup, best = tried, float(values[0] @ judge)
    return np.vstack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging LoRA adapters, beside soups and random merges.")
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    title(["benchmarks/merging_peers.py", "--budget", str(options.budget), "--seeds", str(options.seeds)])
    torch.set_num_threads(1)
    os.chdir(HERE)  # where the hook is imported from
    families.make("lora")
    memory = Memory("merging-peers-lora")
    with Catalogue(f"sqlite:///{ZOO}.db") as catalogue, WeightDecoder("merging_peers:evaluate") as decoder:
        ingest(catalogue, ZOO, jobs=1)
        checkpoints = catalogue.checkpoints()

        def measure(parents: Sequence[Checkpoint], coefficients: Sequence[float]) -> Mapping[str, float | None]:
            made_of = recombination(parents, [coefficients])

            def now() -> Mapping[str, float | None]:
                decoded = decoder.decode(made_of)
                try:
                    return decoder.measure(decoded)
                finally:
                    decoder.forget(decoded)

            key = [[p.sha256 for p in made_of.parents], np.round(made_of.coefficients[0], 9).tolist()]
            return memory(str(key), now)  # type: ignore[return-value]

        trained = measured_table([c.metrics for c in checkpoints], OBJECTIVES)
        trained = trained[np.isfinite(trained).all(axis=1)]
        reference = trained.max(axis=0)
        before = hypervolume(trained, reference, MAXIMIZE)
        parents = front_parents(checkpoints, OBJECTIVES, PARENTS)
        last = {c.run: c for c in sorted(checkpoints, key=lambda c: (c.run, c.epoch or 0))}
        ends, seeds = list(last.values()), range(options.seeds)
        print(f"{len(trained)} adapters of {len(last)} runs, hypervolume {before:.5f}")
        print("parents: " + ", ".join(f"{p.run}:{p.epoch}" for p in parents))
        print(f"{'':44}{'evaluations':>12}{'gain of the front':>24}")

        def show(name: str, tables: Sequence[Array]) -> None:
            gains = [hypervolume(np.vstack([trained, t]), reference, MAXIMIZE) / before - 1.0 for t in tables]
            spread = f" ± {np.std(gains):.2%}" if len(gains) > 1 else ""
            print(f"{name:44}{max(len(t) for t in tables):12d}{f'{np.mean(gains):+.2%}' + spread:>24}", flush=True)

        b = options.budget
        for n in (PARENTS, 2):
            of_front = parents if n == PARENTS else front_parents(checkpoints, OBJECTIVES, n)
            by_gain, _ = parents_by_gain(decoder, checkpoints, catalogue.lineages(), OBJECTIVES, n)
            name = "epsopt merge" if n == PARENTS else f"epsopt merge -n {n}"
            show(name, [ours(of_front, measure, trained, b, s) for s in seeds])
            show(f"{name} --choose gain", [ours(by_gain, measure, trained, b, s) for s in seeds])
        show("random merges of the same parents", [at_random(parents, measure, b, s) for s in seeds])
        show("greedy soup, three weights", [greedy_soup(ends, measure, b, w) for w in (0.25, 0.5, 0.75)])
        even = [1.0 / len(ends)] * len(ends)
        show("uniform soup", [measured_table([measure(ends, even)], OBJECTIVES)])


if __name__ == "__main__":
    main()
