"""Runs in a bucket, on a local S3 server: listed, copied in pieces, read as safely as files, kept under their URLs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError, UnreadableCheckpoint, UsageError
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.ingestion.verification import verify
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.reading import remote
from epsopt.zoo.reading.remote import RemotePath, is_url, location
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source


@pytest.fixture(scope="module")
def server():
    """moto's S3, on this machine; readers that start after this inherit where it is."""
    from moto.server import ThreadedMotoServer

    from epsopt.zoo.reading import pool

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "none")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "none")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(pool, "SHARED", {})
        yield
        for shared in pool.SHARED.values():
            shared.close()
    running.stop()


@pytest.fixture
def bucket(server, request):
    """An empty bucket of the test's own: its client and its URL."""
    import boto3

    client, name = boto3.client("s3"), f"b{abs(hash(request.node.name))}"
    client.create_bucket(Bucket=name)

    def put(key: str, content: bytes) -> str:
        client.put_object(Bucket=name, Key=key, Body=content)
        return f"s3://{name}/{key}"

    return put, f"s3://{name}/runs", lambda key: client.delete_object(Bucket=name, Key=key)


@pytest.fixture
def filled(bucket, runs):
    put, url, drop = bucket
    for path in sorted(runs.rglob("*.pt")):
        put(f"runs/{path.relative_to(runs)}", path.read_bytes())
    put("runs/one/notes.txt", b"not a checkpoint")
    return put, url, drop


def test_a_bucket_of_runs_goes_in_as_a_folder_does(filled, runs, catalogue, tmp_path):
    put, url, _ = filled
    put("runs/one/broken.pt", b"no checkpoint at all")
    report = ingest(catalogue, location(url))
    assert (report.found, report.added, report.runs) == (5, 4, 2)
    assert [(f.path, f.reason.partition(":")[0]) for f in report.failed] == [
        (f"{url}/one/broken.pt", "not a checkpoint")
    ]
    with Catalogue(f"sqlite:///{tmp_path / 'local.db'}") as local:
        ingest(local, runs)
        here, there = local.checkpoints(), catalogue.checkpoints()
        assert [c.path.removeprefix(url) for c in there] == [c.path.removeprefix(str(runs)) for c in here]
        assert [(c.run, c.sha256, c.epoch, c.metrics, c.hyperparameters) for c in there] == [
            (c.run, c.sha256, c.epoch, c.metrics, c.hyperparameters) for c in here
        ]
        kept, ours = (x.fingerprints([c.id for c in x.checkpoints()]) for x in (catalogue, local))
        assert [f.to_bytes() for f in kept] == [f.to_bytes() for f in ours]
        assert len(catalogue.lineages()) == len(local.lineages()) == 1


def test_a_second_ingest_copies_nothing(filled, catalogue, monkeypatch):
    from epsopt.zoo.ingestion import ingest as ingestion

    _, url, _ = filled
    ingest(catalogue, location(url))
    monkeypatch.setattr(ingestion, "read_files", lambda *_a, **_k: pytest.fail("a file was copied"))
    assert ingest(catalogue, url).unchanged == 4


def test_an_object_that_was_replaced_is_read_again_and_one_that_went_is_named(filled, runs, catalogue, save):
    put, url, drop = filled
    ingest(catalogue, location(url))
    put("runs/one/epoch_001.pt", save(runs / "new.pt", 77).read_bytes())
    drop("runs/two/epoch_002.pt")
    reasons = {f.path.removeprefix(url): f.reason for f in verify(catalogue).failed}
    assert reasons["/one/epoch_001.pt"].startswith("changed")
    assert reasons["/two/epoch_002.pt"].startswith("vanished")
    assert len(reasons) == 2
    assert ingest(catalogue, location(url)).added == 1
    assert {c.epoch for c in catalogue.checkpoints() if c.run == "one"} == {77, 12}


def test_weights_and_fingerprints_of_a_url_are_those_of_the_file(filled, runs):
    _, url, _ = filled
    here, there = load_weights(runs / "one" / "epoch_001.pt"), load_weights(f"{url}/one/epoch_001.pt")
    assert all((here[n] == there[n]).all() for n in here)
    read = read_fingerprints([location(f"{url}/one/epoch_001.pt"), location(f"{url}/one/nothing.pt")])
    assert read[0].metrics == {"coverage": 0.11, "dist_corr": 0.5}
    assert "not there" in read[1].reason


def test_more_than_the_budget_is_refused_before_it_is_copied(filled, monkeypatch):
    _, url, _ = filled
    monkeypatch.setattr(remote, "stream", lambda *_: pytest.fail("it was copied"))
    with pytest.raises(UnreadableCheckpoint, match="more than the 1,000 that are copied from afar"):
        load_weights(f"{url}/one/epoch_001.pt", limits=Limits(remote=1_000))


def test_an_object_that_is_replaced_while_it_is_read_waits(filled):
    put, url, _ = filled
    with pytest.raises(ChangedWhileReadError), open_source(location(f"{url}/one/epoch_001.pt"), Limits()):
        put("runs/one/epoch_001.pt", b"something else")


def test_an_empty_place_and_an_unknown_protocol_are_usage_errors(filled, catalogue):
    _, url, _ = filled
    with pytest.raises(UsageError, match="does not exist or is empty"):
        ingest(catalogue, location(f"{url}/nothing"))
    with pytest.raises(UsageError, match=r"nosuch://bucket/runs: .*expected a folder, or a URL such as s3://"):
        ingest(catalogue, location("nosuch://bucket/runs"))


def test_without_the_package_for_s3_the_error_says_what_to_install(catalogue, monkeypatch):
    import fsspec

    monkeypatch.setattr(fsspec, "url_to_fs", lambda *_a, **_k: (_ for _ in ()).throw(ImportError("Install s3fs")))
    with pytest.raises(EpsoptError, match=r"Install s3fs.*pip install 'epsopt\[s3\]'"):
        ingest(catalogue, location("s3://bucket/runs"))


def test_a_server_that_does_not_answer_is_one_sentence_and_forgets_nothing(filled, catalogue, monkeypatch):
    import s3fs

    _, url, _ = filled
    ingest(catalogue, location(url))
    before = catalogue.checkpoints()
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(EpsoptError, match=r"cannot be listed: .*127.0.0.1:9"):
        ingest(catalogue, location(url))
    assert catalogue.checkpoints() == before
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_the_command_line_takes_a_url(filled, tmp_path):
    _, url, _ = filled
    command = [sys.executable, "-c", "from epsopt.cli.main import main; main()", "ingest"]
    done = subprocess.run([*command, url], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout
    done = subprocess.run([*command, "--verify", url], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "4 of 4 files" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("text", ["s3://bucket/runs/a.pt", "s3:/bucket/runs/a.pt", "gs://b/a.pt"])
def test_a_url_survives_pathlib(text):
    path = location(Path(text))
    assert isinstance(path, RemotePath)
    assert str(path) == text.replace(":/", "://").replace(":///", "://")
    assert str(path.parent / "b.pt") == str(path.parent) + "/b.pt"
    assert (path.name, path.suffix) == ("a.pt", ".pt")


@pytest.mark.parametrize("text", ["runs", "/runs/a.pt", "./a:b/c", "C:/runs", "a.pt"])
def test_an_ordinary_path_is_no_url(text):
    assert not is_url(text)


def test_a_path_joined_to_a_url_does_not_lead_out_of_the_store():
    outside = RemotePath("s3://bucket/run") / "/etc/passwd"
    assert not outside.exists()
    assert not outside.is_file()
    assert str((RemotePath("s3://bucket/run") / "../../../x.pt").resolve()) == "s3://x.pt"


def test_what_lies_beside_checkpoints_in_a_bucket_is_read_too(bucket, catalogue, tmp_path):
    import torch

    from epsopt.studies.project.scan_runs import survey

    put, url, drop = bucket
    torch.save({"model": {"w": torch.eye(3)}, "epoch": 1}, tmp_path / "e.pt")
    put("runs/job/checkpoints/epoch_1.pt", (tmp_path / "e.pt").read_bytes())
    put("runs/job/.hydra/config.yaml", b"lr: 1e-3\n")
    put("runs/job/metrics.csv", b"epoch,acc\n1,0.5\n")
    put("runs/job/hparams.yaml", b"a: 1\na: 2\n")
    report = ingest(catalogue, location(url))
    assert report.layouts == {"hydra + plain": 1}
    assert [f.path for f in report.side_file_failures] == [f"{url}/job/hparams.yaml"]
    (checkpoint,) = catalogue.checkpoints()
    assert (checkpoint.run, checkpoint.metrics, checkpoint.hyperparameters) == ("job", {"acc": 0.5}, {"lr": 0.001})
    drop("runs/job/hparams.yaml")
    assert ingest(catalogue, location(url)).side_file_failures == []
    assert ingest(catalogue, location(url)).refreshed_runs == 0
    put("runs/job/metrics.csv", b"epoch,acc\n1,0.75\n")
    assert ingest(catalogue, location(url)).refreshed_runs == 1
    assert catalogue.checkpoints()[0].metrics == {"acc": 0.75}
    seen = survey(location(url))
    assert (seen.metrics, seen.hyperparameters) == ({"acc": [0.75]}, [{"lr": 0.001}])


def test_event_files_in_a_bucket_are_read_too(bucket, catalogue, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    import torch
    from torch.utils.tensorboard import SummaryWriter

    put, url, _ = bucket
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("val/acc", 0.75, 1)
        writer.add_hparams({"lr": 0.5}, {})
    torch.save({"model": {"w": torch.eye(3)}, "epoch": 1}, tmp_path / "run" / "e.pt")
    for path in sorted(p for p in (tmp_path / "run").rglob("*") if p.is_file()):
        put(f"runs/job/{path.relative_to(tmp_path / 'run')}", path.read_bytes())
    report = ingest(catalogue, location(url))
    assert (report.layouts, report.side_file_failures) == ({"plain + tensorboard": 1}, [])
    (checkpoint,) = catalogue.checkpoints()
    assert checkpoint.metrics["val/acc"] == 0.75
    assert checkpoint.hyperparameters == {"lr": 0.5}


def test_init_and_what_follows_take_a_url(filled, tmp_path):
    _, url, _ = filled

    def epsopt(*arguments):
        command = [sys.executable, "-c", "from epsopt.cli.main import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    epsopt("init", url)
    assert f'runs = "{url}"' in (tmp_path / "epsopt.toml").read_text()
    assert "4" in epsopt("ingest").stdout
    assert "[objectives.coverage]" in (tmp_path / "epsopt.toml").read_text()
