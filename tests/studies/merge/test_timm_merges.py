"""Models of timm: what is saved of a merge of its checkpoints loads with timm, and measures what it measured."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from epsopt.studies import load_project
from epsopt.studies.merge.merge_sources import choose_sources
from epsopt.studies.merge.weight_space_merge import merge_in_weight_space
from epsopt.studies.output_paths import decoded_file
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Recombination

timm = pytest.importorskip("timm")

HOOK = """
import timm
import torch

def task(turned):
    g = torch.Generator().manual_seed(5)
    labels = torch.arange(48) % 3
    images = 0.5 * torch.randn(48, 3, 32, 32, generator=g)
    images[torch.arange(48), labels] += 1.0  # each class is brighter in a colour of its own
    return (images.flip(1) if turned else images), labels

@torch.no_grad()
def judge(model):
    model.eval()
    losses = [float(torch.nn.functional.cross_entropy(model(x), y)) for x, y in map(task, (False, True))]
    return {"eval_loss": losses[0], "eval_turned_loss": losses[1]}

def evaluate(state):
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(state)
    return judge(model)
"""
FILE = """
[project]
name = "timm"
runs = "output"
[objectives.eval_loss]
direction = "minimize"
[objectives.eval_turned_loss]
direction = "minimize"
[hooks]
evaluate = "timm_hook:evaluate"
[space.lr]
type = "float"
low = 0.0
high = 1.0
"""
CLASSES = 3
STATISTICS = "the checkpoints hold running statistics of BatchNorm, which in a merge are those of no network"


@pytest.fixture
def hook(tmp_path, monkeypatch):
    (tmp_path / "timm_hook.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    import timm_hook

    yield timm_hook
    sys.modules.pop("timm_hook", None)


def train(folder: Path, lr: float, hook: ModuleType, *, turned: bool) -> None:
    """Train as timm's train.py does, which begins every run with the same weights here, and let timm write it."""
    from timm.utils import CheckpointSaver, update_summary

    folder.mkdir(parents=True)
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    args = Namespace(model="test_resnet", num_classes=CLASSES, lr=lr, opt="sgd", epochs=3)
    (folder / "args.yaml").write_text(yaml.safe_dump(vars(args)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    saver = CheckpointSaver(model, optimizer, args, checkpoint_dir=str(folder), decreasing=True)
    images, labels = hook.task(turned)
    for epoch in range(args.epochs):
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        judged = {name.removeprefix("eval_"): value for name, value in hook.judge(model).items()}
        update_summary(epoch, OrderedDict(loss=loss.item()), judged, str(folder / "summary.csv"), lr=lr,
                       write_header=epoch == 0)  # fmt: skip
        saver.save_checkpoint(epoch, metric=judged["loss"])


def test_a_merge_of_timm_s_checkpoints_loads_with_timm(tmp_path, hook):
    (tmp_path / "epsopt.toml").write_text(FILE)
    for name, turned in (("plain", False), ("turned", True)):
        train(tmp_path / "output" / name, 0.05, hook, turned=turned)
    assert {p.name for p in (tmp_path / "output" / "plain").iterdir()} == {
        "args.yaml", "summary.csv", "last.pth.tar", "model_best.pth.tar", *(f"checkpoint-{i}.pth.tar" for i in range(3))
    }  # fmt: skip
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        assert not ingest(catalogue, tmp_path / "output", jobs=1).failed
        checkpoints, project = catalogue.checkpoints(), load_project(tmp_path)
        sources = choose_sources(checkpoints, catalogue.lineages(), project.objectives)
        with WeightDecoder(project.evaluate) as decoder:
            found = merge_in_weight_space(
                decoder, project, checkpoints, sources,
                lambda i, parents: decoded_file(tmp_path / "merged", f"merged_{i:03d}", None, parents), budget=4,
            )  # fmt: skip
    assert [sentence.split(":")[0] for sentence in found.disagreements] == [STATISTICS], (
        "the hook measures what was logged"
    )
    assert found.joined
    for place in found.joined:
        tried, file = found.tried[place], found.saved[place]
        model = timm.create_model("test_resnet", num_classes=CLASSES, checkpoint_path=str(file))
        assert hook.judge(model) == pytest.approx(tried.measured, abs=1e-3)
        wanted = combined(tried.recombination)
        assert wanted.keys() == {n for n, t in model.state_dict().items() if t.is_floating_point()}
        for name, tensor in wanted.items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def combined(made_of: Recombination) -> dict[str, torch.Tensor]:
    """The weighted sum of the parents' state dicts as timm wrote them; no variance falls below every parent's."""
    (shares,) = made_of.coefficients
    states = [torch.load(p.path, weights_only=False)["state_dict"] for p in made_of.parents]
    out = {}
    for name in (n for n, t in states[0].items() if t.is_floating_point()):
        own = torch.stack([state[name] for state in states])
        out[name] = torch.tensordot(torch.tensor(shares, dtype=own.dtype), own, dims=1)
        if name.endswith("running_var"):
            out[name] = out[name].maximum(own.amin(dim=0))
    return out
