"""A random sweep: ``python -m epsopt.demo.sweep --out RUNS --runs N --jobs J --seed S``."""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from epsopt.demo.base import BASE_EPOCHS, base_path, ensure_base
from epsopt.demo.errors import DemoError
from epsopt.demo.options import Parser, complain, positive, whole
from epsopt.demo.run import Plan, refuse_foreign, train
from epsopt.demo.space import draw


def plan_runs(out: Path, runs: int, seed: int, epochs: int = 10) -> list[Plan]:
    """The sweep's runs. Each depends on the seed and its own number: a longer sweep extends a shorter one.

    Args:
        out: folder of the runs; the base lies there too.
        runs: how many.
        seed: of the hyperparameters, and with the number of each run of its training.
        epochs: per run.
    """
    return [
        Plan(
            out=out / f"run_{number:03d}",
            init_from=base_path(out),
            hyperparameters=draw(np.random.default_rng([seed, number])),
            epochs=epochs,
            seed=seed * 100_000 + number,
        )
        for number in range(runs)
    ]


def sweep(plans: list[Plan], jobs: int) -> int:
    """Train what is not finished yet in `jobs` processes of one thread each; progress goes to standard error.

    Returns:
        How many runs failed. Each is reported on standard error; a run that diverged keeps its checkpoints.
    """
    for plan in plans:
        refuse_foreign(plan)
    waiting = [plan for plan in plans if not plan.last().exists()]
    started, failed = time.monotonic(), 0
    for done, (plan, outcome) in enumerate(_outcomes(waiting, jobs), start=1):
        if isinstance(outcome, DemoError):
            failed += 1
            text = f"failed: {outcome}"
        else:
            text = " ".join(f"{name} {value:.3f}" for name, value in outcome.items())
        _print_line(f"[{done}/{len(waiting)}] {plan.out.name} {text} ({time.monotonic() - started:.0f} s)")
    return failed


def _outcomes(plans: list[Plan], jobs: int) -> Iterator[tuple[Plan, dict[str, float] | DemoError]]:
    """Each plan with its metrics or its failure, as they finish; a single job needs no process of its own."""
    if jobs == 1 or len(plans) < 2:
        yield from ((plan, _train(plan)) for plan in plans)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(plans)), mp_context=spawn) as pool:
        futures = {pool.submit(_train, plan): plan for plan in plans}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # interrupted: what has not begun is left for the next call
            pool.shutdown(cancel_futures=True)


def _train(plan: Plan) -> dict[str, float] | DemoError:
    torch.set_num_threads(1)
    try:
        return train(plan)
    except DemoError as error:  # one run that diverged is no reason to give up the others
        return error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m epsopt.demo.sweep", description="Train many runs with random hyperparameters.")
    parser.add_argument("--out", type=Path, required=True, metavar="RUNS", help="folder for the runs and their base")
    parser.add_argument("--runs", type=positive, default=40, help="how many runs (default %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, help="processes, one thread each (default %(default)s)")
    parser.add_argument("--seed", type=whole, default=0, help="same seed, same runs (default %(default)s)")
    parser.add_argument("--epochs", type=positive, default=10, help="per run (default %(default)s)")
    parser.add_argument("--base-epochs", type=positive, help=f"of the base (default {BASE_EPOCHS})")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plans = plan_runs(options.out, options.runs, options.seed, options.epochs)
    try:
        ensure_base(base_path(options.out), options.base_epochs, report=_print_line)
        return 1 if sweep(plans, options.jobs) else 0
    except (DemoError, OSError) as error:
        return complain(error)


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
