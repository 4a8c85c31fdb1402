"""Epochs to a front: real training runs, hypervolume against training epochs spent, ours beside the peers.

    python benchmarks/loop.py run --methods epsopt gp --seeds 200 201 [--workload ternary] [--epochs 200] [--zoo]
    python benchmarks/loop.py table [--seeds 400 ... 409] [--workload ternary] [--epochs 200] [--zoo]
    python benchmarks/loop.py price [--workload ternary]

Every checkpoint of every run counts for the front of every method, and every epoch trained is paid for, those of runs
that were stopped or that started from a checkpoint included. With --zoo all methods begin with the same 24 random runs,
which cost nothing. What a method did with a seed is one line of results/loop.jsonl; what is there is not run again.
A table of fewer epochs is made of the lines of more as well. Seeds 400 to 409 report, and nothing was chosen on them;
200 to 399 are for development. On 100 to 109, which reported before, earlier policies had been run.

ternary      runs of the demo's program (10 epochs each, from one base), maximising coverage and dist_corr. The space is
             wide: the demo's twelve hyperparameters in ranges of somebody who does not know the program, so that few
             random runs are any good. The base is the hypervolume's reference: coverage 0, and the dist_corr that it
             begins with
digits       small classifiers of digits.py (10 epochs each, from weights of their own), maximising accuracy under pixel
             noise, minimising the logarithm of their size. The architecture is searched too, and a run that starts from
             a checkpoint keeps it. Reference: chance, and the largest network of the space

random       configurations drawn at random
tpe, nsga2   Optuna's samplers, conditional parameters as a define-by-run script asks for them
gp           Optuna's GPSampler, inactive conditional parameters masked (set to one value); without, see gp-unmasked
nehvi        BoTorch's qLogNEHVI over masked hyperparameters and final values
-few         gp and nehvi after five random runs instead of ten, which is what Optuna's samplers and nehvi begin with
epsopt       whole curves; a few runs to look around first; what an epoch is worth decides which run goes on, and
             whether the next one starts from the base or from a checkpoint of the front; between runs, merges of
             checkpoints that share a base are measured, each paid for with what measuring costs (`price`); -branch:
             always from the base; -stop: every run to its end; -mix: no merges; -ahead: the next step is chosen
             before the last epoch of a run is known, as by a worker that may not wait
epsopt-sampler
             EpsilonSampler in a plain Optuna script, driven by ask and tell as tpe is: last values of whole runs from
             the base, no curves, no stopping, no merges
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from loop_ours import OURS
from loop_peers import PEERS
from loop_table import charged, cut, read, table, volumes
from loop_trainer import EARLIER, Method, Trainer
from loop_workloads import WORKLOADS, Workload

from epsopt.demo.finetune import DivergedError

RESULTS = Path(__file__).resolve().parent / "results" / "loop.jsonl"
REPORTED = range(400, 410)
METHODS: Mapping[str, Method] = {**PEERS, **OURS}


def run(workload: Workload, methods: Sequence[str], seeds: Sequence[int], epochs: int, out: Path, *, zoo: bool) -> None:
    """Run what is not in the results yet, one line each."""
    done = {(r["workload"], r["method"], r["seed"], r["epochs"], r["zoo"]) for r in read(out)}
    for seed in seeds:
        for name in methods:
            if (workload.name, name, seed, epochs, zoo) in done:
                continue
            began = time.perf_counter()
            trainer = Trainer(workload, epochs, seed, zoo=zoo)
            earlier = [row for r in trainer.runs for row in r.values.tolist()]
            METHODS[name](trainer, seed)
            line = {
                "workload": workload.name,
                "method": name,
                "seed": seed,
                "epochs": epochs,
                "zoo": zoo,
                "seconds": round(time.perf_counter() - began, 1),
                "deciding": round(trainer.ledger.seconds, 1),
                "reference": trainer.reference.round(5).tolist(),
                "runs": trainer.ledger.notes,
                "steps": trainer.ledger.steps,
                "earlier": np.round(earlier, 5).tolist(),
                "values": np.round(trainer.ledger.values, 5).tolist(),
                "costs": trainer.ledger.costs,
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} seed {seed}: {volumes(line)[-1]:.4f}, {line['seconds']:.0f} s", flush=True)


def price(workload: Workload, runs: int = 20, epochs: int = 5) -> None:
    """Print what it costs to measure weights without training, in epochs of random runs, which train and measure."""
    shares = []
    for number, config in enumerate(workload.space.sample(runs, np.random.default_rng(0))):
        began, states = time.process_time(), []
        with contextlib.suppress(DivergedError):
            states += [state for _, state in workload.epochs(config, None, epochs, number)]
        if states:
            epoch, began = (time.process_time() - began) / len(states), time.process_time()
            workload.evaluate(states[-1])
            shares.append((time.process_time() - began) / epoch)
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    print(f"$ python benchmarks/loop.py {' '.join(sys.argv[1:])}")
    print(f"{workload.name}: measuring alone costs {middle:.2f} of an epoch, which trains and measures")
    print(f"(processor time, median of {len(shares)} random runs; 80 % of them: {low:.2f} to {high:.2f})")
    print(f"the books charge {workload.evaluation:g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "price"])
    parser.add_argument("--workload", choices=list(WORKLOADS), default="ternary")
    parser.add_argument("--methods", nargs="+", default=["random", "tpe", "nsga2", "gp", "nehvi", "epsopt"],
                        choices=list(METHODS))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=list(REPORTED))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--zoo", action="store_true", help=f"everybody begins with the same {EARLIER} random runs")
    parser.add_argument("--evaluation", type=float,
                        help="in the table, the cost of a merge in epochs, in place of its measured cost")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "run":
        workload = WORKLOADS[options.workload]()
        run(workload, options.methods, options.seeds, options.epochs, options.results, zoo=options.zoo)
    elif options.what == "price":
        price(WORKLOADS[options.workload]())
    else:
        dear = options.evaluation
        found = {
            (r["method"], r["seed"]): cut(r if dear is None else charged(r, dear), options.epochs)
            for r in sorted(read(options.results), key=lambda r: int(r["epochs"]))
            if (r["workload"], r["zoo"]) == (options.workload, options.zoo) and r["epochs"] >= options.epochs
        }
        table(options.workload, options.methods, options.seeds, options.epochs, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
