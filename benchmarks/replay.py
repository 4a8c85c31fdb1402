"""What choosers predict of the runs that they choose, beside what those runs measure.

    python benchmarks/replay.py [--tables formula formula-apart ternary digits] [--seeds 100] [--known 12 24 48]
                                [--choosers propose budget random] [--count 6]

A chooser is given the first runs of a table, 12, 24 or 48 of them, and chooses six more, which are then measured. The
tables: programs that are trained as they are asked (loop_programs.py); `formula` and `formula-apart`
(replay_tables.py), where it chooses among everything that the space holds, from one base, or each run from weights of
its own; and the zoos `ternary` and `digits` (zoos.py), real runs, where it chooses among those that come later. What
ships is asked: `propose` is the function of `epsopt propose`, which chooses six at once; `budget` is the scheduler of
`epsopt work --budget`, which chooses one after another and learns from each; `init-from` plans as `epsopt init-from`
does, a whole run from each checkpoint of the front, the best of them; `random` draws. Nothing is mixed, and no run is
stopped early.

Interval: share of the last checkpoints within their 90 % interval, all objectives, as it was predicted when the run was
chosen, and the interval's median width as a share of the range between the 5th and 95th percentile of past
checkpoints. Joins: probability that the run joins the front of all that was measured by then, on average, and the
share that did; Brier score, and that of always saying the share, known afterwards. Gain: hypervolume that the chosen
runs were predicted to add, each alone, and what they added, alone as well, both summed and as a share of the front's
hypervolume by then; together: what all six added. The reference point is that of `epsopt work --budget`, from what
was known, the same for all.

Developed on seeds 200 and later of zoos, 0 to 9 of formulas and of the programs `finetune` and `classifier`; reported
are 100 and later, and the programs `encoder` and `tabular`, on which nothing was chosen: stated here before the first
run. Every choice of six is a line of out/replay.jsonl; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from replay_tables import Run, Table, checkpoints, table
from zoos import OUT

from epsopt.optimize.outliers import front_reference
from epsopt.optimize.pareto import hypervolume, joins_front, non_dominated
from epsopt.optimize.proposals.proposals import History, learn_history, propose
from epsopt.optimize.proposals.warm_start import Start as WarmStartFrom
from epsopt.optimize.proposals.warm_start import plan_runs
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.optimize.schedule.scheduler import BRANCH_EPOCHS, Scheduler, SearchState

RESULTS = OUT.parent / "replay.jsonl"
PROBES = 8
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """A run that was chosen, what was predicted of it, and what it measured.

    Attributes:
        kind: of step.
        low: of the 90 % intervals of the objectives' last values; None: nothing was predicted.
        high: their upper ends.
        joins: probability that the run joins the front.
        gain: hypervolume that it was predicted to add; None: the chooser does not say.
        end: measured at its last checkpoint.
        spread: of past checkpoints, 5th to 95th percentile.
        joined: whether it joined the front.
        added: hypervolume that it added to what was measured by then.
        volume: of what was measured by then.
        epochs: that it took.
    """

    kind: str
    low: list[float] | None
    high: list[float] | None
    joins: float | None
    gain: float | None
    end: list[float]
    spread: list[float]
    joined: bool
    added: float
    volume: float
    epochs: float


@dataclass(frozen=True)
class Batch:
    """Six choices.

    Attributes:
        chosen: each.
        together: hypervolume that they added to that of all past runs, as a share of it.
    """

    chosen: list[Chosen]
    together: float


@dataclass(frozen=True)
class Prediction:
    """What a chooser says of a candidate."""

    candidate: Candidate
    kind: str
    low: list[float] | None = None
    high: list[float] | None = None
    joins: float | None = None
    gain: float | None = None


class Books:
    """What was measured so far.

    Args:
        of: the table.
        past: runs to begin with.
    """

    def __init__(self, of: Table, past: Sequence[Run]) -> None:
        self.table, self.runs = of, list(past)
        self.signs = np.array([1.0 if o.maximize else -1.0 for o in of.objectives])
        bounds = np.array([of.bounds.get(o.name, (-np.inf, np.inf)) for o in of.objectives])
        corner = front_reference(self.values * self.signs) * self.signs
        self.reference = corner.clip(bounds[:, 0], bounds[:, 1])
        self._spread = np.diff(np.quantile(self.values, [0.05, 0.95], axis=0), axis=0)[0].tolist()

    @property
    def values(self) -> Floats:
        """``(k, m)`` of every checkpoint."""
        return np.stack([c.values for c in checkpoints(self.runs, self.table.base)])

    @property
    def volume(self) -> float:
        """Hypervolume of every checkpoint."""
        return hypervolume(self.values, self.reference, [o.maximize for o in self.table.objectives])

    def take(self, said: Prediction, *, keep: bool) -> Chosen:
        """Measure a candidate, and keep it among the runs or not."""
        before, known = self.volume, self.values
        run = self.table.measure(said.candidate)
        self.runs.append(run)
        added = self.volume - before
        if not keep:
            self.runs.pop()
        joined = bool(joins_front(run.curve.values[None] * self.signs, known * self.signs)[0])
        end = run.curve.values[-1].tolist()
        return Chosen(
            said.kind, said.low, said.high, said.joins, said.gain, end, self._spread, joined, added, before,
            said.candidate.cost,
        )  # fmt: skip


def at_random(books: Books, count: int, seed: int) -> list[Chosen]:
    """Whole runs."""
    of = books.table
    configs = of.space.sample(count, np.random.default_rng([seed, 1]))
    return _at_once(books, [Prediction(Candidate(c, of.base, of.length), "random") for c in configs])


def by_budget(books: Books, count: int, seed: int) -> list[Chosen]:
    """One after another, as `epsopt work --budget` does where nothing can be mixed."""
    of, out = books.table, []
    scheduler = Scheduler(
        of.space, of.objectives, length=of.length, reference=books.reference, base=of.base,
        branch_epochs=min(BRANCH_EPOCHS, of.length) if of.branches else None, first_runs=PROBES, bounds=of.bounds,
        seed=seed,
    )  # fmt: skip
    for _ in range(count):
        known = SearchState(
            [r.curve for r in books.runs], checkpoints(books.runs, of.base), None, None,
            sum(float(r.curve.steps[-1]) for r in books.runs),
        )  # fmt: skip
        step = scheduler.next(known)
        said = step.expected
        assert step.candidate is not None
        assert said is not None
        names = [o.name for o in of.objectives]
        chosen = books.take(
            Prediction(
                step.candidate, step.kind, [said.low[n] for n in names], [said.high[n] for n in names],
                said.joins_front, step.predicted_gain,
            ),
            keep=True,
        )  # fmt: skip
        scheduler.learn(step, chosen.added)
        out.append(chosen)
    return out


def by_propose(books: Books, count: int, seed: int) -> list[Chosen]:
    """At once, as `epsopt propose` does."""
    of = books.table
    curves = {r.name: r.curve for r in books.runs}
    past = History(of.space, of.objectives, (), curves, (), books.values, of.bounds)
    names = [o.name for o in of.objectives]
    said = [
        Prediction(
            Candidate(p.params, of.base, past.length), "propose", [p.low[n] for n in names],
            [p.high[n] for n in names], p.joins_front, p.gain,
        )
        for p in propose(past, n=count, seed=seed)
    ]  # fmt: skip
    return _at_once(books, said)


def by_init_from(books: Books, count: int, seed: int) -> list[Chosen]:
    """The best plans from checkpoints of the front, as `epsopt init-from` makes them, all from what was known."""
    of = books.table
    if not of.branches:
        return []
    curves = {r.name: r.curve for r in books.runs}
    past = History(of.space, of.objectives, (), curves, (), books.values, of.bounds)
    names = [o.name for o in of.objectives]
    known = checkpoints(books.runs, of.base)
    front = [known[i] for i in non_dominated(books.values, [o.maximize for o in of.objectives]).indices]
    begin = {c.key: c for c in front}
    starts = [
        WarmStartFrom(c.key, dict(zip(names, c.values.tolist(), strict=True)), measured=True,
                      kind="checkpoint" if c.key else "base")
        for c in front
    ]  # fmt: skip
    plans = plan_runs(learn_history(past, seed=seed), starts, epochs=round(of.length), seed=seed)[:count]
    said = [
        Prediction(
            Candidate(p.params, begin[p.start.label], of.length), "init-from", [p.low[n] for n in names],
            [p.high[n] for n in names], p.joins_front, p.gain,
        )
        for p in plans
    ]  # fmt: skip
    return _at_once(books, said)


def _at_once(books: Books, said: Sequence[Prediction]) -> list[Chosen]:
    out = [books.take(p, keep=False) for p in said]
    books.runs += [books.table.measure(p.candidate) for p in said]
    return out


CHOOSERS: Mapping[str, Callable[[Books, int, int], list[Chosen]]] = {
    "propose": by_propose, "budget": by_budget, "init-from": by_init_from, "random": at_random,
}  # fmt: skip


def replay(name: str, seed: int, k: int, chooser: str, count: int) -> Batch:
    """Have a chooser choose so many runs after so many."""
    of = table(name, seed, k)
    books = Books(of, of.past(k))
    before = books.volume
    chosen = CHOOSERS[chooser](books, count, seed)
    return Batch(chosen, books.volume / before - 1.0)


class Results:
    """Batches, a line each.

    Args:
        out: file of lines.
        label: tells variants apart while one is developed.
    """

    def __init__(self, out: Path, label: str) -> None:
        self._out, self._label = out, label
        lines = out.read_text().splitlines() if out.exists() else []
        self._known = {tuple(key): batch for key, batch in map(json.loads, lines)}

    def batch(self, name: str, seed: int, k: int, chooser: str, count: int) -> Batch:
        """Look it up, or have it made."""
        key = (self._label, name, seed, k, chooser, count)
        if key not in self._known:
            self._known[key] = asdict(replay(name, seed, k, chooser, count))
            self._out.parent.mkdir(parents=True, exist_ok=True)
            with self._out.open("a") as file:
                file.write(json.dumps([key, self._known[key]]) + "\n")
            print(" ".join(map(str, key)), file=sys.stderr, flush=True)
        found: dict[str, Any] = self._known[key]
        return Batch([Chosen(**c) for c in found["chosen"]], found["together"])


def row(title: str, batches: Sequence[Batch]) -> str:
    """Give the figures of a chooser."""
    chosen = [c for b in batches for c in b.chosen]
    if not chosen:
        return f"{title:34}    -"
    joined = np.array([c.joined for c in chosen], dtype=np.float64)
    out = f"{title:34}{len(chosen):5}"
    said = [c for c in chosen if c.low is not None]
    if said:
        end, spread = (np.array([getattr(c, n) for c in said]) for n in ("end", "spread"))
        low, high = (np.array([getattr(c, n) for c in said]) for n in ("low", "high"))
        inside = ((low <= end) & (end <= high)).mean(axis=0)
        width = np.median((high - low) / spread, axis=0)
        joins = np.array([c.joins for c in said])
        score = np.square(joins - joined).mean()
        out += " " + " ".join(f"{i:5.0%} ({w:4.2f})" for i, w in zip(inside, width, strict=True))
        out += f"{joins.mean():7.2f}{joined.mean():7.2f}{score:8.3f}{joined.mean() * (1 - joined.mean()):7.3f}"
    else:
        out += f"{'-':>12}{'-':>13}{'-':>7}{joined.mean():7.2f}{'-':>8}{'-':>7}"
    gains = [(c.gain / c.volume, c.added / c.volume) for c in chosen if c.gain is not None]
    added = sum(c.added / c.volume for c in chosen) / len(batches)
    if gains:
        out += f"{sum(g for g, _ in gains) / len(batches):9.1%}{added:8.1%}"
        out += f"{sum(a for _, a in gains) / max(sum(g for g, _ in gains), 1e-12):7.2f}"
    else:
        out += f"{'-':>9}{added:8.1%}{'-':>7}"
    epochs = sum(c.epochs for c in chosen) / len(batches)
    return out + f"{np.mean([b.together for b in batches]):10.1%}{epochs:8.1f}"


HEAD = (
    f"{'chooser, runs known':34}{'runs':>5}{'  inside and width':25}{'joins':>7}{'did':>7}{'Brier':>8}{'base':>7}"
    f"{'gain':>9}{'added':>8}{'ratio':>7}{'together':>10}{'epochs':>8}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=["formula", "formula-apart", "ternary", "digits"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--known", type=int, nargs="+", default=[12, 24, 48])
    parser.add_argument("--choosers", nargs="+", default=list(CHOOSERS))
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--label", default="")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.results, options.label)
    print(f"$ python benchmarks/replay.py {' '.join(sys.argv[1:])}".rstrip())
    for name in options.tables:
        print(f"\n{name}, {len(options.seeds)} seeds\n{HEAD}")
        for chooser in options.choosers:
            batches = {
                k: [results.batch(name, s, k, chooser, options.count) for s in options.seeds] for k in options.known
            }
            for k, mine in batches.items():
                print(row(f"{chooser}, {k}", mine), flush=True)
            print(row(f"{chooser}, all", [b for mine in batches.values() for b in mine]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
