"""Whether Optuna's gRPC storage proxy in front of PostgreSQL helps eight workers: asks and tells a second, beside none.

    python benchmarks/grpc_proxy.py [--workers 8] [--seconds 20] [--repeats 3]

Every process asks and tells trials with two parameters and two values as fast as it can, on a study that holds
``--trials`` before; by random search, which writes alone, and by TPE, which also reads what others wrote. ``claims``
is what ``epsopt work`` does instead, on PostgreSQL itself: claim a queued proposal and finish it, a transaction each.
In turn, so that whatever else the machine does weighs on all; resumable: what was measured is in ``OUT/grpc.jsonl``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import psutil
from faults import OBJECTIVES, SPACE, databases, proposal
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, run_grpc_proxy_server
from optuna.trial import TrialState

from epsopt.studies import open_storage, record_proposals
from epsopt.studies.optuna_io.distributions import distribution_of
from epsopt.studies.optuna_io.trial_leases import Claim, claim, finish

OUT = Path(__file__).parent / "out"
STUDY = "throughput"
SAMPLERS = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
WAYS = [(sampler, way) for sampler in SAMPLERS for way in ("postgresql", "grpc")] + [("claims", "postgresql")]
CONTEXT = multiprocessing.get_context("forkserver")  # which imports this file once


def storage_at(way: str, url: str, port: int) -> BaseStorage:
    return GrpcStorageProxy(host="127.0.0.1", port=port) if way == "grpc" else RDBStorage(url)


def serve(url: str, port: int) -> None:
    """Be the proxy."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    run_grpc_proxy_server(RDBStorage(url), host="127.0.0.1", port=port)


def ask_and_tell(
    way: str, sampler: str, url: str, port: int, seconds: float, place: int, barrier: Any, out: Any
) -> None:
    """Ask and tell for some seconds from when everybody is ready; put how often, and what it cost."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.load_study(
        study_name=STUDY, storage=storage_at(way, url, port), sampler=SAMPLERS[sampler](seed=place)
    )
    barrier.wait()
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        trial = study.ask()
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        study.tell(trial, [x + y, x - y])
        n += 1
    out.put((n, time.process_time()))


def claim_and_finish(url: str, seconds: float, place: int, barrier: Any, out: Any) -> None:
    """Do with epsopt's own transactions what asking and telling does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name("faults/proposals")
    distributions = {p.name: distribution_of(p) for p in SPACE.parameters}
    barrier.wait()
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        held = claim(storage, study_id, f"worker:{place}", distributions, lambda _: None)
        if not isinstance(held, Claim):
            raise SystemExit("the queue is empty: queue more")
        finish(storage, held.trial_id, TrialState.COMPLETE, [0.5, 0.5], {})
        n += 1
    out.put((n, time.process_time()))


@contextlib.contextmanager
def proxy(way: str, url: str, port: int) -> Iterator[list[int]]:
    """Run the proxy while the block runs, where it is asked for; give its process."""
    if way != "grpc":
        yield []
        return
    server = CONTEXT.Process(target=serve, args=(url, port), daemon=True)
    server.start()
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.1)
    try:
        yield [server.pid or 0]
    finally:
        server.kill()
        server.join()


def fill(url: str, trials: int) -> None:
    """Make the study, with trials in it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=STUDY, storage=RDBStorage(url), directions=["maximize", "minimize"])
    uniform = optuna.distributions.FloatDistribution(0.0, 1.0)
    study.add_trials(
        optuna.create_trial(
            params={"x": i / trials, "y": 1 - i / trials},
            distributions={"x": uniform, "y": uniform},
            values=[i / trials, 1 - i / trials],
        )
        for i in range(trials)
    )


def queued(url: str, n: int) -> None:
    configs = [{"lr": i / n, "seconds": 0.0} for i in range(n)]
    record_proposals(open_storage(url), "faults", OBJECTIVES, SPACE, [proposal(c) for c in configs])


def measure(sampler: str, way: str, url: str, options: argparse.Namespace) -> dict[str, float]:
    """Have all workers ask and tell at once; return the trials a second, and processor seconds a thousand trials."""
    port = _free_port()
    barrier, out = CONTEXT.Barrier(options.workers + 1), CONTEXT.Queue()
    postmaster = int((options.out / "postgresql" / "postmaster.pid").read_text(encoding="ascii").split()[0])
    with proxy(way, url, port) as proxies:
        servers = [postmaster, *proxies]
        common = (options.seconds,)
        workers = [
            CONTEXT.Process(target=claim_and_finish, args=(url, *common, i, barrier, out))
            if sampler == "claims"
            else CONTEXT.Process(target=ask_and_tell, args=(way, sampler, url, port, *common, i, barrier, out))
            for i in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        barrier.wait(timeout=300)
        began, cost = time.monotonic(), spent(servers)
        found = [out.get(timeout=300) for _ in workers]
        seconds, cost = time.monotonic() - began, spent(servers) - cost
        for worker in workers:
            worker.join(timeout=60)
    n = sum(f[0] for f in found)
    return {"trials": n, "a second": n / seconds, "server seconds": 1000 * cost / n}


def spent(servers: Sequence[int]) -> float:
    """Processor seconds of servers so far, their processes that have ended included."""
    total = 0.0
    for server in map(psutil.Process, servers):
        times = server.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
        for child in server.children():
            with contextlib.suppress(psutil.Error):
                total += child.cpu_times().user + child.cpu_times().system
    return total


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what was not measured yet."""
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "grpc.jsonl"
    done = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    left = [
        (i, sampler, way)
        for i in range(options.repeats)
        for sampler, way in WAYS
        if not any((d["repeat"], d["sampler"], d["way"]) == (i, sampler, way) for d in done)
    ]
    if left:
        with databases("postgresql", options.out) as make:
            for i, sampler, way in left:
                url = make(f"{sampler}_{way}_{i}", options.out)
                if sampler == "claims":
                    queued(url, options.queue)
                else:
                    fill(url, options.trials)
                found = {"repeat": i, "sampler": sampler, "way": way, **measure(sampler, way, url, options)}
                done.append(found)
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    return done


def table(done: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print medians."""
    print(f"{options.workers} processes, each for {options.seconds:g} s, on a study of {options.trials} trials:")
    print(f"{'':22}{'trials a second':>18}{'lowest':>9}{'highest':>9}{'server s / 1,000':>18}")
    for sampler, way in WAYS:
        mine = [d for d in done if (d["sampler"], d["way"]) == (sampler, way)]
        rates = [d["a second"] for d in mine]
        cost = median(d["server seconds"] for d in mine)
        name = "epsopt's claims" if sampler == "claims" else f"{sampler}, {way}"
        print(f"{name:22}{median(rates):18.1f}{min(rates):9.1f}{max(rates):9.1f}{cost:18.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--queue", type=int, default=20_000, help="proposals that are queued for the claims")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT / "grpc")
    options = parser.parse_args()
    table(run(options), options)


if __name__ == "__main__":
    main()
