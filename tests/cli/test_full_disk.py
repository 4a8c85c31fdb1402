"""A full disk or a read-only one: one sentence, the old state intact, and the next ingest goes on from there."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest

from .conftest import Result, call

FILES = 80


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """80 checkpoints of six layers: their fingerprints need about 1.5 MB."""
    folder = tmp_path_factory.mktemp("full") / "runs"
    for i in range(FILES):
        g = torch.Generator().manual_seed(i)
        weights = {f"{j}.weight": torch.randn(20, 20, generator=g) for j in range(6)}
        (folder / f"run_{i // 10}").mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights, "epoch": i}, folder / f"run_{i // 10}" / f"epoch_{i}.pt")
    return folder


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A small disk of its own: disk("size=500k"), later disk("remount,ro")."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def mount(options: str) -> Path:
        tool = shutil.which("mount")
        command = [tool or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mounted)]
        if tool is None or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can only be mounted by root, where the system allows it")
        return mounted

    yield mount
    subprocess.run(["umount", str(mounted)], capture_output=True, check=False)


def ingested(folder: Path, *arguments: str | Path) -> Result:
    return call(folder, "ingest", *arguments, "--storage", "sqlite:///epsopt.db")


def tree(folder: Path) -> str:
    """Hash names, contents and times of everything below."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        digest.update(f"{path} {status.st_mode} {status.st_size} {status.st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def state(catalogue: Catalogue) -> list:
    checkpoints = catalogue.checkpoints()
    kept = [f.to_bytes() for f in catalogue.fingerprints([c.id for c in checkpoints])]
    return [(c.path, c.sha256, c.run, c.epoch) for c in checkpoints] + kept


@pytest.fixture(scope="module")
def expected(tmp_path_factory, many) -> list:
    with Catalogue(f"sqlite:///{tmp_path_factory.mktemp('alone') / 'epsopt.db'}") as catalogue:
        ingest(catalogue, many)
        return state(catalogue)


def sentence(said: str) -> str:
    # What takes long is named in a line of its own, which ends with dots.
    lines = [line for line in said.splitlines() if line.startswith("epsopt: ") and not line.endswith(" ...")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert "defect" not in said
    return lines[0]


def test_an_ingest_on_a_full_disk_says_so_keeps_what_it_had_and_resumes(disk, many, expected):
    folder = disk("size=1200k")
    assert ingested(folder, many / "run_0").status == 0
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        before = state(catalogue)
    result = ingested(folder, many)
    assert result.status == 1
    assert "disk is full: free some space and run the command again" in sentence(result.err)
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        assert set(map(str, before)) <= set(map(str, state(catalogue)))
        assert len(catalogue.checkpoints()) < FILES
    disk("remount,size=20m")
    assert ingested(folder, many).status == 0
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        assert state(catalogue) == expected


@pytest.mark.slow
def test_an_ingest_that_may_not_write_as_much_as_it_needs_says_so_and_resumes(tmp_path, many, expected):
    """As under a quota; a limit of the process stands for it, because anybody may set one."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    program = "from epsopt.cli.main import main; main()"
    command = [sys.executable, "-c", program, "ingest", many, "--storage", "sqlite:///epsopt.db"]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=restrict, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "check the disk's space, your quota and the disk itself" in sentence(result.stderr)
    assert ingested(tmp_path, many).status == 0
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        assert state(catalogue) == expected


def test_a_read_only_store_is_one_sentence_and_keeps_its_state(disk, many):
    folder = disk("size=20m")
    assert ingested(folder, many / "run_0").status == 0
    before = tree(folder)
    disk("remount,ro")
    result = ingested(folder, many)
    assert result.status == 1
    assert "make the file and its folder writable" in sentence(result.err)
    assert tree(folder) == before
    disk("remount,rw")
    assert ingested(folder, many).status == 0


def test_ingest_and_verify_never_write_to_the_folders_of_checkpoints(tmp_path, many):
    copy = shutil.copytree(many, tmp_path / "runs")
    (copy / "run_0" / "broken.pt").write_text("no")
    (copy / "run_0" / "link.pt").symlink_to(copy / "run_1" / "epoch_10.pt")
    before = tree(copy)
    for arguments in ([copy], [copy], ["--verify"]):
        assert ingested(tmp_path, *arguments).status == 0
    assert tree(copy) == before
