"""Tables of the loop's benchmark, from the lines of its results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from loop_workloads import WORKLOADS, Floats

from epsopt.optimize.pareto import hypervolume, non_dominated

Line = Mapping[str, Any]
SHARES = (0.95, 0.99, 1.0)  # of a peer's final hypervolume


def cut(line: Line, epochs: int) -> dict[str, Any]:
    """What it had done when so many epochs were paid for: no method knows how many it will have."""
    kept = int((spent(line) <= epochs + 1e-9).sum())
    runs, rows = [], 0
    for note in line["runs"]:
        rows += note[0] + note[3]
        runs += [note] if rows <= kept else []
    costs = line.get("costs")
    return {**line, "epochs": epochs, "values": line["values"][:kept], "costs": costs and costs[:kept], "runs": runs}


def charged(line: Line, evaluation: float) -> dict[str, Any]:
    """The same line, had measuring without training cost so many epochs."""
    return {**line, "costs": [1.0 if cost == 1.0 else evaluation for cost in line.get("costs") or []]}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a results file, if there is one; those of before there were workloads are of the ternary."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield {"workload": "ternary", **json.loads(line)}


def spent(line: Line) -> Floats:
    """Epochs paid for, after each measurement; an epoch each in lines of before costs were kept."""
    return np.cumsum(line.get("costs") or np.ones(len(line["values"])))


def volumes(line: Line) -> Floats:
    """Hypervolume after each epoch that was paid for."""
    directions = [o.maximize for o in WORKLOADS[line["workload"]].objectives]
    earlier, reference = line["earlier"], np.array(line["reference"])
    table = np.array([*earlier, *line["values"]])
    front = table[:0]
    out = []
    for row in range(len(table)):
        front = np.vstack([front, table[row]])
        front = front[non_dominated(front, directions).indices]
        out.append(hypervolume(front, reference, directions))
    # What a measurement costs is paid before it counts.
    places = np.searchsorted(spent(line), np.arange(1, line["epochs"] + 1) + 1e-9) - 1
    return np.array([0.0, *out])[places + len(earlier) + 1]


def table(
    workload: str, methods: Sequence[str], seeds: Sequence[int], epochs: int, found: Mapping[tuple[str, int], Line]
) -> None:
    """Print hypervolume by epochs, how many epochs the best peer takes for each one of ours, and epochs to a target."""
    complete = [s for s in seeds if all((m, s) in found for m in methods)]
    print(f"$ python benchmarks/loop.py {' '.join(sys.argv[1:])}")
    names = " and ".join(o.name for o in WORKLOADS[workload].objectives)
    print(f"\nhypervolume of {names}, mean of {len(complete)} seeds: {' '.join(map(str, complete))}")
    if not complete:
        return
    looks = list(range(epochs // 8, epochs + 1, epochs // 8))
    print(f"{'epochs paid for':16}" + "".join(f"{e:>8}" for e in looks) + "   deciding")
    curves = {m: np.stack([volumes(found[m, s]) for s in complete]) for m in methods}
    for name in methods:
        mean = "".join(f"{curves[name][:, e - 1].mean():8.3f}" for e in looks)
        deciding = np.mean([found[name, s]["deciding"] for s in complete])
        print(f"{name:16}{mean}{deciding:9.0f} s")
    peers = [m for m in methods if not m.startswith("epsopt")]
    if peers:
        best = max(peers, key=lambda m: float(curves[m][:, -1].mean()))
        print(f"\nepochs that {best} takes to a share of its own final hypervolume / epochs to the same hypervolume")
        print(f"{'':16}{'share':>7}{'median':>8}{'of means':>10}   by seed (- not reached within {epochs})")
        for name in (m for m in methods if m.startswith("epsopt")):
            for share in SHARES:
                ratios, of_means = _ratios(curves[best], curves[name], share)
                shown = "".join("     -" if r == 0 else f"{r:6.2f}" for r in ratios)
                means = f"{of_means:10.2f}" if of_means else f"{'-':>10}"
                print(f"{name:16}{share:7.0%}{np.median(ratios):8.2f}{means}   {shown}")
        if "epsopt" in methods:
            _peers_table(curves, peers, epochs)
    for name in methods:
        if any(found[name, s].get("steps") for s in complete):
            _decisions_table(name, [found[name, s] for s in complete])
    if "random" in methods:
        _target_table(workload, methods, [[found[m, s] for s in complete] for m in methods], epochs)


def _decisions_table(name: str, lines: Sequence[Line]) -> None:
    """Print what steps were predicted to add when they were chosen, beside what they added."""
    print(f"\n{name}, when a step was chosen, and what came of it")
    print(f"{'kind':12}{'steps':>7}{'predicted gain':>16}{'realized':>10}{'ratio':>7}{'inside 90 %':>16}{'joins':>8}"
          f"{'joined':>8}{'Brier':>8}{'base':>7}")  # fmt: skip
    steps = [{**s, "seed": line["seed"]} for line in lines for s in line.get("steps") or ()]
    for kind in [*sorted({s["kind"] for s in steps}), "all"]:
        mine = [s for s in steps if kind in (s["kind"], "all")]
        # Of what was stopped early, its share was predicted.
        due = [s["predicted"] / s["volume"] * min(s["taken"] / s["cost"], 1.0) for s in mine if s["volume"] > 0.0]
        came = [s["realized"] / s["volume"] for s in mine if s["volume"] > 0.0]
        row = f"{kind:12}{len(mine):7}{sum(due):16.1%}{sum(came):10.1%}{sum(came) / max(sum(due), 1e-12):7.2f}"
        ends = [s for s in mine if "end" in s]
        if ends:
            low, high, end = (np.array([s[key] for s in ends]) for key in ("low", "high", "end"))
            row += "".join(f"{share:8.0%}" for share in ((low <= end) & (end <= high)).mean(axis=0))
        said = [s for s in mine if "joins" in s]
        if said:
            joins, joined = (np.array([float(s[key]) for s in said]) for key in ("joins", "joined"))
            row += f"{joins.mean():8.2f}{joined.mean():8.2f}{np.square(joins - joined).mean():8.3f}"
            row += f"{joined.mean() * (1 - joined.mean()):7.3f}"
        print(row)
    print("gains are sums of shares of the hypervolume by then, over all seeds")


def _peers_table(curves: Mapping[str, Floats], peers: Sequence[str], epochs: int) -> None:
    """Print the same for each peer: epochs to shares of what it has itself in the end / our epochs to as much."""
    ours = curves["epsopt"]
    print(f"\nthe same for each peer and its own final hypervolume: median, of means (- not reached within {epochs})")
    print(f"{'':16}{'final':>7}" + "".join(f"{share:>16.0%}" for share in SHARES))
    for peer in peers:
        cells = ""
        for share in SHARES:
            ratios, of_means = _ratios(curves[peer], ours, share)
            cells += "".join(f"{r:8.2f}" if r else f"{'-':>8}" for r in (float(np.median(ratios)), of_means))
        print(f"{peer:16}{curves[peer][:, -1].mean():7.3f}{cells}")


def _ratios(peer: Floats, ours: Floats, share: float) -> tuple[list[float], float]:
    """Of ``(seeds, epochs)``: of each seed, and of the means over seeds; 0 where ours never gets there."""
    by_seed = [_ratio(a, b, share) for a, b in zip(peer, ours, strict=True)]
    return by_seed, _ratio(peer.mean(axis=0), ours.mean(axis=0), share)


def _ratio(peer: Floats, ours: Floats, share: float) -> float:
    """0 if ours never gets there."""
    goal = share * peer[-1] - 1e-12
    reached = np.flatnonzero(ours >= goal)
    return float((np.flatnonzero(peer >= goal)[0] + 1) / (reached[0] + 1)) if len(reached) else 0.0


def _target_table(workload: str, methods: Sequence[str], lines: Sequence[Sequence[Line]], epochs: int) -> None:
    """Epochs to enough of the first objective and so much of the second, beside it, as few random runs reach."""
    about = WORKLOADS[workload]
    first, second = about.objectives
    signs = np.array([1.0 if o.maximize else -1.0 for o in about.objectives])
    enough = signs[0] * about.enough

    def gains(rows: Sequence[Sequence[float]]) -> list[list[float]]:
        return [(signs * row).tolist() for row in np.asarray(rows)]

    best = [
        max((b for a, b in gains(run) if a >= enough), default=signs[1] * about.failed[1])
        for line in lines[methods.index("random")]
        for run in _runs(line)
    ]
    level = float(np.quantile(best, 0.95, method="higher"))
    asked = f"{first.name} {'>=' if first.maximize else '<='} {about.enough} and {second.name} "
    asked += f"{'>' if second.maximize else '<'} {signs[1] * level:.3f}"
    print(f"\nepochs to {asked}: 5 % of {len(best)} random runs get beyond")
    print(f"{'':16}{'median':>8}   by seed (- not reached within {epochs})")
    for name, of_method in zip(methods, lines, strict=True):
        taken = []
        for line in of_method:
            paid = zip(spent(line), gains(line["values"]), strict=True)
            there = [epochs for epochs, (a, b) in paid if a >= enough and b > level]
            taken.append(there[0] if there else math.inf)
        shown = "".join("     -" if math.isinf(t) else f"{t:6.0f}" for t in taken)
        middle = float(np.median(taken))
        print(f"{name:16}{'-' if math.isinf(middle) else f'{middle:.0f}':>8}   {shown}")


def _runs(line: Line) -> Iterator[list[list[float]]]:
    """The rows of each run."""
    rows = iter(line["values"])
    for epochs, _, _, diverged in line["runs"]:
        yield list(islice(rows, epochs + diverged))
