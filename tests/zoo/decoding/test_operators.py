"""Operators of mergekit: what is saved is what mergekit makes, by itself and from the recipe beside it."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.mergekit import mergekit_recipe
from epsopt.zoo.decoding.operator_names import OPERATORS, require_operator
from epsopt.zoo.decoding.operators import apply_operator
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined, recombination
from epsopt.zoo.decoding.tensor_file import TensorType
from epsopt.zoo.errors import EpsoptError, UsageError

from ..adapters import save_adapter, save_base  # noqa: TID252

needs_mergekit = pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit is an optional extra")
TYPES = {"model.weight": TensorType(torch.bfloat16, (2, 2))}


def parent(path):
    return Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def recipe(made_of, base=None):
    from ruamel.yaml import YAML

    text = mergekit_recipe(made_of, TYPES, {"base": base})
    return None if text is None else YAML(typ="safe").load(text)


def test_recipes_of_operators_name_the_base_and_give_each_model_what_it_needs():
    one, two, base = (Parent(f"/runs/{name}/model.safetensors", name) for name in ("one", "two", "base"))
    found = recipe(Recombination((one, two), ((0.25, 0.75),), operator="ties", base=base, density=0.4))
    assert found == {
        "merge_method": "ties",
        "base_model": "/runs/base",
        "models": [
            {"model": "/runs/one", "parameters": {"weight": 0.25, "density": 0.4}},
            {"model": "/runs/two", "parameters": {"weight": 0.75, "density": 0.4}},
        ],
        "dtype": "bfloat16",
    }
    found = recipe(Recombination((one, two), ((0.1, 0.9), (0.25, 0.75)), ("*.mlp.*",), operator="slerp"))
    assert found["base_model"] == "/runs/one"
    assert found["models"] == [{"model": "/runs/one"}, {"model": "/runs/two"}]
    assert found["parameters"] == {"t": [{"filter": ".mlp.", "value": 0.9}, {"value": 0.75}]}
    assert recipe(Recombination((one, two), ((0.5, 0.5),), operator="dare", base=base)) is None, "it draws at random"


def test_what_an_operator_lacks_is_said_before_anything_is_measured(monkeypatch):
    one, two = (Parent(f"/runs/{name}/model.safetensors", name) for name in ("one", "two"))
    with pytest.raises(UsageError, match="base"):
        Recombination((one, two), ((0.5, 0.5),), operator="ties")
    monkeypatch.setitem(sys.modules, "mergekit", None)
    monkeypatch.setattr("epsopt.zoo.decoding.operator_names.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'epsopt\[mergekit\]'"):
        require_operator("ties", 3)
    with pytest.raises(UsageError, match="two checkpoints, 3 were named"):
        require_operator("slerp", 3)
    require_operator("linear", 3)


def test_mergekit_is_asked_for_each_tensor_with_the_coefficients_of_its_parents(monkeypatch):
    calls = []

    def merge_state_dicts(models, method, *, parameters=None, base=None, strict=True, dtype=None, out_dtype=None):
        calls.append({"models": list(models), "method": method, "parameters": parameters, "base": base, "dtype": dtype})
        return {"w": torch.rand(2)}

    for name in ("mergekit", "mergekit.merge_methods"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    api = ModuleType("mergekit.merge_methods.api")
    api.merge_state_dicts = merge_state_dicts
    monkeypatch.setitem(sys.modules, api.__name__, api)
    tensors = [torch.zeros(2), torch.ones(2)]
    how = {"density": 0.3, "dtype": torch.float32}
    drawn = [apply_operator(OPERATORS["dare"], "w", tensors, (0.2, 0.8), base=torch.ones(2), **how) for _ in range(2)]
    assert torch.equal(*drawn), "what is drawn is drawn again when the merge is saved"
    assert calls[0] == {
        "models": ["0", "1", "base"],
        "method": "dare_ties",
        "parameters": {"weight": {"0": 0.2, "1": 0.8}, "density": {"0": 0.3, "1": 0.3}},
        "base": "base",
        "dtype": torch.float32,
    }
    apply_operator(OPERATORS["slerp"], "w", tensors, (0.2, 0.8), base=None, **how)
    assert (calls[2]["parameters"], calls[2]["base"]) == ({"t": 0.8}, "0")


def test_a_parent_by_itself_is_that_parent_whatever_the_operator(runs, catalogue):
    from epsopt.zoo import ingest

    ingest(catalogue, runs, jobs=1)
    one, two = catalogue.checkpoints()[:2]
    base = Parent("/base/model.pt", "0")
    assert recombination([one, two], [[1.0, 0.0]], operator="ties", base=base).operator == "linear"
    assert recombination([one, two], [[0.5, 0.5]], operator="ties", base=base).operator == "ties"


def test_adapters_are_merged_linearly_and_nothing_else(tmp_path):
    base = save_base(tmp_path / "base")
    files = [parent(save_adapter(base, tmp_path / str(k), k)) for k in (1, 2)]
    with WeightDecoder() as decoder, pytest.raises(EpsoptError, match="merge adapters linearly"):
        decoder.decode(Recombination(tuple(files), ((0.5, 0.5),), operator="slerp"))


def models(folder, dtype):
    """A base and two models that came from it, as transformers saves them, with shapes that TIES tells apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=16, tie_word_embeddings=True)  # fmt: skip
    torch.manual_seed(0)
    model, found = LlamaForCausalLM(shape), []
    begun = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.copy_(begun[key] + (0.0 if name == "base" else 0.1) * torch.randn_like(p))
        model.to(dtype).save_pretrained(folder / name)
        model.float()
        found.append(parent(folder / name / "model.safetensors"))
    return found


@needs_mergekit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", ["linear", "slerp", "ties", "task_arithmetic", "breadcrumbs"])
def test_mergekit_makes_the_same_weights_from_the_recipe_beside_a_merge(tmp_path, operator, dtype):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from ruamel.yaml import YAML

    base, one, two = models(tmp_path / "models", dtype)
    base = base if operator not in ("linear", "slerp") else None
    made_of = Recombination((one, two), ((0.2, 0.8), (0.6, 0.4)), ("*.mlp.*",), operator=operator, base=base)
    out = tmp_path / "m" / "model.safetensors"
    with WeightDecoder() as decoder:
        decoder.save(decoder.decode(made_of), out, Provenance("merge"))
    recipe = YAML(typ="safe").load(out.parent / "mergekit.yml")
    run_merge(MergeConfiguration.model_validate(recipe), str(tmp_path / "again"), MergeOptions(quiet=True))
    again, ours = load_file(tmp_path / "again" / "model.safetensors"), load_file(out)
    shared = set(again) & set(ours)
    assert len(shared) >= 10
    for name in shared:
        torch.testing.assert_close(again[name], ours[name], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@needs_mergekit
@pytest.mark.parametrize("operator", ["dare", "dare_linear", "della", "multislerp"])
def test_what_is_drawn_at_random_is_drawn_alike_when_it_is_saved(tmp_path, operator):
    files = []
    for k in range(3):
        torch.manual_seed(k)
        (tmp_path / str(k)).mkdir()
        save_file({"w": torch.randn(40, 40), "n": torch.tensor(k)}, tmp_path / str(k) / "model.safetensors")
        files.append(parent(tmp_path / str(k) / "model.safetensors"))
    base = files[0] if OPERATORS[operator].from_base else None
    made_of = Recombination(tuple(files[1:]), ((0.2, 0.8),), operator=operator, base=base, density=0.3)
    with WeightDecoder() as decoder:
        first, second = (load_file(decoder.decode(made_of).path) for _ in range(2))
    assert torch.equal(first["w"], second["w"])
    assert torch.isfinite(first["w"]).all()
    assert int(first["n"]) in (1, 2), "whole numbers are those of a parent"


def test_what_mergekit_merged_is_read_as_a_merge(tmp_path, catalogue):
    from epsopt.zoo import ingest

    for k, name in enumerate(("trained", "merged", "broken")):
        torch.manual_seed(k)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        save_file({"w": torch.randn(40, 40)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"hidden_size": 40}')
    recipe = "models:\n  - model: org/one\n    parameters: {weight: 0.5}\nmerge_method: ties\nbase_model: org/base\n"
    (tmp_path / "runs" / "merged" / "mergekit_config.yml").write_text(recipe)
    (tmp_path / "runs" / "broken" / "mergekit_config.yml").write_text("merge_method: [")
    assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
    found = {c.run: c for c in catalogue.checkpoints()}
    assert is_recombined(found["merged"])
    assert found["merged"].hyperparameters["merge_method"] == "ties"
    assert not is_recombined(found["trained"])
    assert not is_recombined(found["broken"])
