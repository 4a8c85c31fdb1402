"""What a file may not do to us: each of these is one failure with a reason, and the rest goes in."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.reading.source import Limits, open_source

WEIGHTS = {"w": torch.rand(64, 64)}


def refusal(path: Path, **limits) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        load_weights(path, limits=Limits(**limits))
    return caught.value.reason


def repacked(path: Path, compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> Path:
    """Write the zip again, with other compression or other records."""
    with zipfile.ZipFile(path) as archive:
        records = [(i.filename, archive.read(i)) for i in archive.infolist()]
    out = path.with_name("repacked.pt")
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in records:
            archive.writestr(name, replaced.get(name.rpartition("/")[2].replace(".", "_"), data))
    return out


class Canary:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_a_program_is_refused_by_name_and_runs_nothing(tmp_path, zipped, catalogue):
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    torch.save({"model": WEIGHTS, "x": Canary(canary)}, path, _use_new_zipfile_serialization=zipped)
    report = ingest(catalogue, tmp_path)
    assert "refers to posix.system, which is code" in report.failed[0].reason
    assert not canary.exists()


def test_a_bare_pickle_that_runs_a_program_is_refused(tmp_path):
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Canary(canary)))
    refusal(path)
    assert not canary.exists()


def test_a_whole_module_is_named(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in refusal(path)


def test_a_tensor_with_stride_zero_that_claims_more_than_its_storage_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"model": {"w": torch.ones(1).expand(1_000_000, 1_000_000)}}, path)
    assert path.stat().st_size < 5_000
    assert "claims 4,000,000,000,000 bytes, its storage has 4" in refusal(path)


class Overreach:
    """Pickles as a tensor of more elements than its storage has."""

    def __reduce__(self):
        storage = torch.rand(4)._typed_storage()
        return (torch._utils._rebuild_tensor_v2, (storage, 0, (4,), (1_000_000,), False, OrderedDict()))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path, zipped):
    path = tmp_path / "bomb.pt"
    torch.save({"model": {"w": Overreach()}}, path, _use_new_zipfile_serialization=zipped)
    assert "corrupt" in refusal(path)


def test_a_compressed_record_is_refused_before_it_is_inflated(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"model": {"w": torch.zeros(1_000_000)}}, path)
    bomb = repacked(path, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 20_000
    assert "compressed, which torch.save never does" in refusal(bomb)


def test_many_names_for_one_storage_are_refused_by_what_they_claim_together(tmp_path):
    path = tmp_path / "bomb.pt"
    one = torch.rand(10_000)
    torch.save({"model": {f"w{i}": one.view(100, 100) for i in range(2_000)}}, path)
    assert "its tensors claim 80,000,000 bytes" in refusal(path)


def test_a_structure_that_contains_itself_or_unfolds_without_end_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    loop: dict = {"lr": 0.1}
    loop["self"] = loop
    weights: dict = dict(WEIGHTS)
    weights["self"] = weights
    nest: list = []
    for _ in range(100):
        nest = [nest, nest]
    for content, reason in (
        ({"model": WEIGHTS, "config": loop}, "contains itself"),
        ({"model": weights}, "contains itself"),
        ({"model": WEIGHTS, "optimizer": [nest]}, "unfold into more than 10^30"),
    ):
        torch.save(content, path)
        assert reason in refusal(path)


def test_deep_nesting_and_parts_that_stand_in_two_places_are_data(tmp_path, catalogue):
    deep: list = []
    for _ in range(200):
        deep = [deep]
    shared = {"lr": 0.1}
    torch.save({"model": WEIGHTS, "config": {"first": shared, "second": shared, "deep": deep}}, tmp_path / "a.pt")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (1, [])
    assert catalogue.runs()[0].hyperparameters == {"first.lr": 0.1, "second.lr": 0.1}


def test_a_pickle_over_its_budget_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": WEIGHTS, "config": {"x": "y" * 10_000}}, path)
    assert "bytes of pickle, more than the 1,000 allowed" in refusal(path, pickle=1_000)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_called_truncated_or_corrupt(tmp_path, zipped):
    whole = io.BytesIO()
    torch.save({"model": WEIGHTS}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.getvalue()
    path = tmp_path / "cut.pt"
    for length in [1, 2, 3, 5, 30, 100, 500, len(data) // 2, len(data) - 100, len(data) - 1]:
        path.write_bytes(data[:length])
        assert any(word in refusal(path) for word in ("truncated", "corrupt")), length


def test_a_safetensors_file_cut_anywhere_or_with_a_false_header_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(WEIGHTS, path)
    data = path.read_bytes()
    for length in [1, 7, 8, 20, 60, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        assert any(word in refusal(path) for word in ("truncated", "corrupt")), length
    one = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    for header in (
        b"{not json",
        b"[1]",
        b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}',
        b"{" + one + b"," + one + b"}",
        b"{" + one + b',"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b'{"a":{"dtype":"EVIL","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,-8]}}',
        b"[" * 100_000,
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        assert "corrupt" in refusal(path), header[:60]
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "header of" in refusal(path)


def test_records_that_lie_about_their_place_are_refused(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": {"w": torch.rand(100)}}, path)
    assert "no record" in refusal(repacked(path, **{"0": b"short"}))


def test_one_flipped_bit_in_a_weight_is_found_by_its_checksum(tmp_path, catalogue, save):
    path = save(tmp_path / "m.pt", 1)
    data = bytearray(path.read_bytes())
    weight = load_weights(path)["a.weight"].numpy().tobytes()
    data[data.index(weight) + 5] ^= 1
    path.write_bytes(data)
    assert ingest(catalogue, tmp_path).failed[0].reason == "corrupt: the checksum of record 'data/0' is wrong"


def test_a_file_that_was_saved_without_checksums_is_no_damaged_file(tmp_path, catalogue, save):
    torch.serialization.set_crc32_options(False)
    try:
        save(tmp_path / "m.pt", 1)
    finally:
        torch.serialization.set_crc32_options(True)
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (1, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello world", "not a checkpoint"),
        (b"PK\x03\x04 not a zip", "truncated or corrupt"),
        (b"\x80\x02}q\x00.", "truncated or corrupt"),
        (bytes(1000), "not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, content, reason):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_zip_file_of_something_else_and_a_torchscript_archive_are_distinguished(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    assert "no data.pkl" in refusal(tmp_path / "x.pt")
    torch.save({"model": WEIGHTS}, tmp_path / "y.pt")
    with zipfile.ZipFile(tmp_path / "y.pt", "a") as archive:
        archive.writestr("y/constants.pkl", "x")
    assert "TorchScript" in refusal(tmp_path / "y.pt")


def test_a_file_without_weights_lists_its_keys(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"optimizer": {"lr": 0.1}, "counts": torch.arange(3)}, path)
    assert "no weights under model_state_dict" in refusal(path)
    assert "its keys are: optimizer, counts" in refusal(path)
    torch.save([1, 2], path)
    assert "holds a list" in refusal(path)


def test_sparse_weights_are_refused_by_name(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.eye(3).to_sparse(), "v": torch.ones(2)}}, path)
    assert "'w' is not a plain dense tensor" in refusal(path)


def test_every_kind_of_failure_is_one_failure_and_the_rest_goes_in(tmp_path, catalogue, save):
    folder = tmp_path / "runs"
    save(folder / "good.pt", 1)
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("hello")
    (folder / "folder.pt").mkdir()
    os.mkfifo(folder / "pipe.pt")
    (folder / "loop.pt").symlink_to(folder / "loop.pt")
    (folder / "nothing.pt").symlink_to(folder / "not-there.pt")
    (folder / "run").mkdir()
    (folder / "run" / "back").symlink_to(folder)
    (folder / "line\nbreak.pt").write_text("x")
    (folder / os.fsdecode(b"bad\xff.pt")).write_text("x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.pt"))
        report = ingest(catalogue, folder)
    reasons = {Path(f.path).name: f.reason for f in report.failed}
    assert report.added == 1
    assert reasons.pop("empty.pt") == "empty (0 bytes)"
    assert "not a checkpoint" in reasons.pop("text.pt")
    assert reasons.pop("folder.pt") == "a folder, not a file"
    assert reasons.pop("pipe.pt") == "a named pipe, not a file"
    assert reasons.pop("socket.pt") == "a socket, not a file"
    assert reasons.pop("loop.pt") == "a symbolic link that leads back to itself"
    assert "symbolic link to nothing" in reasons.pop("nothing.pt")
    assert "not a checkpoint" in reasons.pop("line\nbreak.pt")
    assert "not valid UTF-8" in reasons.pop("bad\\udcff.pt")
    assert reasons == {}
    assert [f.reason for f in catalogue.failures()] == [f.reason for f in report.failed]
    assert ingest(catalogue, folder).failed == report.failed


def test_temporary_and_hidden_names_are_left_alone(tmp_path, catalogue, save):
    for name in (".hidden.pt", "~draft.pt", "a.pt.tmp", "a.tmp.pt", "a.part.pt", "a.pt~", "notes.txt"):
        save(tmp_path / "run" / name, 1)
    assert ingest(catalogue, tmp_path).found == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_and_folder_are_failures(tmp_path, catalogue, save):
    save(tmp_path / "run" / "a.pt", 1).chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    assert {f.reason for f in ingest(catalogue, tmp_path).failed} == {"no permission to read it"}


def test_an_unreadable_folder_is_a_failure_and_its_neighbours_go_in(tmp_path, catalogue, save, monkeypatch):
    save(tmp_path / "open" / "a.pt", 1)
    save(tmp_path / "closed" / "b.pt", 2)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = ingest(catalogue, tmp_path)
    assert report.added == 1
    assert [(Path(f.path).name, f.reason) for f in report.failed] == [("closed", "no permission to read it")]


def test_a_pipe_that_takes_a_files_place_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(UnreadableCheckpoint, match="named pipe"), open_source(tmp_path / "pipe.pt", Limits()):
        pass


def test_an_ordered_dict_and_a_counter_are_data(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(OrderedDict(model=OrderedDict(WEIGHTS)), path)
    assert list(load_weights(path)) == ["w"]
