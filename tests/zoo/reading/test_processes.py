"""Reading processes that die, hang or swell; and ingests that run at once or are killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError, Failure, HookError, UsageError
from epsopt.zoo.fingerprints.lineage import LineageBook
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.reading import pool
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.reader import read_files
from epsopt.zoo.reading.source import Limits

PROGRAM = """
import sys
from pathlib import Path
from epsopt.zoo.ingestion import catalogue_writer
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest
catalogue_writer._BATCH = 5
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
    outputs = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    assert all("locked" not in err for _, err in outputs)
    with Catalogue(url) as shared, Catalogue(f"sqlite:///{tmp_path / 'alone.db'}") as alone:
        ingest(alone, many)
        assert len(shared.checkpoints()) == 48
        assert state(shared) == state(alone)


def test_an_ingest_that_was_killed_and_resumed_comes_to_the_same_catalogue(tmp_path, many):
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    seen = []
    for enough in (1, 20):
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
    pool = ReaderPool(jobs=1, limits=Limits(memory=256 << 20))
    yield pool
    pool.close()


HOOKS = """
import os, sys, time
def dies(state): os.kill(os.getpid(), 7)
def leaves(state): os._exit(3)
def exits(state): sys.exit("no")
def hangs(state):
    time.sleep(600)
def talks(state):
    print("said by the hook")
    os.write(1, b"and below it")
    return [[1.0, 2.0]]
"""


PLACES = """
import json
def in_folder(folder):
    return [[json.loads((folder / "adapter_config.json").read_text())["lora_alpha"], len(list(folder.iterdir()))]]
def with_path(state, path):
    return [[len(state), len(path.name)]]
def with_config(state, config):
    return [[config["lora_alpha"], 0.5]]
"""


def test_an_embed_hook_gets_the_folder_the_path_or_the_configuration_that_it_asks_for(
    tmp_path, small_pool, monkeypatch
):
    from safetensors.torch import save_file

    file = tmp_path / "checkpoint-10" / "adapter_model.safetensors"
    file.parent.mkdir()
    factors = {f"base_model.model.q.lora_{k}.weight": torch.ones(s) for k, s in (("A", (2, 4)), ("B", (4, 2)))}
    save_file(factors, file)
    file.with_name("adapter_config.json").write_text('{"lora_alpha": 16, "r": 2, "peft_type": "LORA"}')
    (tmp_path / "epsopt_places.py").write_text(PLACES)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    found = {}
    for name in ("in_folder", "with_path", "with_config"):

        def keep(_: int, outcome: Any, name: str = name) -> bool:
            found[name] = outcome.embedding.tolist()
            return True

        read_files(small_pool, [(file, 1000)], LineageBook(), keep, embed=f"epsopt_places:{name}")
    assert found == {"in_folder": [[16.0, 2.0]], "with_path": [[2.0, 25.0]], "with_config": [[16.0, 0.5]]}


def test_a_hook_that_ends_its_process_is_named_and_no_checkpoint_is_blamed(tmp_path, save, small_pool, monkeypatch):
    good = save(tmp_path / "good.pt", 1)
    code = {"bad": HOOKS, "left": "import os; os._exit(4)", "quits": "import sys; sys.exit(5)"}
    for name, text in code.items():
        (tmp_path / f"epsopt_{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    expected = {
        "epsopt_bad:exits": r"epsopt_bad:exits' failed on .*good.pt: SystemExit: no",
        "epsopt_quits:f": r"epsopt_quits:f' cannot be imported \(SystemExit: 5\)",
        "epsopt_bad:dies": r"the embed hook 'epsopt_bad:dies' \(on .*good.pt\) ended its process \(SIGBUS\)",
        "epsopt_bad:leaves": r"good.pt\) ended its process \(exit status 3\): it must return, or raise an error",
        "epsopt_left:f": r"the embed hook 'epsopt_left:f', as it was imported, ended its process \(exit status 4\)",
    }
    for hook, reason in expected.items():
        with pytest.raises(HookError, match=reason):
            read_files(small_pool, [(good, 1000)], LineageBook(), lambda *_: True, embed=hook)
    assert read(small_pool, [good])[0].metrics["coverage"] == 0.01


def test_a_hook_that_hangs_is_ended_after_its_own_time_and_named(tmp_path, save, small_pool, monkeypatch):
    good = save(tmp_path / "good.pt", 1)
    (tmp_path / "epsopt_bad.py").write_text(HOOKS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    clock, received = itertools.count(0.0, 900.0), pool.decode
    began = []

    def decode(data: bytes) -> Any:
        header, blobs = received(data)
        began.extend(hook for hook in [header.get("at work")] if hook and "good.pt" in hook)
        return header, blobs

    # Once the pool knows that the hook is at work on the file, every look at the clock takes a quarter of an hour.
    monkeypatch.setattr(pool, "decode", decode)
    late = SimpleNamespace(monotonic=lambda: time.monotonic() + (next(clock) if began else 0.0))
    monkeypatch.setattr(pool, "time", late)
    with pytest.raises(HookError, match=r"bad:hangs' \(on .*good.pt\) took longer than 600 seconds"):
        read_files(small_pool, [(good, 1000)], LineageBook(), lambda *_: True, embed="epsopt_bad:hangs")


def test_what_a_hook_prints_goes_to_standard_error(tmp_path, save, small_pool, monkeypatch, capfd):
    good = save(tmp_path / "good.pt", 1)
    (tmp_path / "epsopt_talks.py").write_text("print('said by the module')\n" + HOOKS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    outcomes = []
    read_files(small_pool, [(good, 1000)], LineageBook(), lambda _, o: outcomes.append(o) or True,
               embed="epsopt_talks:talks")  # fmt: skip
    assert outcomes[0].embedding.tolist() == [[1.0, 2.0]]
    said = capfd.readouterr()
    assert said.out == ""
    assert "and below it" in said.err


def test_a_reader_that_hangs_is_replaced_and_its_file_is_the_failure(tmp_path, save, monkeypatch):
    good = save(tmp_path / "good.pt", 1)
    monkeypatch.setattr("epsopt.zoo.reading.pool.BYTES_PER_SECOND", float("inf"))
    hasty = ReaderPool(jobs=1, limits=Limits(seconds=0.0))  # no reader is that fast
    try:
        (outcome,) = read(hasty, [good])
        assert isinstance(outcome, Failure)
        assert outcome.reason == "took longer than 0 seconds to read"
    finally:
        hasty.close()


@pytest.mark.usefixtures("real_start_here")
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


@pytest.mark.slow  # the test above takes one file that needs too much
@pytest.mark.usefixtures("real_start_here")
def test_the_memory_of_readers_is_said_and_raised_and_what_lacked_it_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    torch.save({"model": {"w.weight": torch.ones(8_000, 8_000)}}, tmp_path / "runs" / "run" / "epoch_1.pt")
    monkeypatch.setenv("EPSOPT_READER_MEMORY", "0.25")
    with Catalogue(f"sqlite:///{tmp_path / 'c.db'}") as catalogue:
        (failure,) = ingest(catalogue, tmp_path / "runs", jobs=1).failed
        assert "the 256 MB of memory that a reader may take" in failure.reason
        assert "set the environment variable EPSOPT_READER_MEMORY to more gigabytes, such as 4" in failure.reason
        assert ingest(catalogue, tmp_path / "runs", jobs=1).failed == [failure]
        monkeypatch.setenv("EPSOPT_READER_MEMORY", "2")
        report = ingest(catalogue, tmp_path / "runs", jobs=1)
        assert (report.added, report.failed) == (1, [])
        monkeypatch.setenv("EPSOPT_READER_MEMORY", "much")
        with pytest.raises(UsageError, match="EPSOPT_READER_MEMORY is 'much', expected gigabytes"):
            ingest(catalogue, tmp_path / "runs", jobs=1)


class Bytes:
    def __reduce__(self):
        return (bytearray, (1 << 40,))


@pytest.mark.usefixtures("real_start_here")
def test_children_that_cannot_start_are_one_clear_error(tmp_path, save, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = ReaderPool(jobs=1)
    with pytest.raises(EpsoptError, match="could not start"):
        read(pool, [save(tmp_path / "a.pt", 1)])


def test_children_end_with_their_parent(tmp_path, save):
    save(tmp_path / "runs" / "a.pt", 1)
    program = PROGRAM + "\nimport os, time\nfrom epsopt.zoo.reading import pool\n"
    program += "print([w.process.pid for p in pool.SHARED.values() for w in p._workers], flush=True)\n"
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
    assert ends(child)


def ends(process: int) -> bool:
    for _ in range(2400):
        try:
            if "Z" in Path(f"/proc/{process}/stat").read_text().split()[2]:
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_child_whose_hook_hangs_ends_with_its_parent(tmp_path, save):
    save(tmp_path / "runs" / "a.pt", 1)
    (tmp_path / "epsopt_waits.py").write_text(
        "import os, time\n"
        "def embed(state):\n"
        f"    open({str(tmp_path / 'new')!r}, 'w').write(str(os.getpid()))\n"
        f"    os.replace({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        "    time.sleep(600)\n"
    )
    program = PROGRAM.replace("jobs=1", "jobs=1, embed='epsopt_waits:embed'")
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'a.db'}", str(tmp_path / "runs")],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert ends(int((tmp_path / "pid").read_text()))


def test_the_parent_needs_no_torch_to_ingest(tmp_path, save):
    save(tmp_path / "runs" / "a.pt", 1)
    program = PROGRAM + "\nassert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'a.db'}", str(tmp_path / "runs")], check=True
    )
