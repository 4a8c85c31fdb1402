"""Objects of foreign classes in a checkpoint: weights are read, what they hold is data, and nothing of theirs runs."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import io
import pathlib
import random
import re
import subprocess
import sys
import typing
import uuid
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.layouts.open_checkpoint import load_weights
from epsopt.zoo.layouts.side_file_reader import parse_yaml

WEIGHTS = {"w": torch.arange(12.0).reshape(3, 4)}


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Optimiser:
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    _hidden: int = 1


@dataclasses.dataclass(slots=True)
class Slotted:
    width: int


class Tensorlike:
    def __init__(self, data: torch.Tensor) -> None:
        self.data = data


def hyperparameters_of(catalogue, folder: Path) -> dict:
    report = ingest(catalogue, folder)
    assert (report.added, report.failed) == (1, [])
    return catalogue.runs()[0].hyperparameters


def save(path: Path, config, **more) -> Path:
    torch.save({"model": WEIGHTS, "config": config, **more}, path)
    return path


def test_a_lightning_checkpoint_with_an_omegaconf_configuration_is_read(tmp_path, catalogue):
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    omegaconf = pytest.importorskip("omegaconf", reason="hydra-core is not installed")

    class Model(pl.LightningModule):
        def __init__(self, cfg) -> None:
            super().__init__()
            self.save_hyperparameters(cfg)
            self.net = torch.nn.Linear(3, 1)

        def training_step(self, batch, _index):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    text = "lr: 0.001\noptimizer: {name: adam, betas: [0.9, 0.99]}\nwhere: ${optimizer.name}\nnothing: null\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)))
        trainer.fit(Model(omegaconf.OmegaConf.create(text)), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="omegaconf"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert hyperparameters_of(catalogue, tmp_path) == {
        "lr": 0.001,
        "optimizer.name": "adam",
        "optimizer.betas": "[0.9, 0.99]",
        "where": "${optimizer.name}",
        "nothing": None,
    }
    assert list(load_weights(tmp_path / "last.ckpt")) == ["net.weight", "net.bias"]


def test_what_people_put_into_configurations_is_read_as_what_it_holds(tmp_path, catalogue):
    config = argparse.Namespace(
        lr=0.1,
        out=Path("runs") / "a",
        root=Path("/data"),
        colour=Colour.RED,
        optimiser=Optimiser(0.5),
        slotted=Slotted(7),
        decay=np.float64(0.25),
        counts=collections.defaultdict(list, {"a": [1, 2]}),
        kind=Optimiser,
        noise=np.arange(3),
    )
    save(tmp_path / "a.pt", config)
    assert hyperparameters_of(catalogue, tmp_path) == {
        "lr": 0.1,
        "out": "runs/a",
        "root": "/data",
        "colour": "red",
        "optimiser.lr": 0.5,
        "optimiser.betas": "[0.9, 0.99]",
        "slotted.width": 7,
        "decay": 0.25,
        "counts.a": "[1, 2]",
        "kind": f"<{__name__}.Optimiser>",
        "noise": "tensor of shape (3,)",
    }


def test_objects_that_refer_to_one_another_are_read_once(tmp_path, catalogue):
    parent, child = argparse.Namespace(lr=0.1), argparse.Namespace(width=3)
    parent.child, child.parent = child, parent
    save(tmp_path / "a.pt", {"first": parent, "second": parent})
    assert hyperparameters_of(catalogue, tmp_path) == {
        "first.lr": 0.1,
        "first.child.width": 3,
        "first.child.parent": "<argparse.Namespace>",
        "second.lr": 0.1,
        "second.child.width": 3,
        "second.child.parent": "<argparse.Namespace>",
    }


def test_nothing_of_a_foreign_class_is_imported_made_or_restored(tmp_path, catalogue, monkeypatch):
    code = f"open({str(tmp_path / 'fired')!r}, 'a').write('fired')"
    (tmp_path / "loud.py").write_text(
        f"{code}\nclass Loud:\n    def __new__(cls):\n        {code}\n        return object.__new__(cls)\n"
        f"    def __setstate__(self, state):\n        {code}\n        self.__dict__ = state\n"
        "    def __reduce__(self):\n        return (Loud, (), {'lr': 0.5})\n"
    )
    program = (
        "import torch, loud; torch.save({'model': {'w': torch.eye(3)}, 'config': {'a': loud.Loud()}}, 'runs/a.pt')"
    )
    (tmp_path / "runs").mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (tmp_path / "fired").exists(), "the class does fire where it is used"
    (tmp_path / "fired").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert hyperparameters_of(catalogue, tmp_path / "runs") == {"a.lr": 0.5}
    assert list(load_weights(tmp_path / "runs" / "a.pt")) == ["w"]
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"w": torch.eye(3), "v": Tensorlike(torch.eye(2))}},
        {"model": Tensorlike(torch.eye(2))},
        {"w": torch.eye(3), "v": Tensorlike(torch.eye(2))},
    ],
    ids=["beside tensors", "the model itself", "at the top level"],
)
def test_weights_inside_a_foreign_object_are_refused_not_lost(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"Tensorlike, which is code"):
        load_weights(tmp_path / "a.pt")


def reduces_to(function, *arguments):
    return type("Evil", (), {"__reduce__": lambda _self: (function, arguments)})()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(print, ("hello",)), (subprocess.getoutput, ("true",)), (torch.hub.load, ("a", "b")), (eval, ("1",))],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_function_of_python_or_torch_is_refused_beside_whatever_else(tmp_path, function, arguments):
    save(tmp_path / "a.pt", argparse.Namespace(lr=0.1), extra=reduces_to(function, *arguments))
    with pytest.raises(UnreadableCheckpoint, match="which is code and not data"):
        load_weights(tmp_path / "a.pt")


def test_the_older_format_has_no_checksums_and_is_read_as_strictly_as_before(tmp_path):
    content = {"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnreadableCheckpoint, match=r"argparse.Namespace.*vars\(args\)"):
        load_weights(tmp_path / "a.pt")


def test_thousands_of_classes_and_endless_objects_are_refused(tmp_path):
    deep = argparse.Namespace()
    for _ in range(40):
        deep = argparse.Namespace(a=deep, b=deep)
    save(tmp_path / "a.pt", deep)
    with pytest.raises(UnreadableCheckpoint, match="unfold into"):
        load_weights(tmp_path / "a.pt")
    classes = [type(f"C{i}", (), {"__module__": __name__}) for i in range(1_001)]
    for c in classes:
        globals()[c.__name__] = c
    save(tmp_path / "a.pt", [c() for c in classes])
    with pytest.raises(UnreadableCheckpoint, match="which is code"):
        load_weights(tmp_path / "a.pt")


class Dotted(dict):
    """A dictionary of a program's own, as easydict and mmengine have it."""


class Ordered(collections.OrderedDict):
    pass


class Steps(list):
    pass


class Hidden:
    def __init__(self) -> None:
        self._fields = {"lr": 0.1, "depth": 3}
        self._locked = True


def step(rate: float) -> float:
    return rate


def test_one_odd_hyperparameter_does_not_cost_the_weights(tmp_path, catalogue):
    """The shape of lightning-hydra-template: partials, classes, modules, and whatever else people leave there."""
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.AdamW(model.parameters(), lr=0.25)
    odd = {
        "partial": functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99)),
        "class": torch.nn.ReLU,
        "module": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()),
        "optimiser": adam,
        "scheduler": torch.optim.lr_scheduler.StepLR(adam, 2),
        "function": torch.nn.functional.relu,
        "builtin": len,
        "own": step,
        "method": Colour.mro,
        "none": type(None),
        "ellipsis": ...,
        "deque": collections.deque([1, 2, 3], maxlen=5),
        "ordered": Ordered(b=1, a=2),
        "dotted": Dotted(lr=0.5),
        "listed": Steps([1, 2]),
        "user": collections.UserDict({"x": 7}),
        "pattern": re.compile("a+b", re.IGNORECASE),
        "flag": re.IGNORECASE,
        "windows": pathlib.PureWindowsPath("C:\\data\\set"),
        "when": dt.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001
        "span": dt.timedelta(hours=2),
        "id": uuid.UUID(int=5),
        "amount": decimal.Decimal("0.10"),
        "slice": slice(1, None, 2),
        "state": np.random.RandomState(0),
        "generator": random.Random(0),
        "array": np.ones((2, 3), dtype=np.float32),
        "numbers": {"half": np.float16(0.5), "long": np.int64(7), "true": np.bool_(True)},
        "hidden": Hidden(),
        "dtype": torch.bfloat16,
        "type": typing.Optional[int],  # noqa: UP045
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "raw": b"\x00\xff",
        "set": {1},
        "frozen": frozenset({2}),
        "complex": 1 + 2j,
    }
    for name, value in odd.items():
        save(tmp_path / f"{name}.pt", {"lr": 0.1, "odd": value}, epoch=0)
    save(tmp_path / "all.pt", {"lr": 0.1, **odd}, epoch=1, pytorch_lightning_version="2.6.0")
    report = ingest(catalogue, tmp_path)
    assert report.failed == []
    for path in tmp_path.glob("*.pt"):
        assert torch.equal(load_weights(path)["w"], WEIGHTS["w"])
    said = next(c.hyperparameters for c in catalogue.checkpoints() if c.path.endswith("all.pt"))
    assert said == {
        "lr": 0.1,
        "partial._target_": "<torch.optim.adam.Adam>",
        "partial.lr": 0.001,
        "partial.betas": "[0.9, 0.99]",
        "class": "<torch.nn.modules.activation.ReLU>",
        "module": "<torch.nn.modules.container.Sequential>",
        **{k: v for k, v in said.items() if k.startswith(("optimiser.", "scheduler.", "state.", "generator."))},
        "optimiser.lr": 0.25,
        "scheduler.step_size": 2,
        "function": "<torch.nn.functional.relu>",
        "builtin": "<builtins.len>",
        "own": f"<{__name__}.step>",
        "method": f"<{__name__}.Colour.mro>",
        "none": "<NoneType>",
        "ellipsis": "...",
        "deque": "[1, 2, 3]",
        "ordered.b": 1,
        "ordered.a": 2,
        "dotted.lr": 0.5,
        "listed": "[1, 2]",
        "user.x": 7,
        "pattern": "a+b",
        "flag": 2,
        "windows": "C:\\data\\set",
        "when": "2026-01-02 03:04:05",
        "span": "2:00:00",
        "id": str(uuid.UUID(int=5)),
        "amount": 0.1,
        "slice": "slice(1, None, 2)",
        "generator": "<random.Random>",
        "array": "tensor of shape (2, 3)",
        "numbers.half": 0.5,
        "numbers.long": 7,
        "numbers.true": True,
        "hidden.lr": 0.1,
        "hidden.depth": 3,
        "dtype": "torch.bfloat16",
        "type": "<_operator.getitem>",
        "size": "[2, 3]",
        "device": "cuda:1",
        "raw": r"\x00\xff",
        "set": "[1]",
        "frozen": "[2]",
        "complex": "(1+2j)",
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(tmp_path, protocol):
    config = argparse.Namespace(lr=0.1, when=dt.date(2026, 1, 2), names={"a", "b"}, noise=np.arange(3))
    torch.save({"model": WEIGHTS, "config": config}, tmp_path / "a.pt", pickle_protocol=protocol)
    torch.save({"model": WEIGHTS, "config": {"lr": 0.1}}, tmp_path / "b.pt", pickle_protocol=protocol)
    for name in ("a.pt", "b.pt"):
        assert torch.equal(load_weights(tmp_path / name)["w"], WEIGHTS["w"])


def test_the_message_names_what_blocked_not_what_came_first(tmp_path):
    save(tmp_path / "a.pt", argparse.Namespace(a=Colour.RED, b=len), extra=reduces_to(subprocess.getoutput, "true"))
    with pytest.raises(UnreadableCheckpoint, match=r"refers to subprocess\.getoutput, which is code"):
        load_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"model": torch.nn.Linear(2, 1)},
        {"net": torch.nn.Linear(2, 1), "acc": torch.tensor(0.9)},
        {"net": torch.nn.Linear(2, 1), "epoch": 3},
        torch.nn.Linear(2, 1),
    ],
)
def test_a_whole_module_in_the_place_of_the_model_is_refused_with_what_to_do(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"torch.nn.modules.linear.Linear, which is code.*state_dict\(\)"):
        load_weights(tmp_path / "a.pt")


def test_arrays_of_numpy_are_weights(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "b.weight": np.arange(3, dtype=">f4"),
        "n": np.array(7),
    }
    for content in ({"params": arrays, "epoch": 1}, arrays, {"model": collections.OrderedDict(arrays)}):
        torch.save(content, tmp_path / "a.pt")
        loaded = load_weights(tmp_path / "a.pt")
        assert list(loaded) == list(arrays)
        assert all(np.array_equal(loaded[n].numpy(), arrays[n]) for n in arrays)


def test_an_array_of_objects_is_no_tensor_and_an_array_that_lies_about_its_size_is_none(tmp_path, catalogue):
    class Lying:
        def __reduce__(self):
            reconstruct, arguments, state = np.ones(3).__reduce__()
            return reconstruct, arguments, (state[0], (10**6,), *state[2:])

    save(tmp_path / "a.pt", {"objects": np.array([len, print]), "lying": Lying()})
    assert hyperparameters_of(catalogue, tmp_path) == {
        "objects": "<numpy._core.multiarray._reconstruct>",
        "lying": "<numpy._core.multiarray._reconstruct>",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 0, torch.qint8), "a quantised tensor"),
        (
            lambda: torch.quantize_per_channel(torch.rand(3, 4), torch.ones(3), torch.zeros(3), 0, torch.qint8),
            "a quant",
        ),
        (lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]), "a nested tensor"),
        (lambda: torch.empty(3, 4, device="meta"), "a tensor without values"),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"config": argparse.Namespace(lr=0.1)}])
def test_a_tensor_that_is_not_plain_numbers_is_called_what_it_is(tmp_path, make, what, beside):
    torch.save({"model": {"w": make(), "v": torch.ones(2)}, **beside}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match=f"tensor 'w' is {what}"):
        load_weights(tmp_path / "a.pt")


def test_a_lightning_run_of_the_hydra_template_is_read(tmp_path, catalogue):
    """Its module takes the network, and the optimiser as a partial, and saves them all as hyperparameters."""
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    class Model(pl.LightningModule):
        def __init__(self, net, optimizer, scheduler, lr: float = 0.5) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False)
            self.net = net

        def training_step(self, batch, _index):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return self.hparams.optimizer(self.parameters())

    rate = functools.partial(torch.optim.Adam, lr=0.002, weight_decay=0.0)
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)))
        trainer.fit(Model(torch.nn.Linear(3, 1), rate, decay), data)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert hyperparameters_of(catalogue, tmp_path) == {
        "lr": 0.5,
        "net": "<torch.nn.modules.linear.Linear>",
        "optimizer._target_": "<torch.optim.adam.Adam>",
        "optimizer.lr": 0.002,
        "optimizer.weight_decay": 0.0,
        "scheduler._target_": "<torch.optim.lr_scheduler.StepLR>",
        "scheduler.step_size": 3,
    }
    assert list(load_weights(tmp_path / "last.ckpt")) == ["net.weight", "net.bias"]


class Reduced:
    """Pickles as a call of `function` with what else is given; the function need not exist for the reader."""

    def __init__(self, *how) -> None:
        self.how = how

    def __reduce__(self):
        return self.how


def rebuilt(*_arguments) -> None:
    """Make a tensor of a library's own class, as far as a pickle knows."""


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Reduced(rebuilt, (t, 1)),
        lambda t: Reduced(rebuilt, (), (t, 1)),
        lambda t: Reduced(rebuilt, ([t],), None),
        lambda t: Reduced(rebuilt, (t.untyped_storage(), 0)),
        lambda t: Reduced(torch._tensor._rebuild_from_type_v2, (rebuilt, Tensorlike, (t,), {})),
        lambda t: Reduced(rebuilt, (), {"_inner": {"data": [t]}}),
    ],
)
def test_a_weight_of_a_librarys_own_class_is_never_left_out(tmp_path, make):
    torch.save({"model": {"w": make(torch.ones(3)), "v": torch.ones(2)}}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpoint, match=r"tensor 'w' is inside an object of .*(rebuilt|Tensorlike)"):
        load_weights(tmp_path / "a.pt")
    save(tmp_path / "b.pt", {"odd": make(torch.ones(3))})
    assert list(load_weights(tmp_path / "b.pt")) == ["w"]


def test_weights_in_a_dictionary_of_a_programs_own_are_weights(tmp_path):
    weights = Ordered(WEIGHTS)
    weights._metadata = {"": {"version": 1}}
    for content in ({"model": weights}, {"net": Dotted(WEIGHTS)}, weights):
        torch.save(content, tmp_path / "a.pt")
        assert torch.equal(load_weights(tmp_path / "a.pt")["w"], WEIGHTS["w"])


def test_extra_states_of_modules_are_no_weights_and_no_reason(tmp_path):
    torch.save({"model": {**WEIGHTS, "w._extra_state": io.BytesIO(b"abc")}}, tmp_path / "a.pt")
    assert list(load_weights(tmp_path / "a.pt")) == ["w"]


@pytest.mark.parametrize("name", ["q.weight.absmax", "q.qweight", "q.weight.quant_state.bitsandbytes__nf4", "q.SCB"])
def test_weights_that_a_library_packed_are_named(tmp_path, name):
    packed = {"q.weight": torch.zeros(8, dtype=torch.uint8), name: torch.ones(2), "norm.weight": torch.ones(4)}
    torch.save({"model": packed}, tmp_path / "a.pt")
    safetensors.torch.save_file(packed, tmp_path / "a.safetensors")
    for file in ("a.pt", "a.safetensors"):
        with pytest.raises(UnreadableCheckpoint, match="quantised"):
            load_weights(tmp_path / file)


def test_a_partial_says_the_same_in_yaml_and_in_a_pickle_with_what_stands_without_a_name(tmp_path):
    partial = functools.partial(torch.nn.LeakyReLU, 0.1)
    torch.save(
        {"state_dict": {"w.weight": torch.ones(3, 3)}, "hyper_parameters": {"act": partial}}, tmp_path / "a.ckpt"
    )
    (found,) = read_fingerprints([tmp_path / "a.ckpt"], Catalogue(f"sqlite:///{tmp_path / 'a.db'}"))
    expected = {"_target_": "<torch.nn.modules.activation.LeakyReLU>", "_args_": [0.1]}
    assert found.hyperparameters == {"act._target_": expected["_target_"], "act._args_": "[0.1]"}
    assert parse_yaml(tmp_path / "hparams.yaml", yaml.dump({"act": partial})) == {"act": expected}
    kept = functools.partial(torch.optim.Adam, lr=0.5)
    assert parse_yaml(tmp_path / "hparams.yaml", yaml.dump({"a": kept, "c": torch.nn.ReLU})) == {
        "a": {"_target_": "<torch.optim.adam.Adam>", "lr": 0.5},
        "c": "<torch.nn.modules.activation.ReLU>",
    }
