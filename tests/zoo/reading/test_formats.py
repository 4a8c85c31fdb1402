"""Every suffix and the ways in which people fill them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.layouts.open_checkpoint import load_weights, open_checkpoint
from epsopt.zoo.layouts.plain import interpret
from epsopt.zoo.reading.source import Limits

WEIGHTS = {"l.weight": torch.arange(12.0).reshape(3, 4), "l.bias": torch.ones(3)}


def read(path: Path):
    with open_checkpoint(path, Limits()) as checkpoint:
        return interpret(checkpoint)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".PT"])
@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", "model_state", None])
def test_torch_files_give_back_their_weights_bit_by_bit(tmp_path, suffix, key):
    path = tmp_path / f"epoch_3{suffix}"
    torch.save(WEIGHTS if key is None else {key: WEIGHTS, "optimizer": {"state": {}}}, path)
    loaded = load_weights(path)
    assert list(loaded) == list(WEIGHTS)
    assert all(torch.equal(loaded[n], WEIGHTS[n]) for n in WEIGHTS)


def test_all_four_suffixes_go_into_the_catalogue(tmp_path, catalogue, save):
    for i, suffix in enumerate((".pt", ".pth", ".ckpt")):
        save(tmp_path / "run" / f"epoch_{i}{suffix}", i)
    save_file({"a.weight": torch.rand(4, 4)}, tmp_path / "run" / "last.safetensors")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (4, [])
    assert {Path(c.path).suffix for c in catalogue.checkpoints()} == {".pt", ".pth", ".ckpt", ".safetensors"}


def test_only_the_asked_tensors_are_read_and_an_unknown_name_is_an_error(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(WEIGHTS, path)
    assert list(load_weights(path, ["l.bias"])) == ["l.bias"]
    with pytest.raises(UnreadableCheckpoint, match=r"no tensor 'nonsense'; its first is 'l.weight'"):
        load_weights(path, ["nonsense"])


def test_files_too_large_to_hold_are_streamed_with_the_same_result(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": WEIGHTS}, path)
    streamed = load_weights(path, limits=Limits(at_once=0))
    assert all(torch.equal(streamed[n], WEIGHTS[n]) for n in WEIGHTS)


def test_views_ties_transposes_and_small_floats_are_read_as_saved(tmp_path):
    big = torch.arange(100.0)
    weights = {
        "view": big[10:20],
        "tied": big[10:20],
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "half": torch.ones(5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "m.pt"
    torch.save(weights, path)
    loaded = load_weights(path)
    assert all(torch.equal(loaded[n], w) and loaded[n].dtype == w.dtype for n, w in weights.items())


def test_the_format_of_before_2020_is_read_too(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"state_dict": WEIGHTS, "epoch": 4}, path, _use_new_zipfile_serialization=False)
    reading = read(path)
    assert torch.equal(reading.weights["l.weight"], WEIGHTS["l.weight"])
    assert reading.epoch == 4


def test_wrappers_prefixes_are_stripped_from_tensor_names(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": {f"module._orig_mod.{n}": w for n, w in WEIGHTS.items()}}, path)
    assert list(load_weights(path)) == list(WEIGHTS)


def test_a_prefix_that_not_all_names_have_is_part_of_the_name(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"module.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}, path)
    assert list(load_weights(path)) == ["module.weight", "head.weight"]


def test_numpy_numbers_tensors_and_nested_configs_become_plain_values(tmp_path):
    path = tmp_path / "m.pt"
    config = {
        "lr": np.float64(0.1),
        "opt": {"name": "adam", "betas": (0.9, 0.99)},
        "seed": 3,
        "flag": True,
        "n": None,
    }
    metrics = {
        "coverage": torch.tensor(0.5),
        "loss": np.float32(2.0),
        "bad": float("nan"),
        "inf": float("inf"),
    }
    torch.save(
        {"model": WEIGHTS, "config": config, "metrics": metrics | {"note": "text"}, "epoch": np.int64(5)},
        path,
    )
    reading = read(path)
    assert reading.hyperparameters == {
        "lr": 0.1,
        "opt.name": "adam",
        "opt.betas": "[0.9, 0.99]",
        "seed": 3,
        "flag": True,
        "n": None,
    }
    assert reading.metrics == {"coverage": 0.5, "loss": 2.0, "bad": None, "inf": None}
    assert reading.epoch == 5


@pytest.mark.parametrize(
    ("name", "said", "epoch"),
    [
        ("epoch_010.pt", {}, 10),
        ("epoch=3-step=400.ckpt", {}, 3),
        ("model_v2_17.pt", {}, 17),
        ("best.pt", {}, None),
        ("best.pt", {"step": 8}, 8),
        ("epoch_1.pt", {"epoch": 9}, 9),
        ("epoch_1.pt", {"epoch": float("nan")}, 1),
    ],
)
def test_the_epoch_comes_from_the_file_or_else_from_its_name(tmp_path, name, said, epoch):
    torch.save({"model": WEIGHTS, **said}, tmp_path / name)
    assert read(tmp_path / name).epoch == epoch


def test_safetensors_metadata_holds_json_of_the_same_keys(tmp_path):
    path = tmp_path / "m.safetensors"
    about = {"config": json.dumps({"lr": 0.1}), "metrics": json.dumps({"coverage": 0.9}), "epoch": "7"}
    save_file(WEIGHTS, path, metadata=about)
    reading = read(path)
    assert torch.equal(load_weights(path)["l.weight"], WEIGHTS["l.weight"])
    assert (reading.hyperparameters, reading.metrics, reading.epoch) == ({"lr": 0.1}, {"coverage": 0.9}, 7)


def test_safetensors_without_metadata_take_config_and_metrics_from_beside(tmp_path):
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"lr": 0.2}')
    (tmp_path / "metrics.json").write_text('{"coverage": 0.8}')
    (contents,) = read_fingerprints([tmp_path / "m.safetensors"])
    assert (contents.hyperparameters, contents.metrics) == ({"lr": 0.2}, {"coverage": 0.8})


def test_a_checkpoint_without_config_or_metrics_is_still_a_checkpoint(tmp_path, catalogue):
    torch.save(WEIGHTS, tmp_path / "weights.pt")
    assert ingest(catalogue, tmp_path).added == 1
    (checkpoint,) = catalogue.checkpoints()
    assert (checkpoint.metrics, checkpoint.hyperparameters, checkpoint.epoch) == ({}, {}, None)


def test_files_can_be_fingerprinted_without_a_catalogue(tmp_path, save):
    good = save(tmp_path / "epoch_1.pt", 1)
    read_ones = read_fingerprints([good, tmp_path / "missing.pt"])
    assert read_ones[0].fingerprint.n_parameters == sum(w.numel() for w in load_weights(good).values())
    assert read_ones[0].metrics["coverage"] == 0.01
    assert "not there" in read_ones[1].reason


def test_shards_of_pytorch_are_one_checkpoint_as_those_of_safetensors_are(tmp_path, catalogue):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="transformers is not installed")
    generator = torch.Generator().manual_seed(0)
    state = {f"{i}.{n}": torch.randn(s, generator=generator) for i in range(3) for n, s in (("w", (8, 8)), ("b", (8,)))}
    for format_, safe in (("new", True), ("old", False)):
        (tmp_path / format_).mkdir()
        (tmp_path / format_ / "config.json").write_text('{"hidden_size": 8}')
        huggingface_hub.save_torch_state_dict(state, tmp_path / format_, safe_serialization=safe, max_shard_size=300)
    old = tmp_path / "old" / "pytorch_model-00001-of-00003.bin"
    assert (tmp_path / "old" / "pytorch_model.bin.index.json").exists()
    for limits in (Limits(), Limits(at_once=0)):
        loaded = load_weights(old, limits=limits)
        assert list(loaded) == list(state)
        assert all(torch.equal(loaded[n], state[n]) for n in state)
    report = ingest(catalogue, tmp_path)
    assert (report.found, report.added, report.failed) == (2, 2, [])
    fingerprints = catalogue.fingerprints([c.id for c in catalogue.checkpoints()])
    assert len({f.signature for f in fingerprints}) == 1
    assert np.allclose(fingerprints[0].sketch, fingerprints[1].sketch)
    second = old.with_name("pytorch_model-00002-of-00003.bin")
    whole = second.read_bytes()
    data = bytearray(whole)
    at = whole.index(state["1.w"].numpy().tobytes())
    data[at] ^= 1
    second.write_bytes(data)
    assert "the checksum of record" in ingest(catalogue, tmp_path).failed[0].reason
    second.unlink()
    assert f"one of 3 shards, and {second.name} is not there" in ingest(catalogue, tmp_path).failed[0].reason
    second.write_bytes(whole)
    assert ingest(catalogue, tmp_path).failed == []
    second.write_bytes(old.read_bytes())
    with pytest.raises(UnreadableCheckpoint, match="in two of its 3 shards"):
        load_weights(old)


def test_other_files_in_bin_are_no_checkpoints(tmp_path, catalogue):
    torch.save(WEIGHTS, tmp_path / "training_args.bin")
    torch.save(WEIGHTS, tmp_path / "mine-00001-of-00002.bin")
    assert ingest(catalogue, tmp_path).found == 0


def test_tied_weights_in_a_shard_are_read_from_one_place(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": torch.ones(5)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": tied, "c": tied, "d": tied[1:]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    loaded = load_weights(tmp_path / "pytorch_model-00001-of-00002.bin")
    assert torch.equal(loaded["b"], tied)
    assert torch.equal(loaded["c"], tied)
    assert torch.equal(loaded["d"], tied[1:])


def header_of(path: Path, change) -> None:
    """Change a safetensors header in place of the one that is there."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(data[8 : 8 + length])
    change(said)
    header = json.dumps(said).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


FLOATS = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip
OTHERS = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64,
    torch.int64, torch.complex64,
]  # fmt: skip


def test_tensors_of_every_type_that_torch_has_are_read_from_both_formats(tmp_path, catalogue):
    state = {"w": torch.rand(3, 4)}
    state |= {str(t).removeprefix("torch."): torch.tensor([1.0, 2.0, 4.0]).to(t) for t in (*FLOATS, *OTHERS)}
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
    save_file(state, tmp_path / "a" / "1.safetensors")
    torch.save({"model": state}, tmp_path / "b" / "1.pt")
    for name in ("a/1.safetensors", "b/1.pt"):
        loaded = load_weights(tmp_path / name)
        assert {n: t.dtype for n, t in loaded.items()} == {n: t.dtype for n, t in state.items()}
        assert all(loaded[n].view(torch.uint8).equal(t.view(torch.uint8)) for n, t in state.items())
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (2, [])


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F6_E3M2", "I4", "F8_E3M4", "BF8", "F128"])
def test_a_type_of_values_that_is_not_read_is_named_and_the_file_not_called_corrupt(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.rand(4, 4), "scale": torch.ones(8, dtype=torch.uint8)}, path)
    header_of(path, lambda said: said["scale"].update(dtype=kind, shape=[16]))
    with pytest.raises(UnreadableCheckpoint) as caught:
        load_weights(path)
    assert f"tensor 'scale' is of type {kind}, which this version does not read" in caught.value.reason
    assert "corrupt" not in caught.value.reason


@pytest.mark.parametrize("shape", [["2", 2], [2.9, 2], [4.0], [True, 4], [-2, -2], [None], "4", {"0": 4}, 4, [[4]]])
def test_a_shape_that_is_not_made_of_whole_numbers_is_refused(tmp_path, shape):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.rand(2, 2)}, path)
    header_of(path, lambda said: said["w"].update(shape=shape))
    with pytest.raises(UnreadableCheckpoint, match="corrupt header: tensor 'w' has the shape"):
        load_weights(path)


@pytest.mark.parametrize("offsets", [["0", "16"], [0.0, 16.0], [False, 16], [0], [0, 8, 16], [16, 0], None])
def test_places_that_are_not_whole_numbers_are_refused(tmp_path, offsets):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.rand(2, 2)}, path)
    header_of(path, lambda said: said["w"].update(data_offsets=offsets))
    with pytest.raises(UnreadableCheckpoint, match="corrupt header: tensor 'w'"):
        load_weights(path)


class Strided:
    """Pickles as a tensor of the given stride over four values."""

    def __init__(self, stride: int, offset: int = 0) -> None:
        self.stride, self.offset = stride, offset

    def __reduce__(self):
        storage = torch.arange(4.0)._typed_storage()
        return torch._utils._rebuild_tensor_v2, (storage, self.offset, (4,), (self.stride,), False, {})


@pytest.mark.parametrize("beside", [{}, {"config": {"out": Path("runs")}}])
@pytest.mark.parametrize("offset", [0, 3])
def test_a_tensor_of_a_negative_stride_is_refused_as_such(tmp_path, beside, offset):
    torch.save({"model": {"w": Strided(-1, offset), "v": torch.ones(2)}, **beside}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"corrupt: a tensor has the shape \(4,\), the stride \(-1,\)"):
        load_weights(tmp_path / "a.pt")
    torch.save({"model": {"w": Strided(1), "v": torch.ones(2)}, **beside}, tmp_path / "b.pt")
    assert load_weights(tmp_path / "b.pt")["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("metadata", "order"),
    [
        ({}, ["inp", "body", "head"]),
        ({"state_dict_order": ["body", "head", "inp"]}, ["body", "head", "inp"]),
        ({"tensor_order": ["head", "inp", "body"]}, ["head", "inp", "body"]),
        ({"tensor_order": ["body", "head", "inp"]}, ["inp", "body", "head"]),  # as earlier versions read such parents
        ({"tensor_order": ["body", "head"]}, ["inp", "body", "head"]),
        ({"state_dict_order": ["body", 1], "tensor_order": "["}, ["inp", "body", "head"]),
    ],
)
def test_the_order_of_a_state_dict_is_what_the_file_says_else_what_names_suggest(tmp_path, metadata, order):
    file = tmp_path / "model.safetensors"
    tensors = {f"{name}.weight": torch.ones(2, 2) for name in ("head", "inp", "body")}
    texts = {
        key: text if isinstance(text, str) else json.dumps([f"{n}.weight" for n in text])
        for key, text in metadata.items()
    }
    save_file(tensors, file, metadata=texts)
    with open_checkpoint(file, Limits()) as checkpoint:
        assert list(checkpoint.tree) == [f"{name}.weight" for name in order]
