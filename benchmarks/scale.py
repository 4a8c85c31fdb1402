"""What size costs: memory and processor time of the commands on catalogues of 1,000 to 100,000 checkpoints.

    python benchmarks/scale.py --source sqlite:///ZOO.db [--sizes 1000x18 10000x18 1000x300] [--commands fit search]
    python benchmarks/scale.py --table

ZOO.db is any catalogue of real runs (`epsopt demo` or `benchmarks/families.py make` leave one); `scale_catalogue.py`
says how catalogues are made of it. Each piece (a catalogue, and each command on it) is kept under the folder `--out`
and not made again, so that a second call goes on where the first stopped; `--again` repeats the commands that are
named. Figures are processor seconds of a command's processes together, start-up included, and the peak memory of the
largest of them; of long commands also seconds waited, which depend on what else the machine does. The exponent says
how a figure grows between two catalogues: 1 is in proportion to the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scale_catalogue import RealZoo, add_run, make, real_zoo

COMMANDS = {
    "fit": "fit --from-scratch",
    "refine": "fit",  # after one more run came
    "search": "search",
    "propose": "propose --count 4",
    "pareto": "pareto",
    "runs": "runs",
    "nearest": "nearest run_000007",
    "report": "report",
    "ingest": "ingest new",
}
LONG = ("fit", "refine", "search", "propose")
"""Commands that several processes may work at: of these it is said how long a person waits."""
SIZES = ("1000x18", "10000x18", "1000x300")
_CALL = "import sys; from epsopt.cli.main import main; sys.argv[0] = 'epsopt'; main()"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="database of real runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "scale")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="CHECKPOINTSxTENSORS")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--label", default="now", help="name of this code's figures")
    parser.add_argument("--limit", type=float, default=20.0, metavar="GB", help="memory that a process may take")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        zoo: RealZoo | None = None
        for size in given.sizes:
            n, tensors = map(int, size.split("x"))
            folder = given.out / size
            if not (folder / "epsopt.db").exists():
                folder.mkdir(exist_ok=True)
                zoo = zoo or real_zoo(given.source)
                begun = time.process_time()
                make(folder / "epsopt.db", zoo, n, tensors)
                _project(folder, zoo)
                print(f"{size}: made in {time.process_time() - begun:.0f} s", flush=True)
            for command in given.commands:
                _piece(given.out, given.label, size, command, given.limit, again=given.again)
    print_table(given.out)
    return 0


def _project(folder: Path, zoo: RealZoo) -> None:
    """Write a project file, and a run that was not read yet."""
    objectives = "\n".join(f'[objectives."{n}"]\ndirection = "maximize"' for n in zoo.metric_names[:2])
    (folder / "epsopt.toml").write_text(
        f'[project]\nname = "scale"\nruns = "new"\nstorage = "sqlite:///epsopt.db"\n\n{objectives}\n'
    )
    run = folder / "new" / "run_new"
    run.mkdir(parents=True, exist_ok=True)
    for epoch in range(5):
        weights = {f"{i}.weight": torch.randn(32, 32) for i in range(18)}
        metrics = dict.fromkeys(zoo.metric_names, 0.5)
        torch.save(
            {"model_state_dict": weights, "epoch": epoch, "metrics": metrics, "config": {"lr": 0.01}},
            run / f"epoch_{epoch:03d}.pt",
        )


def _piece(out: Path, label: str, size: str, command: str, limit: float, *, again: bool) -> None:
    kept = out / f"{label}.jsonl"
    known = _known(kept)
    if (size, command) in known and not again:
        return
    folder = out / size
    if command in {"ingest", "refine"}:  # into a copy
        copy = out / f"{size}-copy"
        folder = Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
    if command == "refine":
        add_run(folder / "epsopt.db")
    figures = measure(COMMANDS[command].split(), folder, limit)
    if folder != out / size:
        shutil.rmtree(folder)
    if command == "fit":
        figures["database"] = (folder / "epsopt.db").stat().st_size
    with kept.open("a") as file:
        file.write(json.dumps({"size": size, "command": command, **figures}) + "\n")
    print(f"{label} {size} {command}: {_cell(figures)}", flush=True)


def measure(words: list[str], folder: Path, limit: float) -> dict[str, Any]:
    """Run a command; return processor seconds, seconds waited, its largest process' peak in bytes, and exit status."""
    held = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, (int({limit * 1e9}),) * 2); "
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    begun = time.monotonic()
    with (folder / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", held + _CALL, *words], cwd=folder, env=environment, stdout=said,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
    seconds, waited = used.ru_utime + used.ru_stime, time.monotonic() - begun
    status = os.waitstatus_to_exitcode(status)
    return {"seconds": seconds, "waited": waited, "peak": used.ru_maxrss * 1024, "status": status}


def _known(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {(d["size"], d["command"]): d for d in map(json.loads, lines)}


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    if figures["status"]:
        return f"ended with {figures['status']}"
    return f"{figures['seconds']:.1f} s {figures['peak'] / 1e9:.2f} GB"


def print_table(out: Path) -> None:
    """Print what was measured, and how it grows from the smallest to the largest catalogue of as many tensors."""
    for file in sorted(out.glob("*.jsonl")):
        known = _known(file)
        sizes = sorted({s for s, _ in known}, key=lambda s: [int(x) for x in reversed(s.split("x"))])
        print(f"\n{file.stem}: processor seconds and peak memory\n")
        print(f"{'command':<10}" + "".join(f"{s:>20}" for s in sizes) + "   exponents (s, GB), by tensors")
        for command in COMMANDS:
            row = [known.get((s, command)) for s in sizes]
            if any(row):
                print(f"{command:<10}" + "".join(f"{_cell(f):>20}" for f in row) + f"   {_growth(sizes, row)}")
        for command in COMMANDS:
            waits = [f"{s} {f['waited']:.0f}" for s in sizes if (f := known.get((s, command))) and "waited" in f]
            if command in LONG and waits:
                print(f"seconds waited for {command}, {os.cpu_count()} processors: {', '.join(waits)}")
        databases = {s: f["database"] for (s, _), f in known.items() if "database" in f}
        if databases:
            print("bytes a checkpoint in the database: " + ", ".join(
                f"{databases[s] / int(s.split('x')[0]):,.0f} ({s})" for s in sizes if s in databases))  # fmt: skip


def _growth(sizes: list[str], row: list[dict[str, Any] | None]) -> str:
    cells = []
    for tensors in dict.fromkeys(s.split("x")[1] for s in sizes):
        some = [(int(s.split("x")[0]), f) for s, f in zip(sizes, row, strict=True)
                if s.split("x")[1] == tensors and f is not None and not f["status"]]  # fmt: skip
        if len(some) > 1:
            (few, first), (many, last) = some[0], some[-1]
            by = math.log(many / few)
            cells.append(f"{tensors}: " + ", ".join(
                f"{math.log(last[key] / first[key]) / by:.2f}" for key in ("seconds", "peak")))  # fmt: skip
    return "  ".join(cells)


if __name__ == "__main__":
    raise SystemExit(main())
