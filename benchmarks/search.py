"""How long `epsopt search` takes on a catalogue of 1,000 demo checkpoints, start-up included.

    python benchmarks/search.py

Trains 100 real demo runs first (kept in benchmarks/out/; resumable), ingests and fits them, then times the command as
a user would start it, beside a process that only imports what any search with BoTorch and Optuna must import.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

RUNS, SEED = 100, 11
OUT = Path(__file__).resolve().parent / "out"
FOLDER = OUT / "zoo-1000"
STORAGE = f"sqlite:///{FOLDER}.db"
PROJECT = """
[project]
name = "bench"
runs = "zoo-1000"
storage = "{storage}"
[objectives.coverage]
direction = "maximize"
bounds = [0.0, 1.0]
[objectives.dist_corr]
direction = "maximize"
[objectives.rad_hier]
direction = "minimize"
"""
IMPORTS = "import torch, optuna, gpytorch, botorch.models, botorch.optim, botorch.acquisition.multi_objective"


def best(command: list[str], repeats: int = 3) -> float:
    """Least wall-clock seconds of a command; its output is dropped, its failure is not."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=OUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    print("$ python benchmarks/search.py")
    sweep = ["--out", str(FOLDER), "--runs", str(RUNS), "--jobs", "2", "--seed", str(SEED)]
    subprocess.run([sys.executable, "-m", "epsopt.demo.sweep", *sweep], check=True, stderr=subprocess.DEVNULL)
    project = OUT / "search" / "epsopt.toml"
    project.parent.mkdir(exist_ok=True)
    project.write_text(PROJECT.format(storage=STORAGE))
    epsopt = [str(Path(sys.executable).parent / "epsopt")]
    common = ["--project", str(project)]
    subprocess.run([*epsopt, "ingest", *common, str(FOLDER)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*epsopt, "fit", *common], check=True, stdout=subprocess.DEVNULL)
    start_up = best([sys.executable, "-c", IMPORTS])
    print(f"imports alone: {start_up:.1f} s")
    for engine in ("gradient", "botorch", "optuna"):
        took = best([*epsopt, "search", *common, "--target-coverage", "0.95", "--engine", engine, "--no-record"])
        print(f"search --engine {engine}: {took:.1f} s, {took / start_up:.1f} times the imports")
    took = best([*epsopt, "--help"], 5)
    bare = best([sys.executable, "-c", "import click"], 5)
    print(f"epsopt --help: {took:.2f} s, {took / bare:.1f} times 'import click'")


if __name__ == "__main__":
    main()
