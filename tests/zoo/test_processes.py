"""Reading processes that die, hang or swell; and ingests that run at once or are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.ingestion import ingest
from epsopt.zoo.lineage import LineageBook
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import read_files
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.records import Failure

PROGRAM = """
import sys
from pathlib import Path
from epsopt.zoo import recorder
from epsopt.zoo.catalogue import Catalogue
from epsopt.zoo.ingestion import ingest
recorder._BATCH = 5
with Catalogue(sys.argv[1]) as catalogue:
    print("ready", flush=True)
    report = ingest(catalogue, Path(sys.argv[2]), jobs=1)
    print(report.added, report.failed, flush=True)
"""


@pytest.fixture
def many(tmp_path, save) -> Path:
    """Two bases, eight runs, 48 checkpoints; one alias and one failure among them."""
    for run in range(8):
        for epoch in range(6):
            base = {"w": torch.randn(64, 64, generator=torch.Generator().manual_seed(run % 2))}
            noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(100 * run + epoch))
            weights = {"w": base["w"] + 0.05 * noise}
            save(tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt", epoch, weights=weights, run=run)
    (tmp_path / "runs" / "run_3" / "best.pt").write_bytes((tmp_path / "runs" / "run_3" / "epoch_5.pt").read_bytes())
    (tmp_path / "runs" / "run_4" / "broken.pt").write_text("no")
    return tmp_path / "runs"


def state(catalogue: Catalogue) -> tuple:
    """Everything that must not depend on who read which file when; ids may."""
    references = {line.id: line.reference_path for line in catalogue.lineages()}
    checkpoints = catalogue.checkpoints()
    kept = catalogue.fingerprints([c.id for c in checkpoints])
    return (
        [(c.path, c.run, c.sha256, c.metrics, c.hyperparameters, references[c.lineage_id]) for c in checkpoints],
        [f.to_bytes() for f in kept],
        catalogue.failures(),
        catalogue.aliases(),
        [(line.signature, line.reference_path, line.declared) for line in catalogue.lineages()],
        [(r.name, r.hyperparameters) for r in catalogue.runs()],
    )


def launch(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_ingests_at_once_give_no_duplicates_and_no_locks(tmp_path, many):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    both = [launch(url, many) for _ in range(2)]
    outputs = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    assert all("locked" not in err for _, err in outputs)
    with Catalogue(url) as shared, Catalogue(f"sqlite:///{tmp_path / 'alone.db'}") as alone:
        ingest(alone, many)
        assert len(shared.checkpoints()) == 48
        assert state(shared) == state(alone)


def test_an_ingest_that_was_killed_and_resumed_comes_to_the_same_catalogue(tmp_path, many):
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    seen = []
    for enough in (1, 15, 30):
        process = launch(url, many)
        assert process.stdout is not None
        process.stdout.readline()
        with Catalogue(url) as catalogue:
            while len(catalogue.checkpoints()) < enough and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            seen.append(len(catalogue.checkpoints()))
    assert seen[0] < 48, "killed too late to show anything"
    with Catalogue(url) as killed, Catalogue(f"sqlite:///{tmp_path / 'alone.db'}") as alone:
        ingest(killed, many)
        ingest(alone, many)
        assert state(killed) == state(alone), seen


def read(pool: ReaderPool, paths: list[Path]) -> list:
    outcomes: list = []

    def keep(_index, outcome) -> bool:
        outcomes.append(outcome)
        return True

    read_files(pool, [(p, p.stat().st_size) for p in paths], LineageBook(), keep)
    return outcomes


@pytest.fixture
def small_pool():
    pool = ReaderPool(jobs=1, limits=Limits(memory=256 << 20, seconds=1.5))
    yield pool
    pool.close()


def test_a_child_that_dies_or_hangs_is_replaced_and_its_file_is_the_failure(tmp_path, save, small_pool, monkeypatch):
    good = save(tmp_path / "good.pt", 1)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "epsopt_bad_hooks.py").write_text(
        "import os, time\n"
        "def dies(state): os.kill(os.getpid(), 7)\n"
        "def hangs(state): time.sleep(600)\n"
        "def swells(state): return bytearray(1 << 40)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "code")])
    outcomes: list = []

    def keep(_index, outcome) -> bool:
        outcomes.append(outcome)
        return True

    for hook in ("dies", "hangs"):
        read_files(small_pool, [(good, 1000)], LineageBook(), keep, embed=f"epsopt_bad_hooks:{hook}")
    assert isinstance(outcomes[0], Failure)
    assert "died of it (SIGBUS)" in outcomes[0].reason
    assert isinstance(outcomes[1], Failure)
    assert "took longer than 2 seconds" in outcomes[1].reason
    assert read(small_pool, [good])[0].metrics["coverage"] == 0.01


def test_a_file_that_needs_more_memory_than_allowed_is_a_failure_and_the_next_goes_in(tmp_path, save, small_pool):
    good = save(tmp_path / "good.pt", 1)
    big = tmp_path / "big.pt"
    torch.save({"model": {"w": torch.empty(100_000_000)}}, big)
    bytearrays = tmp_path / "bytes.pt"
    torch.save({"model": {"w": torch.ones(2, 2)}, "x": Bytes()}, bytearrays)
    outcomes = read(small_pool, [big, bytearrays, good])
    assert [type(o) is Failure for o in outcomes] == [True, True, False]
    assert "memory" in outcomes[0].reason
    assert "memory" in outcomes[1].reason


class Bytes:
    def __reduce__(self):
        return (bytearray, (1 << 40,))


def test_children_that_cannot_start_are_one_clear_error(tmp_path, save, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = ReaderPool(jobs=1)
    with pytest.raises(EpsoptError, match="could not start"):
        read(pool, [save(tmp_path / "a.pt", 1)])


def test_children_end_with_their_parent(tmp_path, save):
    save(tmp_path / "runs" / "a.pt", 1)
    program = PROGRAM + "\nimport os, time\nfrom epsopt.zoo.reading import pool\n"
    program += "print([w.process.pid for p in pool._SHARED.values() for w in p._workers], flush=True)\n"
    program += "time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'a.db'}", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    (child,) = eval(lines[2])
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    pytest.fail(f"the child {child} outlived its parent")


def test_the_parent_needs_no_torch_to_ingest(tmp_path, save):
    save(tmp_path / "runs" / "a.pt", 1)
    program = PROGRAM + "\nassert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'a.db'}", str(tmp_path / "runs")], check=True
    )
