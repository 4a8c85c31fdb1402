"""What two ingests at once, kill -9 and half-written files do to a catalogue: nothing.

    python benchmarks/crash.py [--points 50] [--repeats 20] [--files 300] [--out FOLDER]

Four trials, each repeated at seeded random moments; what is done is kept in FOLDER, so that a second call goes on where
the first stopped. Every catalogue is compared with one that was made undisturbed: files, contents, metrics,
fingerprints, lineages, failures, and the fitted map byte by byte. Exit status 1 if a single one differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import Failure
from epsopt.zoo.ingestion.ingest import ingest

INGEST = """
import sys
from pathlib import Path
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest
print("ready", flush=True)
with Catalogue(sys.argv[1]) as catalogue:
    ingest(catalogue, Path(sys.argv[2]), jobs=1)
"""

WRITER = """
import sys, time
from pathlib import Path
data = Path(sys.argv[1]).read_bytes()
for name in sys.argv[2:]:
    with open(name, "wb", buffering=0) as file:
        for start in range(0, len(data), 200):
            file.write(data[start : start + 200])
            time.sleep(0.005)
    print(name, flush=True)
"""


FITTED = 100  # checkpoints that the killed fits learn from
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["torch", "torch._dynamo", "epsopt.studies.surrogate_store", "epsopt.surrogate.cross_validation"]
)


def fit(url: str, said: Connection) -> None:
    """Fit a map in a process of its own; say when it begins, and when the map is about to be kept.

    A short training in one process, without the LightGBM baseline: what is tried here is the keeping, not the map.
    """
    from epsopt.studies.surrogate_store import fit_map
    from epsopt.surrogate import TrainingConfig, cross_validation, relevance
    from epsopt.surrogate.baselines import median_baseline

    torch.set_num_threads(1)
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    relevance.STEPS = 4
    cross_validation.statistics_baseline = lambda inside, outside, **_: median_baseline(inside, outside)
    with Catalogue(url) as catalogue:
        keep = catalogue.put_artifact

        def kept(*arguments: Any) -> None:
            said.send("keeping")
            keep(*arguments)

        catalogue.put_artifact = kept  # type: ignore[method-assign]
        said.send("ready")
        fit_map(catalogue, recipe=TrainingConfig(steps=30, batch=16))


def start_fit(url: str) -> tuple[ForkServerProcess, Connection]:
    """Start to fit; return when it is ready."""
    ours, theirs = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=fit, args=(url, theirs))
    process.start()
    theirs.close()
    ours.recv()
    return process, ours


def finish_fit(url: str) -> float:
    """Fit to the end; return the seconds from its being ready."""
    process, _ = start_fit(url)
    began = time.monotonic()
    process.join()
    if process.exitcode:
        raise SystemExit(f"an undisturbed fit ended with {process.exitcode}")
    return time.monotonic() - began


def start(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    # A session of its own: what a killed fit leaves behind (joblib's workers) must not hold our pipes open.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(program: str, *arguments: str | Path) -> float:
    """Run a program to its end; return the seconds from its being ready."""
    process = start(program, *arguments)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"an undisturbed run failed: {errors}")
    return time.monotonic() - began


def kill(process: subprocess.Popen[str]) -> str:
    """Kill the program itself, as a batch system does, and then sweep up its children; return what it had printed."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def make(folder: Path, files: int) -> None:
    """Write small checkpoints of two bases, with an alias and a broken file among them."""
    if folder.is_dir():
        return
    draft = folder.with_name(folder.name + ".draft")
    for i in range(files - 2):
        g = torch.Generator().manual_seed(i)
        base = torch.Generator().manual_seed(10**6 + i // 10 % 2)
        sizes = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (8, 32), "b.bias": (8,)}
        weights = {n: torch.randn(s, generator=base) + 0.1 * torch.randn(s, generator=g) for n, s in sizes.items()}
        metrics = {"coverage": float(weights["a.weight"].std()), "structure": float(weights["b.weight"].mean())}
        run = draft / f"run_{i // 10:03d}"
        run.mkdir(parents=True, exist_ok=True)
        content = {"model_state_dict": weights, "metrics": metrics, "config": {"lr": 0.1 * (i // 10)}, "epoch": i % 10}
        torch.save(content, run / f"epoch_{i % 10:03d}.pt")
    (draft / "run_000" / "last.pt").write_bytes((draft / "run_000" / "epoch_009.pt").read_bytes())
    (draft / "run_000" / "broken.pt").write_text("no")
    draft.rename(folder)


def digest(url: str) -> str:
    """Hash all that must not depend on who read which file when; ids and times may."""
    with Catalogue(url) as catalogue:
        references = {line.id: line.reference_path for line in catalogue.lineages()}
        checkpoints = catalogue.checkpoints()
        kept = catalogue.fingerprints([c.id for c in checkpoints])
        contents: list[Any] = [
            [(c.path, c.run, c.sha256, c.metrics, c.hyperparameters, references[c.lineage_id]) for c in checkpoints],
            [hashlib.sha256(f.to_bytes()).hexdigest() for f in kept],
            [(f.path, f.reason) for f in catalogue.failures()],
            catalogue.aliases(),
            [(line.signature, line.reference_path, line.declared) for line in catalogue.lineages()],
            [(r.name, r.hyperparameters) for r in catalogue.runs()],
        ]
        found = catalogue.get_artifact("surrogate")
        if found is not None:
            found[1]["validation"].pop("seconds")
            found[1].pop("digest")  # of all that is kept, the seconds too
            contents.append([hashlib.sha256(found[0]).hexdigest(), found[1]])
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


class Trials:
    """The trials of one folder of checkpoints, and what came of those that are done."""

    def __init__(self, out: Path, files: int) -> None:
        self.runs, self.files = out / f"runs-{files}", files
        self.log = out / f"done-{files}.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        make(self.runs, files)
        self.scratch = Path(tempfile.mkdtemp(dir=out))
        self.reference, self.few = self.scratch / "reference.db", self.scratch / "few.db"
        self.expected = self.expected_fit = ""

    def prepare_ingest(self) -> None:
        """Ingest undisturbed, to know the time and the catalogue."""
        if not self.expected:
            self.ingest_seconds = finish(INGEST, self.url(self.reference), self.runs)
            self.expected = digest(self.url(self.reference))

    def prepare_fit(self) -> None:
        """Fit undisturbed, to know the time and the map."""
        if not self.expected_fit:
            with Catalogue(self.url(self.few)) as catalogue:
                ingest(catalogue, sorted(self.runs.glob("run_*"))[: FITTED // 10], jobs=1)
            url = self.copy(self.scratch / "fitted.db")
            self.fit_seconds = finish_fit(url)
            self.expected_fit = digest(url)

    @staticmethod
    def url(file: Path) -> str:
        """Return the URL of a database file."""
        return f"sqlite:///{file}"

    def close(self) -> None:
        """Delete what the trials left behind."""
        for file in self.scratch.rglob("*"):
            if file.is_file():
                file.unlink()
        for folder in sorted(self.scratch.rglob("*"), reverse=True):
            folder.rmdir()
        self.scratch.rmdir()

    def repeat(self, trial: str, times: int, once: Callable[[random.Random, Path], str]) -> bool:
        """Do what is not done yet; print how many went well and what went wrong."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        done = {(d["trial"], d["i"]): d["said"] for d in map(json.loads, lines)}
        for i in range(times):
            if (trial, i) in done:
                continue
            work = self.scratch / f"{trial.replace(' ', '-')}-{i}"
            work.mkdir()
            said = done[trial, i] = once(random.Random(f"{trial} {i}"), work)
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"trial": trial, "i": i, "said": said}) + "\n")
        outcomes = [done[trial, i] for i in range(times)]
        good = sum(o.startswith("ok") for o in outcomes)
        detail = ", ".join(sorted({o for o in outcomes if not o.startswith("ok")})) or summary(outcomes)
        print(f"{trial}: {good} of {times} as they should be{f' ({detail})' if detail else ''}", flush=True)
        return good == times

    def two_ingesters(self, _random: random.Random, work: Path) -> str:
        """Two processes, one folder, one database: every file once, nothing locked."""
        self.prepare_ingest()
        url = self.url(work / "shared.db")
        both = [start(INGEST, url, self.runs) for _ in range(2)]
        errors = [p.communicate()[1] for p in both]
        if any(p.returncode for p in both) or any("locked" in e for e in errors):
            return f"failed: {errors}"
        with Catalogue(url) as catalogue, catalogue.reading() as connection:
            rows = connection.exec_driver_sql("SELECT count(*), count(DISTINCT path) FROM epsopt_files").one()
        return "ok" if digest(url) == self.expected and tuple(rows) == (self.files, self.files) else f"differs: {rows}"

    def killed_ingest(self, rng: random.Random, work: Path) -> str:
        """Kill an ingest, run it again."""
        self.prepare_ingest()
        url = self.url(work / "killed.db")
        process = start(INGEST, url, self.runs)
        assert process.stdout is not None
        process.stdout.readline()
        with Catalogue(url) as catalogue:
            if rng.random() < 0.5:  # anywhere
                time.sleep(rng.uniform(0, self.ingest_seconds))
            else:  # while it writes
                enough = rng.randrange(1, self.files - 2)
                while len(catalogue.checkpoints()) < enough and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.05))
            kill(process)
            kept = len(catalogue.checkpoints())
        finish(INGEST, url, self.runs)
        return f"ok {kept}" if digest(url) == self.expected else f"differs after {kept}"

    def copy(self, file: Path) -> str:
        """Copy the catalogue that is fitted; return the copy's URL."""
        file.write_bytes(self.few.read_bytes())
        return self.url(file)

    def killed_fit(self, rng: random.Random, work: Path) -> str:
        """Kill a fit, run it again."""
        self.prepare_fit()
        url = self.copy(work / "killed.db")
        process, said = start_fit(url)
        if rng.random() < 0.5:  # anywhere
            time.sleep(rng.uniform(0, self.fit_seconds))
        else:  # while the map is written, which takes milliseconds
            with contextlib.suppress(EOFError):
                said.recv()
            time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        with Catalogue(url) as catalogue:
            kept = catalogue.get_artifact("surrogate") is not None
        finish_fit(url)
        return f"ok {int(kept)}" if digest(url) == self.expected_fit else f"differs, kept {kept}"

    def killed_writer(self, rng: random.Random, work: Path) -> str:
        """Ingest again and again while files grow; then the writer is killed, and the next pass must be right."""
        whole = self.runs / "run_001" / "epoch_000.pt"
        names = [work / f"epoch_{i:03d}.pt" for i in range(12)]
        process = start(WRITER, whole, *names)
        until = time.monotonic() + rng.uniform(0.1, 1.5)
        partial: list[str] = []
        with Catalogue(self.url(work / "polled.db")) as catalogue:
            while time.monotonic() < until:
                ingest(catalogue, work, jobs=1)
                expected = hashlib.sha256(whole.read_bytes()).hexdigest()
                partial += [c.path for c in catalogue.checkpoints() if c.sha256 != expected]
            complete = set(kill(process).split())
            time.sleep(0.05)
            report = ingest(catalogue, work, jobs=1)
            known = {c.path for c in catalogue.checkpoints()} | set(catalogue.aliases())
        cut = [f for f in report.failed if not reported_as_cut(f)]
        if partial or cut or not complete <= known:
            return f"partial {partial}, missing {complete - known}, unexpected {cut}"
        return f"ok {len(complete)}"


def reported_as_cut(failure: Failure) -> bool:
    return any(word in failure.reason for word in ("truncated", "corrupt", "empty"))


def summary(outcomes: list[str]) -> str:
    """What the outcomes had done already when they were interrupted."""
    numbers = [int(o.split()[1]) for o in outcomes if " " in o]
    return f"interrupted with {min(numbers)} to {max(numbers)} done" if numbers else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "crash")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trials = Trials(options.out.resolve(), options.files)
    try:
        good = [trials.repeat("two ingesters", options.repeats, trials.two_ingesters)]
        good.append(trials.repeat("ingest killed and resumed", options.points, trials.killed_ingest))
        good.append(trials.repeat("fit killed and resumed", options.points, trials.killed_fit))
        good.append(trials.repeat("writer killed while ingest polls", options.points, trials.killed_writer))
    finally:
        trials.close()
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
