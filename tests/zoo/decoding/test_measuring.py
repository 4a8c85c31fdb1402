"""What an evaluate hook may ask for, and how it is given options."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from epsopt.studies.project.schema import HooksTable
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.measuring import about
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.worker import evaluate
from epsopt.zoo.errors import HookError, UsageError
from epsopt.zoo.reading.hooks import asked_for, load_hook, wants_folder
from epsopt.zoo.reading.source import Limits
from epsopt.zoo.reading.tensors import OpenCheckpoint

HOOK = """
import json
from pathlib import Path
def folder(folder, path, *, parents, dtype, config):
    said = {"path": str(path.relative_to(folder)), "parents": parents, "dtype": dtype, "config": config}
    (Path(__file__).with_name("said.json")).write_text(json.dumps(said))
    return {"there": path.is_file(), "both": float(len(parents))}
def tensors(state, dtype="mine", *, config, slot):
    return {"mine": dtype == "mine", "wide": config["hidden_size"], "slot": slot}
def evaluate(state, scale="1", shift=0):
    return {"scaled": float(scale), "shifted": float(shift)}
"""


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    (tmp_path / "asking.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield tmp_path
    sys.modules.pop("asking", None)
    for spec in [s for s in vars(sys.modules["epsopt.zoo.reading.hooks"])["_HOOKS"] if s.startswith("asking")]:
        del vars(sys.modules["epsopt.zoo.reading.hooks"])["_HOOKS"][spec]


@pytest.fixture
def models(tmp_path):
    """Two models as transformers saves them."""
    files = []
    for k in (1, 2):
        folder = tmp_path / "runs" / str(k)
        folder.mkdir(parents=True)
        save_file({"model.weight": torch.full((2, 3), float(k), dtype=torch.bfloat16)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"hidden_size": 3, "dtype": "bfloat16"}))
        files.append(folder / "model.safetensors")
    return files


def half(files) -> Recombination:
    parents = tuple(Parent(str(f), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files)
    return Recombination(parents, ((0.5, 0.5),))


def test_a_hook_gets_the_path_parents_type_and_configuration_that_it_asks_for(hooks, models):
    with WeightDecoder("asking:folder") as decoder:
        decoded = decoder.decode(half(models))
        assert decoder.measure(decoded) == {"there": 1.0, "both": 2.0}
    said = json.loads((hooks / "said.json").read_text())
    assert said["path"] == "model.safetensors"
    assert [p["path"] for p in said["parents"]] == [str(f) for f in models]
    assert [p["coefficients"] for p in said["parents"]] == [[0.5], [0.5]]
    assert said["dtype"] == "bfloat16"
    assert said["config"] == {"hidden_size": 3, "dtype": "bfloat16"}
    with WeightDecoder("asking:tensors") as decoder:
        found = decoder.measure(decoder.decode(half(models)))
        assert found == {"mine": 1.0, "wide": 3.0, "slot": 0.0}, "a parameter with a default is the hook's own"
        plain = replace(decoded, layout={**decoded.layout, "like": "/nowhere/model.pt", "about": {"config": {"lr": 1}}})
        assert about(plain)["config"] == {"lr": 1}, "of other checkpoints the hyperparameters that they share"


def test_a_hook_that_wants_a_folder_has_no_tensor_read_for_it(hooks, models, monkeypatch):
    read = []
    monkeypatch.setattr(OpenCheckpoint, "read", lambda _self, name, _tensor: read.append(name))
    request = {"hook": "asking:folder", "names": [], "title": "a merge", "corrected": "x", "slot": 0}
    assert evaluate(models[0], request, Limits())["status"] == "folder"
    found = evaluate(models[0], {**request, "folder": str(models[0].parent), "about": {"parents": []}}, Limits())
    assert found["metrics"] == {"there": 1.0, "both": 0.0}
    assert read == []


def test_options_of_a_hook_stand_in_the_project_file(hooks):
    spec = HooksTable(evaluate="asking:scale=2.5;shift=3").evaluate
    function = load_hook(spec, "evaluate")
    assert function({}) == {"scaled": 2.5, "shifted": 3.0}
    assert asked_for(function) == []
    assert not wants_folder(function)
    with pytest.raises(HookError, match="no option 'scales': expected scale, shift"):
        load_hook("asking:scales=2", "evaluate")
    for wrong in ("asking:scale=2;", "asking:=2", "asking:a b", "asking:"):
        with pytest.raises(ValueError, match="key=value"):
            HooksTable(evaluate=wrong)


def test_several_evaluations_need_a_hook_as_one_does(models):
    with WeightDecoder(jobs=2) as decoder, pytest.raises(UsageError, match="evaluate hook"):
        decoder.evaluate_all([half(models)])
