"""200 mutants and 188 truncations: nothing runs, nothing dies, every file has a row that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.ingestion.verification import verify
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.reading.source import Limits

from .attacks import ATTACKS
from .mutants import MANIFEST, form_of, manifest, mutants, seed, truncations

SUFFIX = {"zip": ".pt", "legacy": ".pt", "safetensors": ".safetensors"}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, canary):
    """The 200 mutants, read into a catalogue of their own."""
    folder = tmp_path_factory.mktemp("mutants") / "run"
    folder.mkdir()
    for name, content in mutants():
        (folder / name).write_bytes(content)
    with Catalogue(f"sqlite:///{folder.parent / 'epsopt.db'}") as catalogue:
        # A reader that takes longer than its limit for one of them is killed, and its reason says so. Five seconds are
        # enough on a machine that does nothing else.
        yield catalogue, folder, ingest(catalogue, folder, limits=Limits(seconds=300.0))


def contents(path: Path):
    """Everything that a checkpoint says."""
    (read,) = read_fingerprints([path])
    weights = {name: (t.shape, t.numpy().tobytes()) for name, t in load_weights(path).items()}
    return read.signature, read.hyperparameters, read.metrics, read.epoch, weights


def test_the_mutants_are_the_committed_ones():
    assert manifest() == MANIFEST.read_text(encoding="utf-8")
    assert len({line.split()[0] for line in manifest().splitlines()}) == 200


@pytest.mark.parametrize("attack", ["os-system", "stack-global", "storage-within"])
def test_canaries_do_fire_where_a_pickle_is_loaded_without_care(tmp_path, attack):
    (tmp_path / "evil.pkl").write_bytes(ATTACKS[attack])
    program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    environment = {**os.environ, "EPSOPT_CANARY": str(tmp_path / "fired")}
    subprocess.run([sys.executable, "-c", program, tmp_path / "evil.pkl"], env=environment, check=False)
    assert (tmp_path / "fired").read_text() == "fired\n"


def test_no_canary_fires(ingested, canary):
    _, _, report = ingested
    assert not canary.exists()
    refused = {Path(f.path).name for f in report.failed}
    assert {name for name, _ in mutants() if "canary" in name} <= refused


def test_every_mutant_has_a_row_and_every_refused_one_a_reason(ingested):
    catalogue, folder, report = ingested
    assert report.found == 200
    failures = catalogue.failures()
    rows = {f.path for f in failures} | {path for c in catalogue.checkpoints() for path in c.paths}
    assert rows == {str(folder / name) for name, _ in mutants()}
    assert all(f.reason and "\n" not in f.reason for f in failures)


def test_no_mutant_takes_its_reader_with_it_or_all_of_its_time(ingested):
    _, _, report = ingested
    assert not [f for f in report.failed if "the process that read it" in f.reason or "took longer" in f.reason]


def test_only_a_format_without_checksums_lets_other_content_pass(ingested, tmp_path):
    catalogue, _, _ = ingested
    intact = {}
    for form, suffix in SUFFIX.items():
        path = tmp_path / f"{form}{suffix}"
        path.write_bytes(seed(form))
        intact[form] = contents(path)
    passed = {Path(path).name: contents(Path(path)) for c in catalogue.checkpoints() for path in c.paths}
    other = [name for name, said in passed.items() if said != intact[form_of(name)]]
    assert all("-flip-" in name for name in passed)
    assert all(form_of(name) != "zip" for name in other), "a zip file has checksums"
    assert (len(passed), len(other)) == (41, 23), "README.md gives these figures"


def test_every_truncation_is_called_truncated_or_corrupt(tmp_path, canary):
    for name, content in truncations():
        (tmp_path / name).write_bytes(content)
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        report = ingest(catalogue, tmp_path)
    assert (report.found, len(report.failed)) == (188, 188)
    assert [f for f in report.failed if "truncated" not in f.reason and "corrupt" not in f.reason] == []


@pytest.mark.slow
def test_every_mutant_of_a_catalogued_file_is_named_by_verify_whatever_its_time_says(tmp_path, canary):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, _ in mutants():
        (folder / name).write_bytes(seed(form_of(name)))
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        report = ingest(catalogue, folder)
        assert (report.added, report.aliases) == (report.runs, 200 - report.runs), "once a series of names"
        for name, content in mutants():
            before = (folder / name).stat()
            with (folder / name).open("r+b") as file:
                file.write(content)
                file.truncate()
            os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        verified = verify(catalogue)
    assert {f.path for f in verified.failed} == {str(folder / name) for name, _ in mutants()}
    assert all(f.reason for f in verified.failed)
