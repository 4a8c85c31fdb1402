"""Reading on a real local Ray of two processes: the same catalogue, row for row, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch
from sqlalchemy import select

from epsopt.zoo import ray_cluster
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.tables import metadata
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.ray_cluster import LOCAL, RayCluster, connect_ray
from epsopt.zoo.reading import ray_pool
from epsopt.zoo.reading.pool import ReaderPool
from epsopt.zoo.reading.ray_pool import RayPool
from epsopt.zoo.reading.source import Limits

from ..conftest import state_dict  # noqa: TID252


@pytest.fixture(scope="module")
def cluster(local_ray) -> RayCluster:
    return local_ray


@pytest.fixture
def readers(cluster) -> Iterator[RayPool]:
    pool = RayPool(cluster, jobs=2)
    yield pool
    pool.close()


@pytest.fixture
def zoo(tmp_path, save) -> Path:
    """20 checkpoints of four runs, two of them of one base, two of bases of their own; a copy; and a damaged file."""
    folder = tmp_path / "runs"
    for run in range(4):
        for epoch in range(1, 6):
            weights = None if run < 2 else {k: v + epoch / 100 for k, v in state_dict(run).items()}
            save(folder / f"run_{run}" / f"epoch_{epoch}.pt", 10 * run + epoch, weights=weights, lr=run / 10)
    (folder / "run_0" / "last.pt").write_bytes((folder / "run_0" / "epoch_5.pt").read_bytes())
    (folder / "run_1" / "broken.pt").write_bytes(b"no checkpoint")
    return folder


def rows(catalogue: Catalogue) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, but for what says when the database was made."""
    with catalogue.reading() as connection:
        return {t.name: sorted(map(tuple, connection.execute(select(t))), key=repr) for t in metadata.sorted_tables}


@pytest.fixture
def plainly(zoo, tmp_path) -> dict[str, list[tuple[object, ...]]]:
    with Catalogue(f"sqlite:///{tmp_path / 'plain.db'}") as catalogue:
        assert ingest(catalogue, zoo).added == 20
        return rows(catalogue)


def test_a_cluster_without_a_free_processor_is_one_sentence(zoo, catalogue, cluster, monkeypatch):
    import ray

    monkeypatch.setattr(ray_pool, "START", 0.1)
    all_of_them = ray.util.placement_group([{"CPU": 1}] * cluster.cpus)  # the first test: nobody has one yet
    ray.get(all_of_them.ready(), timeout=60)
    readers = RayPool(cluster, 1)
    with pytest.raises(EpsoptError, match=r"no reader could start within .*it has no free processor"):
        ingest(catalogue, zoo, readers=readers)
    readers.close()
    ray.util.remove_placement_group(all_of_them)


def test_the_catalogue_is_the_same_row_for_row_as_without_ray(zoo, catalogue, plainly, readers):
    report = ingest(catalogue, zoo, readers=readers)
    assert (report.found, report.added, report.aliases, len(report.failed)) == (22, 20, 1, 1)
    assert rows(catalogue) == plainly
    again = ingest(catalogue, zoo, readers=readers)
    assert (again.added, again.unchanged) == (0, 21)
    assert rows(catalogue) == plainly


def test_a_reader_that_is_killed_takes_nothing_with_it(zoo, catalogue, plainly, readers, monkeypatch):
    give, killed = ray_pool.RemoteReader.give, []

    def given(self, file) -> None:
        give(self, file)
        if file.path.name == "epoch_3.pt" and not killed:
            killed.append(self.process)
            os.kill(self.process, signal.SIGKILL)

    monkeypatch.setattr(ray_pool.RemoteReader, "give", given)
    report = ingest(catalogue, zoo, readers=readers)
    assert len(killed) == readers.lost == 1
    assert (report.added, len(report.failed)) == (20, 1)
    assert rows(catalogue) == plainly


@pytest.mark.slow
def test_an_ingest_that_is_interrupted_goes_on_to_the_same_catalogue(zoo, catalogue, plainly, readers):
    def interrupt(done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(catalogue, zoo, readers=readers, progress=interrupt)
    assert ingest(catalogue, zoo, readers=readers).unchanged >= 6
    assert rows(catalogue) == plainly


@pytest.mark.slow
def test_the_processes_of_a_killed_reader_end_with_it(readers):
    readers.start(2)
    reader = wait_for_readers(os.getpid())[0]
    (child,) = [c for c in reader.children(recursive=True) if "worker_process" in " ".join(c.cmdline())]
    reader.kill()
    child.wait(timeout=30)


@pytest.mark.slow
def test_a_file_that_ends_every_reader_is_left_out_until_the_next_ingest(zoo, catalogue, cluster, monkeypatch):
    monkeypatch.setattr(ray_pool, "LOSSES", 1)
    readers = RayPool(cluster, jobs=1)
    give = ray_pool.RemoteReader.give

    def given(self, file) -> None:
        give(self, file)
        if file.path.name == "epoch_3.pt" and file.path.parent.name == "run_1":
            import ray

            ray.kill(self.actor)

    monkeypatch.setattr(ray_pool.RemoteReader, "give", given)
    report = ingest(catalogue, zoo, readers=readers)
    readers.close()
    reasons = {Path(f.path).name: f.reason for f in report.failed}
    assert reasons["epoch_3.pt"] == "1 processes of a Ray cluster that read it were lost"
    assert report.added == 19
    again = ingest(catalogue, zoo)
    assert (again.added, len(again.failed)) == (1, 1), "the machines may have been to blame"


def test_a_reader_there_has_the_limits_of_one_here(tmp_path, catalogue, cluster, save):
    save(tmp_path / "runs" / "one" / "large.pt", 1, weights={"a": torch.zeros(40 << 20)})
    limits = Limits(memory=64 << 20)
    readers = RayPool(cluster, 1, limits)
    report = ingest(catalogue, tmp_path / "runs", readers=readers, limits=limits)
    readers.close()
    assert "needs more than the 64 MB of memory that a reader may take" in report.failed[0].reason


@pytest.mark.slow
def test_a_hook_in_the_folder_of_the_command_embeds_there_as_it_does_here(
    zoo, catalogue, cluster, tmp_path, monkeypatch
):
    (tmp_path / "ours.py").write_text("def embed(weights): return weights['a.weight'][:3, :2]")
    monkeypatch.chdir(tmp_path)
    with Catalogue(f"sqlite:///{tmp_path / 'here.db'}") as here:
        own = ReaderPool(1)  # the shared one may have begun in the folder of another test
        ingest(here, zoo, embed="ours:embed", readers=own)
        own.close()
        readers = RayPool(cluster, 1)
        assert ingest(catalogue, zoo, embed="ours:embed", readers=readers).added == 20
        readers.close()
        assert rows(catalogue) == rows(here)
    assert len(rows(catalogue)["epsopt_embeddings"]) == 20


def test_processes_of_ray_import_nothing_from_the_folder_in_which_it_was_started(cluster):
    import ray

    path = ray.get(ray.remote(lambda: sys.path).remote())
    assert not {"", ".", str(Path.cwd())} & set(path)


@pytest.fixture
def needs_ray() -> None:
    """For tests that start a Ray in a process of its own."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'epsopt[ray]'")


def ingesting_on_a_ray_of_its_own(runs: Path, storage: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", "from epsopt.cli.main import main; main()", "ingest", str(runs), "--json"]
    return subprocess.Popen(
        [*command, "--ray", "local", "--jobs", "1", "--storage", storage],
        cwd=runs.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("needs_ray")
def test_a_command_that_is_killed_leaves_no_process_of_ray_and_another_one_goes_on(zoo, tmp_path, catalogue, plainly):
    ingesting = ingesting_on_a_ray_of_its_own(zoo, catalogue.url)
    wait_for_readers(ingesting.pid)
    below = psutil.Process(ingesting.pid).children(recursive=True)
    ingesting.kill()
    ingesting.communicate(timeout=60)
    assert len(below) > 3
    assert psutil.wait_procs(below, timeout=300)[1] == []  # two agents of Ray notice it after a minute
    ingest(catalogue, zoo)
    assert rows(catalogue) == plainly


@pytest.mark.slow
@pytest.mark.usefixtures("needs_ray")
def test_a_command_whose_reader_is_killed_prints_its_document_and_a_note(zoo, tmp_path):
    ingesting = ingesting_on_a_ray_of_its_own(zoo, f"sqlite:///{tmp_path}/x.db")
    (reader,) = wait_for_readers(ingesting.pid)
    reader.kill()
    out, err = ingesting.communicate(timeout=300)
    assert ingesting.returncode == 0, err
    assert json.loads(out)["added"] == 20
    assert "1 reader of the Ray cluster was lost" in err


def wait_for_readers(driver: int) -> list[psutil.Process]:
    """Those that have a child, once there is one."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = [p for p in readers_of(driver) if any(titled(c, "worker_process") for c in p.children())]
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("no reader started")


def readers_of(driver: int) -> list[psutil.Process]:
    """The actors of the local Ray that a process has started."""
    return [p for p in psutil.Process(driver).children(recursive=True) if titled(p, "ray::RayReader")]


def titled(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("needs_ray")
def test_a_module_in_the_folder_of_runs_is_not_imported_by_any_process(tmp_path, save):
    """In a Ray that is started in that folder, by a process of its own."""
    runs = tmp_path / "runs"
    save(runs / "one" / "epoch_1.pt", 1)
    for name in ("random.py", "torch.py", "dill.py", "sitecustomize.py", "msgpack.py", "psutil.py"):
        (runs / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})")
    command = [sys.executable, "-P", "-c", "from epsopt.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "ingest", "--ray", "local", "--storage", f"sqlite:///{tmp_path}/x.db", "."],
        cwd=runs, env={**os.environ, "PYTHONPATH": "", "HOME": str(tmp_path)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "holds 1 checkpoints" in done.stdout or "holds 1 checkpoint" in done.stdout
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / ".ray").exists(), "Ray keeps no token in the user's home"


def test_a_machine_that_does_not_see_the_runs_is_named_and_nothing_counts_as_unreadable(
    zoo, catalogue, readers, monkeypatch
):
    elsewhere = ray_pool.RemoteReader.give

    def lost(self, file) -> None:
        from dataclasses import replace

        elsewhere(self, replace(file, path=Path("/elsewhere") / file.path.name))
        self.file = file

    monkeypatch.setattr(ray_pool.RemoteReader, "give", lost)
    with pytest.raises(EpsoptError, match=r"is here, and not on .*: mount the runs at the same path on all machines"):
        ingest(catalogue, zoo, readers=readers)
    assert not catalogue.failures()


def test_another_version_on_a_machine_of_the_cluster_is_one_sentence(zoo, catalogue, cluster, monkeypatch):
    monkeypatch.setattr(ray_pool, "version", lambda _: "0.0.1")
    readers = RayPool(cluster, 1)
    ours = version("epsopt")
    with pytest.raises(EpsoptError, match=rf"epsopt is version {ours} on .*, and version 0.0.1 here: install the same"):
        ingest(catalogue, zoo, readers=readers)
    readers.close()


def test_without_ray_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda _name: None)
    with (
        pytest.raises(EpsoptError, match=r"^--ray needs Ray, which is not installed: pip install 'epsopt\[ray\]'$"),
        connect_ray(LOCAL),
    ):
        pass


@pytest.mark.usefixtures("needs_ray")
def test_an_address_at_which_nothing_answers_is_one_sentence():
    program = (
        "from epsopt.zoo import UsageError, connect_ray\n"
        "for address in ('127.0.0.1:9', 'ray://127.0.0.1:9'):\n"
        "    try:\n"
        "        with connect_ray(address): pass\n"
        "    except UsageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    lines = done.stdout.splitlines()
    assert [line.split("(")[0] for line in lines] == [
        f"no Ray cluster answers at {address!r} " for address in ("127.0.0.1:9", "ray://127.0.0.1:9")
    ]
    assert all("expected 'local', 'auto' or HOST:PORT on a machine of the cluster" in line for line in lines)
