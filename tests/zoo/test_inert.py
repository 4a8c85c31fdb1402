"""Objects of foreign classes in a checkpoint: weights are read, what they hold is data, and nothing of theirs runs."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.ingestion import ingest
from epsopt.zoo.reading.weights import load_weights

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


def told(catalogue, folder: Path) -> dict:
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
    assert told(catalogue, tmp_path) == {
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
    assert told(catalogue, tmp_path) == {
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
    assert told(catalogue, tmp_path) == {
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
    assert told(catalogue, tmp_path / "runs") == {"a.lr": 0.5}
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
