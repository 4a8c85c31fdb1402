"""Low-rank adapters count as what they do: the product of their factors, scaled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import update

from epsopt.zoo import Catalogue, ingest, sketch_distance
from epsopt.zoo.catalogue import tables
from epsopt.zoo.decoding.weight_gram import WeightProducts, weight_products
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.layouts import effective_weights as effective
from epsopt.zoo.layouts.adapters import AdapterConfig
from epsopt.zoo.layouts.effective_weights import effective_weights
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.reading.source import Limits

from ..adapters import change_config, load_base, other_gauge, save_adapter, save_base  # noqa: TID252

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


def looked_at(path):
    with open_checkpoint(path, Limits()) as checkpoint:
        held = effective_weights(checkpoint, Limits())
        return held.fingerprint(), {n: held.read(n) for n in held.tensors}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3, "down_proj": 5}},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"r": 6, "lora_alpha": 6},
    ],
)
def test_an_adapter_is_the_update_that_peft_computes(base, tmp_path, options):
    from peft import PeftModel

    adapter = save_adapter(base, tmp_path / "a", 1, **options)
    whole = PeftModel.from_pretrained(load_base(base), adapter.parent).merge_and_unload().state_dict()
    before = load_base(base).state_dict()
    changed = {n: whole[n] - t for n, t in before.items() if not torch.equal(whole[n], t) and n != "lm_head.weight"}
    _, found = looked_at(adapter)
    found = {n: t for n, t in found.items() if not n.startswith("base_model.")}
    assert found.keys() == changed.keys()
    for name, wanted in changed.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)


def test_no_gauge_of_the_factors_changes_fingerprint_or_distance(base, tmp_path):
    one, two = (save_adapter(base, tmp_path / str(k), k) for k in (1, 2))
    same = other_gauge(one, tmp_path / "gauge", 7)
    assert not torch.allclose(*(load_file(p)[next(iter(load_file(p)))] for p in (one, same)))
    (first, _), (again, _), (other, _) = (looked_at(p) for p in (one, same, two))
    assert (first.names, first.shapes, first.signature) == (again.names, again.shapes, again.signature)
    np.testing.assert_allclose(first.features, again.features, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(first.sketch, again.sketch, rtol=1e-3, atol=1e-4)
    assert sketch_distance(first.sketch, again.sketch) < 1e-4
    assert sketch_distance(first.sketch, other.sketch) > 1.0
    products = products_of([one, same, two])
    g = products.products.sum(axis=0)
    assert g[0, 0] == pytest.approx(g[1, 1], rel=1e-4) == pytest.approx(g[0, 1], rel=1e-4)
    assert g[0, 2] == pytest.approx(g[1, 2], rel=1e-3, abs=1e-5)


def products_of(files):
    base = {"path": f"{ADAPTED}some/base", "sha256": "0" * 64}
    request = {"base": base, "checkpoints": [{"path": str(p), "sha256": digest(p)} for p in files]}
    return WeightProducts.from_message(*weight_products(request, Limits()))


def digest(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_distances_of_adapters_are_those_of_their_products(base, tmp_path):
    files = [save_adapter(base, tmp_path / str(k), k, r=r, lora_alpha=3) for k, r in ((1, 2), (2, 5))]
    products = products_of(files)
    updates = [looked_at(p)[1] for p in files]
    for block, name in enumerate(products.names):
        flat = torch.stack([u[name].double().flatten() for u in updates])
        np.testing.assert_allclose(products.products[block], flat @ flat.T, rtol=1e-5, atol=1e-8)
    # None of them counts as one that did not move, or as one that moved by more than there is.
    moved = np.sqrt(np.diagonal(products.products, axis1=1, axis2=2).T) / products.norms
    assert moved.min() > 0.01
    assert moved.max() < 0.5


def test_adapters_of_any_rank_over_one_base_are_one_lineage(base, tmp_path):
    runs = tmp_path / "runs"
    for k, rank in enumerate((2, 4, 8)):
        for step in (10, 20):
            save_adapter(base, runs / f"run_{k}" / f"checkpoint-{step}", 10 * k + step, r=rank)
    elsewhere = save_adapter(base, runs / "other" / "checkpoint-10", 99)
    change_config(elsewhere, base_model_name_or_path="another/base")
    named_otherwise = save_adapter(base, runs / "slash" / "checkpoint-10", 98)
    change_config(named_otherwise, base_model_name_or_path=f"{base}/")
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        assert not ingest(catalogue, runs, jobs=1).failed
        lineages = {c.run: c.lineage_id for c in catalogue.checkpoints()}
        found = catalogue.lineages()
        counted = {c.n_parameters for c in catalogue.checkpoints() if c.run == "run_0"}
    assert len({lineages[f"run_{k}"] for k in range(3)} | {lineages["slash"]}) == 1
    assert lineages["other"] != lineages["run_0"]
    assert {k.reference_path for k in found} == {f"{ADAPTED}{base.resolve()}", f"{ADAPTED}another/base"}
    assert counted == {2 * (16 * 2 * 2 + 16 * 2 * 2 + 24 * 2 + 16 * 2)}  # what was trained, not what it comes to


def test_adapters_that_name_no_base_are_of_the_base_that_the_project_names(base, tmp_path):
    runs = tmp_path / "runs"
    for k in range(2):
        change_config(save_adapter(base, runs / f"run_{k}" / "checkpoint-5", k), base_model_name_or_path=None)
    found = []
    for name, declared in (("with", str(base)), ("without", "")):
        with Catalogue(f"sqlite:///{tmp_path}/{name}.db", base=declared) as catalogue:
            assert not ingest(catalogue, runs, jobs=1).failed
            found.append(len({c.lineage_id for c in catalogue.checkpoints()}))
    assert found == [1, 2]


def test_a_catalogue_of_before_reads_adapters_again(base, tmp_path):
    runs = tmp_path / "runs"
    save_adapter(base, runs / "run" / "checkpoint-5", 1)
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, runs, jobs=1)
        with catalogue.writing() as connection:
            connection.execute(update(tables.files).values(reader=3))
        assert ingest(catalogue, runs, jobs=1).added == 1
        assert ingest(catalogue, runs, jobs=1).added == 0


def test_a_large_update_is_looked_at_through_a_fixed_sum_of_its_rows_and_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(effective, "SIDE", 32)
    effective.places_and_signs.cache_clear()
    generator = torch.Generator().manual_seed(0)
    files = []
    for k in range(2):
        folder = tmp_path / str(k)
        folder.mkdir()
        tensors = {f"base_model.model.m.q.lora_{n}.weight": torch.randn(shape, generator=generator)
                   for n, shape in (("A", (4, 300)), ("B", (200, 4)))}  # fmt: skip
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": "b"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        files.append(folder / "adapter_model.safetensors")
    files.append(other_gauge(files[0], tmp_path / "gauge", 3))
    prints = [looked_at(p)[0] for p in files]
    updates = [looked_at(p)[1]["m.q.weight"] for p in files]
    assert {p.shapes for p in prints} == {((200, 300),)}
    np.testing.assert_allclose(prints[0].features, prints[2].features, rtol=0.02, atol=0.02)
    assert np.linalg.norm(prints[0].sketch) == pytest.approx(float(updates[0].norm()), rel=0.3)
    assert 1.2 < sketch_distance(prints[0].sketch, prints[1].sketch) < 1.7
    effective.places_and_signs.cache_clear()


def test_a_convolution_s_update_has_its_kernel(tmp_path):
    import peft

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 5, 3)

        def forward(self, x):
            return self.conv(x)

    torch.manual_seed(0)
    net = Net()
    before = net.conv.weight.detach().clone()
    model = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["conv"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    _, found = looked_at(tmp_path / "adapter_model.safetensors")
    update = model.merge_and_unload().conv.weight - before
    torch.testing.assert_close(found["conv.weight"], update, rtol=1e-4, atol=1e-5)


def test_a_configuration_that_cannot_be_read_leaves_the_product():
    assert AdapterConfig({"lora_alpha": "x"}).scale("m", 4) == 1.0
    assert AdapterConfig({"lora_alpha": 8, "alpha_pattern": {"[": 3}}).scale("m", 4) == 2.0


def test_the_order_of_a_set_and_how_a_model_is_run_are_no_choices_of_a_training(base, tmp_path):
    runs = tmp_path / "runs"
    for k, names in enumerate((["q_proj", "v_proj"], ["v_proj", "q_proj"])):
        file = save_adapter(base, runs / f"run_{k}" / "checkpoint-5", k, target_modules=names)
        change_config(file, target_modules=names, peft_version=f"0.{k}")
        config = {"use_cache": bool(k), "pad_token_id": k, "hidden_size": 16 + k}
        (file.parent / "config.json").write_text(json.dumps(config))
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        assert not ingest(catalogue, runs, jobs=1).failed
        one, two = (c.hyperparameters for c in sorted(catalogue.checkpoints(), key=lambda c: c.run))
    assert one["target_modules"] == two["target_modules"]
    assert {name for name in one if one[name] != two[name]} == {"hidden_size"}
