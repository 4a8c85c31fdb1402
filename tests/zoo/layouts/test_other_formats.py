"""Every file of a folder is accounted for: read, named and counted, an optimiser's state, or plainly no checkpoint."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from epsopt.zoo.errors import UnreadableCheckpoint, UsageError
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.layouts.other_formats import SUFFIX_KINDS
from epsopt.zoo.layouts.scan import scan


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 2).state_dict()


def saved(content=None, **options) -> bytes:
    file = io.BytesIO()
    torch.save({"model": weights()} if content is None else content, file, **options)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, saved())
    return file.getvalue()


def tarred(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def array(save, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays.values()) if save is np.save else save(file, **arrays)
    return file.getvalue()


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
READ = ("a.pt", "b.pth", "c.ckpt", "d.safetensors", "e.pth.tar", "f.tar", "g.PT", "h.pt.tar", "pytorch_model.bin")
LEFT_ALONE = (
    "optimizer.pt",
    "rng_state.pth",
    "random_states_0.pkl",
    "optimizer.bin",
    "training_args.bin",
    "scheduler.pt",
)
NO_CHECKPOINTS = {
    "notes.txt": b"x", "log.csv": b"a,b\n1,2\n", "config.json": b"{}", "hparams.yaml": b"lr: 0.1\n", "train.py": b"",
    "plot.png": b"\x89PNG", "events.out.tfevents.1.host.1.0": b"", "tokenizer.model": b"\n\x05", "w.html": b"<html>",
    "epoch_1.pt.json": b"{}", "archive.zip": b"PK\x03\x04readme.txt", "README": b"text", "checkpoint": b"model_check",
    "data.parquet": b"PAR1", "model.pt.md5": b"0", "._a.pt": b"", "run.wandb": b":W&B", "study.db": b"SQLite format 3",
}  # fmt: skip
NOT_READ = {
    "m.h5": (HDF5, "Keras"),
    "m.hdf5": (HDF5, "Keras"),
    "m.keras": (zipped("model.weights.h5"), "Keras"),
    "m.weights.h5": (HDF5, "Keras"),
    "tf.ckpt-100.index": (b"", "TensorFlow"),
    "graph.pb": (b"", "TensorFlow"),
    "m.tflite": (b"\x00\x00\x00\x00TFL3", "TensorFlow"),
    "m.onnx": (b"\x08\x07", "ONNX"),
    "m.gguf": (b"GGUF" + bytes(20), "GGUF"),
    "m.msgpack": (b"\x81", "Flax or Equinox"),
    "m.npz": (array(np.savez, w=np.ones(3)), "NumPy"),
    "m.npy": (array(np.save, w=np.ones(3)), "NumPy"),
    "m.pdparams": (b"\x80\x02}.", "Paddle"),
    "m.params": (b"", "MXNet"),
    "m.caffemodel": (b"", "Caffe"),
    "m.mlmodel": (b"", "Core ML"),
    "m.pkl": (pickle.dumps({"w": 1}), "pickle"),
    "m.joblib": (pickle.dumps({"w": 1}), "pickle"),
    "m.nemo": (tarred("weights.ckpt"), "archive"),
    "m.tar.gz": (gzip.compress(tarred("a.pt")), "archive"),
    "real.tar": (tarred("a.pt"), "tar archive"),
    "m.mar": (zipped("model.pt"), "TorchServe"),
    "m.pt2": (zipped("archive_format"), "exported PyTorch program"),
    "m.ot": (b"", "tch-rs"),
    "m.engine": (b"", "TensorRT"),
    "m.ubj": (b"{", "boosted trees"),
    "m.weights": (b"\x00", "Darknet"),
    "packed.zip": (zipped("epoch_1.pt"), "archive"),
    "m.pt.gz": (gzip.compress(saved()), "compressed"),
    "m.ckpt.zst": (b"\x28\xb5\x2f\xfd", "compressed"),
    "m.pt.bak": (saved(), "another suffix"),
    "m.ckpt.1": (saved(), "another suffix"),
    "m.pt.tmp": (saved(), "unfinished"),
    ".hidden.pt": (saved(), "unfinished"),
    "diffusion_pytorch_model.bin": (saved(), "PyTorch file that ends in .bin"),
    "m.th": (saved(_use_new_zipfile_serialization=False), "PyTorch file that ends in .th"),
    "final": (saved(), "PyTorch file that ends in nothing"),
    "odd.bin": (b"\x00\x01", "unknown .bin"),
    "safe.model": (b"", "safetensors under another suffix"),
    "dcp/": (None, "distributed checkpoint"),
    "orbax/_CHECKPOINT_METADATA": (b"{}", "Orbax"),
    "exported/saved_model.pb": (b"", "SavedModel"),
}


@pytest.fixture
def zoo(tmp_path) -> Path:
    """A folder with one of everything, each file a run of its own where a name could depend on its neighbours."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for i, name in enumerate(READ):
        if name.endswith(".safetensors"):
            save_file(weights(i), folder / name)
        else:
            torch.save({"model": weights(i), "epoch": i}, folder / name)
    for name in LEFT_ALONE:
        (folder / name).write_bytes(saved({"state": {}, "param_groups": []}))
    for name, content in NO_CHECKPOINTS.items():
        (folder / name).write_bytes(content)
    for name, (content, _) in NOT_READ.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    save_file(weights(), folder / "safe.model")
    (folder / "tf.ckpt-100.data-00000-of-00001").write_bytes(b"")
    (folder / "tf.ckpt-100.meta").write_bytes(b"")
    import torch.distributed.checkpoint as dcp

    dcp.save({"model": weights()}, checkpoint_id=folder / "dcp", no_dist=True)
    torch.save({"epoch": 1}, folder / "dcp" / "meta.pt")  # as Lightning's FSDP strategy leaves it
    return folder


@pytest.mark.filterwarnings("ignore")
def test_every_file_of_a_folder_is_accounted_for(zoo, catalogue):
    report = ingest(catalogue, zoo)
    assert report.failed == []
    assert sorted(Path(c.path).name for c in catalogue.checkpoints()) == sorted(READ)
    assert report.ignored == len(LEFT_ALONE)
    expected: dict[str, int] = {}
    kinds = {k.kind: k for k in report.not_read}
    for name, (_, part) in NOT_READ.items():
        of_this_kind = [kind for kind in kinds if part in kind]
        assert of_this_kind, f"{name} is passed over in silence"
        best = min(of_this_kind, key=len)
        expected[best] = expected.get(best, 0) + 1
    assert {kind: held.count for kind, held in kinds.items()} == expected
    assert all(held.convert and str(zoo) in held.example for held in kinds.values())
    assert len(READ) + len(LEFT_ALONE) + len(NOT_READ) + len(NO_CHECKPOINTS) > 60


@pytest.mark.filterwarnings("ignore")
def test_the_command_that_is_named_for_a_distributed_checkpoint_makes_one_that_is_read(tmp_path, catalogue):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp.save({"model": weights()}, checkpoint_id=tmp_path / "runs" / "step_1", no_dist=True)
    report = ingest(catalogue, tmp_path / "runs")
    (kind,) = report.not_read
    assert (report.found, kind.count, kind.example) == (0, 1, str(tmp_path / "runs" / "step_1"))
    assert "torch.distributed.checkpoint.format_utils dcp_to_torch" in kind.convert
    dcp_to_torch_save(tmp_path / "runs" / "step_1", tmp_path / "model.pt")
    assert list(load_weights(tmp_path / "model.pt")) == list(weights())


def test_a_folder_named_as_a_checkpoint_that_is_one_of_another_format_is_no_failure(tmp_path):
    (tmp_path / "epoch=1.ckpt").mkdir()
    (tmp_path / "epoch=1.ckpt" / ".metadata").write_bytes(b"\x80\x02}.")
    (tmp_path / "epoch=1.ckpt" / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "empty.ckpt").mkdir()
    found = scan(tmp_path)
    assert [f.reason for f in found.failures] == ["a folder, not a file"]
    assert [k.count for k in found.other.kinds.values()] == [1]


def test_the_metadata_of_a_distributed_checkpoint_is_never_unpickled(tmp_path, catalogue):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'fired'}",)

    (tmp_path / "runs" / "dcp").mkdir(parents=True)
    (tmp_path / "runs" / "dcp" / ".metadata").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "runs" / "m.pkl").write_bytes(pickle.dumps(Evil()))
    assert sum(k.count for k in ingest(catalogue, tmp_path / "runs").not_read) == 2
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (HDF5, "an HDF5 file"),
        (gzip.compress(b"x" * 100), "compressed with gzip"),
        (tarred("sys_info", "pickle", "storages", "tensors"), "a tar archive"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (array(np.save, w=np.ones(3)), "an array of NumPy"),
    ],
    ids=["lfs", "hdf5", "gzip", "tar", "gguf", "html", "npy"],  # gzip writes the time into its bytes
)
@pytest.mark.parametrize("name", ["a.pt", "a.pth.tar", "a.safetensors"])
def test_a_file_under_a_checkpoints_name_is_called_what_it_is(tmp_path, content, part, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=part):
        load_weights(tmp_path / name)


def test_torch_and_safetensors_under_one_anothers_names_say_so(tmp_path):
    torch.save(weights(), tmp_path / "a.safetensors")
    save_file(weights(), tmp_path / "b.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"rename it to end in \.pt"):
        load_weights(tmp_path / "a.safetensors")
    with pytest.raises(UnreadableCheckpoint, match=r"rename it to end in \.safetensors"):
        load_weights(tmp_path / "b.pt")


def test_a_file_of_another_format_that_is_asked_for_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="ONNX, which is not read: use the PyTorch model"):
        scan(tmp_path / "m.onnx")


def test_timms_checkpoints_are_read_with_their_epochs(tmp_path, catalogue):
    for epoch in range(2):
        content = {"epoch": epoch, "arch": "resnet18", "state_dict": weights(epoch), "metric": 50.0 + epoch}
        torch.save(content, tmp_path / f"checkpoint-{epoch}.pth.tar")
    torch.save({"state_dict": weights(9)}, tmp_path / "model_7.pth.tar")
    assert ingest(catalogue, tmp_path).added == 3
    assert sorted(c.epoch for c in catalogue.checkpoints()) == [0, 1, 7]


def test_what_is_kept_of_objects_is_said_once_a_name_and_class(tmp_path, catalogue):
    for i in range(3):
        config = {"lr": 0.1, "loss": torch.nn.MSELoss(), "act": torch.nn.ReLU}
        torch.save({"model": weights(i), "config": config}, tmp_path / f"epoch_{i}.pt")
    report = ingest(catalogue, tmp_path)
    assert report.objects == {
        "loss <torch.nn.modules.loss.MSELoss>": 3,
        "act <torch.nn.modules.activation.ReLU>": 3,
    }
    assert ingest(catalogue, tmp_path).objects == {}


def test_what_accelerate_saves_is_read_or_known_as_states(tmp_path, catalogue):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model = torch.nn.Linear(4, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model, optimiser = accelerator.prepare(model, optimiser)
    for kind, safe in (("safe", True), ("pickled", False)):
        accelerator.save_state(str(tmp_path / kind), safe_serialization=safe)
    report = ingest(catalogue, tmp_path)
    assert (report.failed, report.not_read) == ([], [])
    assert sorted(Path(c.path).name for c in catalogue.checkpoints()) == ["model.safetensors", "pytorch_model.bin"]
    files = sum(path.is_file() for kind in ("safe", "pickled") for path in (tmp_path / kind).rglob("*"))
    assert report.ignored + report.added == files


def test_adapters_and_models_of_hugging_face_leave_nothing_unaccounted(tmp_path, catalogue):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "whole")
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_attn"], r=2)).save_pretrained(tmp_path / "adapter")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed, report.not_read) == (2, [], [])


def test_the_documentation_names_every_suffix_that_is_counted():
    said = (Path(__file__).parents[3] / "docs" / "reference" / "layouts.md").read_text(encoding="utf-8")
    assert [suffix for suffix in SUFFIX_KINDS if f"`{suffix}`" not in said] == []


def archive_of(path, seed, **changed):
    """Write what Stable-Baselines3 saves."""
    inside = {
        "data": b"{}",
        "policy.pth": saved(weights(seed)),
        "policy.optimizer.pth": saved({"state": {}, "param_groups": []}),
        "pytorch_variables.pth": saved({"log_ent_coef": torch.zeros(1)}),
        "ent_coef_optimizer.pth": saved({"state": {}, "param_groups": []}),
        "_stable_baselines3_version": b"2.0",
        "system_info.txt": b"",
        **changed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in inside.items():
            archive.writestr(name, content)
    return path


def evaluations_of(folder):
    arrays = {"timesteps": np.array([1000, 2000]), "results": np.array([[1.0, 3.0], [5.0, 7.0]])}
    np.savez(folder / "evaluations.npz", ep_lengths=np.full((2, 2), 9), **arrays)


@pytest.mark.parametrize("unpacked", [False, True])
def test_archives_of_stable_baselines_are_read_with_their_evaluations_packed_or_not(tmp_path, catalogue, unpacked):
    for steps in (1000, 2000):
        path = archive_of(tmp_path / f"rl_model_{steps}_steps.zip", steps)
        if unpacked:
            zipfile.ZipFile(path).extractall(path.with_suffix(""))
            path.unlink()
    evaluations_of(tmp_path)
    report = ingest(catalogue, tmp_path)
    assert (report.failed, report.side_file_failures, report.not_read, report.runs) == ([], [], [], 1)
    assert len(report.ignored if isinstance(report.ignored, list) else range(report.ignored)) == (6 if unpacked else 0)
    assert {c.epoch: c.metrics for c in catalogue.checkpoints()} == {
        1000: {"eval/mean_reward": 2.0, "eval/mean_ep_length": 9.0},
        2000: {"eval/mean_reward": 6.0, "eval/mean_ep_length": 9.0},
    }


def test_damaged_archives_of_stable_baselines_are_named(tmp_path, catalogue):
    archive_of(tmp_path / "a" / "best_model.zip", 1, **{"policy.pth": b"no checkpoint"})
    whole = archive_of(tmp_path / "b" / "best_model.zip", 1).read_bytes()
    (tmp_path / "b" / "best_model.zip").write_bytes(b"PK\x03\x04" + whole[len(whole) // 2 :])
    squeezed = tmp_path / "c" / "best_model.zip"
    squeezed.parent.mkdir()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", saved(weights(1)))
    archive_of(tmp_path / "d" / "best_model.zip", 1)
    report = ingest(catalogue, tmp_path)
    reasons = {Path(f.path).parent.name: f.reason for f in report.failed}
    assert reasons.keys() == {"a", "b", "c"}
    assert "compressed" in reasons["c"]
    assert [c.run for c in catalogue.checkpoints()] == ["d"]


PICKLED = "gAWVBwAAAAAAAACMA2FiY5Qu"
SCHEDULE = {":type:": "<class 'stable_baselines3.common.utils.FloatSchedule'>", ":serialized:": PICKLED}
SAID = {
    "policy_class": {":type:": "<class 'abc.ABCMeta'>", ":serialized:": PICKLED, "__module__": "policies"},
    "policy_kwargs": {
        ":type:": "<class 'dict'>", ":serialized:": PICKLED,
        "net_arch": "[64, 64]", "activation_fn": "<class 'torch.nn.modules.activation.Tanh'>",
    },
    "verbose": 0, "num_timesteps": 3000, "start_time": 17, "tensorboard_log": None, "_n_updates": 68, "seed": 5,
    "learning_rate": 0.001, "gamma": 0.9, "ent_coef": "auto", "use_sde": False, "target_kl": None,
    "clip_range": SCHEDULE | {"value_schedule": "ConstantSchedule(val=0.12)"},
    "lr_schedule": SCHEDULE | {"value_schedule": "ConstantSchedule(val=0.001)"},
    "observation_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", ":serialized:": PICKLED, "shape": "(4,)"},
    "rollout_buffer_kwargs": {},
}  # fmt: skip


def test_the_arguments_of_an_archive_of_stable_baselines_are_its_hyperparameters(tmp_path, catalogue):
    archive_of(tmp_path / "a" / "best_model.zip", 1, data=json.dumps(SAID).encode())
    plain = SAID | {"policy_kwargs": {"net_arch": [32, 32]}, "clip_range": SCHEDULE, "num_timesteps": True}
    archive_of(tmp_path / "b" / "rl_model_500_steps.zip", 2, data=json.dumps(plain).encode())
    assert ingest(catalogue, tmp_path).failed == []
    said = {r.name: r.hyperparameters for r in catalogue.runs()}
    same = {"seed": 5, "learning_rate": 0.001, "gamma": 0.9, "ent_coef": "auto", "use_sde": False}
    assert said == {
        "a": {
            **same, "clip_range": 0.12, "policy_kwargs.net_arch": "[64, 64]", "policy_kwargs.activation_fn": "Tanh",
        },
        "b": {**same, "policy_kwargs.net_arch": "[32, 32]"},
    }  # fmt: skip
    assert {c.run: c.epoch for c in catalogue.checkpoints()} == {"a": 3000, "b": 500}


@pytest.mark.parametrize(
    ("data", "part"),
    [(b"{", "Expecting property name"), (b"[" * 200_000, "recursion"), (b"[1]", "a list, expected an object"),
     (b'{"a": "' + b"x" * (16 << 20) + b'"}', "more than 16,777,216 bytes")],
    ids=["cut", "deep", "a list", "large"],
)  # fmt: skip
def test_arguments_that_cannot_be_read_are_named_and_the_policy_goes_in(tmp_path, catalogue, data, part):
    archive_of(tmp_path / "best_model.zip", 1, data=data)
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (1, [])
    (note,) = report.side_file_failures
    assert "what it says of its arguments cannot be read" in note.reason
    assert part in note.reason


def test_damaged_or_odd_arguments_take_no_policy_with_them(tmp_path, catalogue):
    odd = {"clip_range": SCHEDULE | {"value_schedule": "ConstantSchedule(val=e-)"}, "gamma": 0.9}
    archive_of(tmp_path / "odd" / "best_model.zip", 1, data=json.dumps(odd).encode())
    squeezed = archive_of(tmp_path / "squeezed" / "best_model.zip", 2, data=b"")
    with zipfile.ZipFile(squeezed, "w") as archive:
        archive.writestr("policy.pth", saved(weights(2)))
        archive.writestr("data", json.dumps(SAID).encode(), zipfile.ZIP_DEFLATED)
        place = archive.getinfo("data").header_offset + 30 + len("data")
    content = bytearray(squeezed.read_bytes())
    content[place : place + 16] = b"\xff" * 16
    squeezed.write_bytes(content)
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.failed) == (2, [])
    assert {r.name: r.hyperparameters for r in catalogue.runs()} == {"odd": {"gamma": 0.9}, "squeezed": {}}
    (note,) = report.side_file_failures
    assert "what it says of its arguments cannot be read" in note.reason


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 no archive",
        array(np.savez, other=np.ones(3)),
        array(np.savez, timesteps=np.array([{}], dtype=object)),
    ],
    ids=["damaged", "others", "pickled"],
)
def test_an_evaluations_file_that_is_none_is_named(tmp_path, catalogue, content):
    (tmp_path / "evaluations.npz").write_bytes(content)
    (tmp_path / "policy.pth").write_bytes(saved(weights(1)))
    report = ingest(catalogue, tmp_path)
    assert [f.reason.partition(":")[0] for f in report.side_file_failures] == ["not a log of EvalCallback"]
    assert report.added == 1


def test_a_folder_inside_a_checkpoint_of_its_kind_is_a_part_of_it(tmp_path, catalogue):
    for step in (100, 200):
        (tmp_path / "run" / str(step) / "default").mkdir(parents=True)
        (tmp_path / "run" / str(step) / "_CHECKPOINT_METADATA").write_text("{}")
        (tmp_path / "run" / str(step) / "default" / "manifest.ocdbt").write_text("x")
    (kind,) = ingest(catalogue, tmp_path, jobs=1).not_read
    assert (kind.kind, kind.count) == ("Orbax (JAX, Flax)", 2)
