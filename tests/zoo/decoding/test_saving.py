"""What is saved is a model: the library of its parents loads it, and it says what was asked for."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination, is_recombined
from epsopt.zoo.errors import EpsoptError
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.ingestion.ingest import read_fingerprints

from ..adapters import (  # noqa: TID252
    change_config,
    logits,
    merged_logits,
    other_gauge,
    save_adapter,
    save_base,
)

pytest.importorskip("peft")
HOOK = """
from pathlib import Path
def evaluate(folder):
    return {"files": len(list(folder.iterdir())), "config": (folder / "adapter_config.json").exists()}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "folder_hooks.py").write_text(HOOK)
    sys.path.insert(0, str(folder))
    with WeightDecoder("folder_hooks:evaluate") as opened:
        yield opened
    sys.path.remove(str(folder))


def parent(path):
    return Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def saved(decoder, files, coefficients, path, groups=()):
    rows = coefficients if isinstance(coefficients[0], list) else [coefficients]
    parents = tuple(f if isinstance(f, Parent) else parent(f) for f in files)
    recombined = Recombination(parents, tuple(map(tuple, rows)), tuple(groups))
    decoded = decoder.decode(recombined)
    decoder.save(decoded, path, Provenance("merge", None, {"coverage": 0.5}))
    decoder.forget(decoded)
    return path


def test_a_merge_of_adapters_of_any_ranks_is_an_adapter_that_does_what_the_sum_of_updates_does(decoder, base, tmp_path):
    one = save_adapter(base, tmp_path / "a", 1, r=4, lora_alpha=8)
    two = save_adapter(base, tmp_path / "b", 2, r=8, lora_alpha=4, use_rslora=True, rank_pattern={"q_proj": 3})
    out = saved(decoder, [one, two], [0.3, 0.7], tmp_path / "m" / "adapter_model.safetensors")
    wanted = merged_logits(base, [one.parent, two.parent], [0.3, 0.7])
    torch.testing.assert_close(logits(base, out.parent), wanted, rtol=1e-4, atol=1e-4)
    # No gauge of a parent changes what is saved.
    again = saved(decoder, [other_gauge(one, tmp_path / "g", 5), two], [0.3, 0.7],
                  tmp_path / "n" / "adapter_model.safetensors")  # fmt: skip
    torch.testing.assert_close(logits(base, again.parent), wanted, rtol=1e-3, atol=1e-3)


def test_checkpoints_of_one_run_and_merges_with_their_parents_keep_the_rank_that_they_share(decoder, base, tmp_path):
    one, two = (save_adapter(base, tmp_path / str(k), k, r=3) for k in (1, 2))
    first = saved(decoder, [one, two], [0.5, 0.5], tmp_path / "m" / "adapter_model.safetensors")
    second = saved(decoder, [first, one], [0.5, 0.5], tmp_path / "n" / "adapter_model.safetensors")
    ranks = [json.loads((f.parent / "adapter_config.json").read_text())["r"] for f in (first, second)]
    assert ranks == [6, 6]
    torch.testing.assert_close(
        logits(base, second.parent), merged_logits(base, [one.parent, two.parent], [0.75, 0.25]), rtol=1e-4, atol=1e-4
    )


def test_an_adapter_by_itself_comes_out_bit_by_bit_and_the_base_takes_a_share_of_every_update(decoder, base, tmp_path):
    one = save_adapter(base, tmp_path / "a", 1, lora_alpha=5)
    alone = saved(decoder, [one], [1.0], tmp_path / "m" / "adapter_model.safetensors")
    assert all(torch.equal(t, load_file(one)[n]) for n, t in load_file(alone).items())
    assert (alone.parent / "adapter_config.json").read_text() == (one.parent / "adapter_config.json").read_text()
    half = saved(decoder, [Parent(f"{ADAPTED}{base}", "0" * 64), one], [0.5, 0.5],
                 tmp_path / "h" / "adapter_model.safetensors")  # fmt: skip
    torch.testing.assert_close(
        logits(base, half.parent), merged_logits(base, [one.parent], [0.5]), rtol=1e-4, atol=1e-4
    )


def test_decoded_adapters_are_read_as_what_they_do_before_anybody_saves_them(decoder, base, tmp_path):
    one = save_adapter(base, tmp_path / "runs" / "a" / "checkpoint-1", 1, r=4, lora_alpha=32)
    two = save_adapter(base, tmp_path / "runs" / "b" / "checkpoint-1", 2, r=2, lora_alpha=3)
    with Catalogue(f"sqlite:///{tmp_path / 'z.db'}") as catalogue:
        ingest(catalogue, tmp_path / "runs")
        for parents, shares in (([one], [1.0]), ([one, two], [0.3, 0.7])):
            known = tuple(Parent(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in parents)
            decoded = decoder.decode(Recombination(known, (tuple(shares),), ()))
            kept = tmp_path / f"kept_{len(parents)}" / "adapter_model.safetensors"
            decoder.save(decoded, kept, Provenance("merge", None, {}))
            paths = [decoded.path, kept, *([one] if len(parents) == 1 else [])]
            found = read_fingerprints(paths, catalogue, jobs=1)
            assert len({content.lineage for content in found} | {None}) == 2
            for other in found[1:]:
                np.testing.assert_allclose(found[0].fingerprint.features, other.fingerprint.features, atol=1e-3)
                np.testing.assert_allclose(found[0].fingerprint.sketch, other.fingerprint.sketch, atol=1e-5)
            decoder.forget(decoded)
            assert not decoded.path.exists()


def test_embeddings_and_whole_modules_beside_the_updates_are_merged_too(decoder, base, tmp_path):
    options = {"target_modules": ["embed_tokens", "v_proj"], "modules_to_save": ["lm_head"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (save_adapter(base, tmp_path / str(k), k, r=k + 1, **options) for k in (1, 2))
        out = saved(decoder, [one, two], [0.4, 0.6], tmp_path / "m" / "adapter_model.safetensors")
        wanted = merged_logits(base, [one.parent, two.parent], [0.4, 0.6])
        torch.testing.assert_close(logits(base, out.parent), wanted, rtol=1e-4, atol=1e-4)


def test_adapters_whose_updates_cannot_be_added_up_are_refused_with_the_reason(decoder, base, tmp_path):
    one, two = (save_adapter(base, tmp_path / str(k), k) for k in (1, 2))
    change_config(two, init_lora_weights="pissa")
    with pytest.raises(EpsoptError, match="changes the base itself"):
        saved(decoder, [one, two], [0.5, 0.5], tmp_path / "m" / "adapter_model.safetensors")
    change_config(two, init_lora_weights=True, use_dora=True)
    with pytest.raises(EpsoptError, match="use_dora"):
        saved(decoder, [one, two], [0.5, 0.5], tmp_path / "m" / "adapter_model.safetensors")
    (two.parent / "adapter_config.json").unlink()
    with pytest.raises(EpsoptError, match=r"adapter_config\.json"):
        saved(decoder, [one, two], [0.5, 0.5], tmp_path / "m" / "adapter_model.safetensors")
    assert not (tmp_path / "m").exists()


def test_a_hook_that_takes_a_folder_gets_the_model_as_it_will_be_saved(decoder, base, tmp_path):
    files = [save_adapter(base, tmp_path / str(k), k, r=k) for k in (1, 2)]
    decoded = decoder.decode(Recombination(tuple(map(parent, files)), ((0.5, 0.5),)))
    measured = decoder.measure(decoded)
    assert measured == {"files": 3.0, "config": 1.0}  # weights, configuration, recipe of mergekit
    assert decoder.measure(decoded) == measured


def tiny(folder, seed, dtype=torch.float32, **options):
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=16, tie_word_embeddings=True)  # fmt: skip
    model = LlamaForCausalLM(shape).to(dtype)
    model.generation_config = GenerationConfig(max_new_tokens=7)
    model.save_pretrained(folder, **options)
    (folder / "trainer_state.json").write_text('{"log_history": [{"step": 3, "eval_acc": 0.1}]}')
    return model, folder


def test_a_merged_language_model_loads_with_transformers_with_all_that_lay_beside_its_parents(decoder, tmp_path):
    from transformers import AutoModelForCausalLM

    (one, a), (two, b) = (tiny(tmp_path / "run" / f"checkpoint-{k}", k) for k in (1, 2))
    (tmp_path / "run" / "tokenizer.json").write_text("{}")
    (b / "vocab.txt").write_text("x")
    out = saved(decoder, [a / "model.safetensors", b / "model.safetensors"], [0.25, 0.75],
                tmp_path / "m" / "model.safetensors").parent  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.generation_config.max_new_tokens == 7
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    for name, tensor in loaded.state_dict().items():
        wanted = 0.25 * one.state_dict()[name] + 0.75 * two.state_dict()[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
    names = {p.name for p in out.iterdir()}
    assert names == {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "vocab.txt",
                     "mergekit.yml"}  # fmt: skip


def test_types_are_promoted_and_the_configuration_says_so(decoder, tmp_path):
    from transformers import AutoModelForCausalLM

    (_, a), (_, b) = tiny(tmp_path / "a", 1, torch.bfloat16), tiny(tmp_path / "b", 2)
    (_, c) = tiny(tmp_path / "c", 3, torch.bfloat16)
    for others, dtype in (((a, b), torch.float32), ((b, a), torch.float32), ((a, c), torch.bfloat16)):
        for share in (0.75, 0.25):
            out = tmp_path / f"{others[0].name}{others[1].name}{share}"
            saved(decoder, [o / "model.safetensors" for o in others], [share, 1.0 - share], out / "model.safetensors")
            assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {dtype}
            assert AutoModelForCausalLM.from_pretrained(out).dtype == dtype


def test_shards_are_merged_as_one_model(decoder, tmp_path):
    from transformers import AutoModelForCausalLM

    models = [tiny(tmp_path / str(k), k, max_shard_size="4KB") for k in (1, 2)]
    firsts = [next(iter(sorted(folder.glob("model-00001-*")))) for _, folder in models]
    assert len(list(models[0][1].glob("model-0*"))) > 1
    parents = []
    for first in firsts:
        content = hashlib.sha256()
        for shard in sorted(first.parent.glob("model-0*")):
            content.update(shard.read_bytes())
        parents.append(Parent(str(first), content.hexdigest()))
    out = saved(decoder, parents, [0.5, 0.5], tmp_path / "m" / "model.safetensors").parent
    loaded = AutoModelForCausalLM.from_pretrained(out)
    for name, tensor in loaded.state_dict().items():
        wanted = sum(m.state_dict()[name] for m, _ in models) / 2
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)


def test_the_recipe_beside_a_merge_is_the_merge(decoder, tmp_path):
    from ruamel.yaml import YAML

    folders = [tiny(tmp_path / str(k), k)[1] for k in (1, 2)]
    files = [f / "model.safetensors" for f in folders]
    out = saved(decoder, files, [[0.2, 0.8], [0.5, 0.5]], tmp_path / "m" / "model.safetensors", ["*.mlp.*"])
    recipe = YAML(typ="safe").load(out.parent / "mergekit.yml")
    assert recipe["merge_method"] == "linear"
    assert recipe["parameters"] == {"normalize": False}
    assert recipe["dtype"] == "float32"
    tensors = [load_file(f) for f in files]
    for name, found in load_file(out).items():
        total = 0
        for model, own in zip(recipe["models"], tensors, strict=True):
            assert model["model"] in {str(f) for f in folders}
            weights = model["parameters"]["weight"]
            value = next(w["value"] for w in weights if "filter" not in w or w["filter"] in name)
            total = total + value * own[name]
        torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-6)
    # A pattern that mergekit cannot say gets no recipe, and no wrong one.
    other = saved(decoder, files, [[0.2, 0.8], [0.5, 0.5]], tmp_path / "n" / "model.safetensors", ["model.*.weight"])
    assert not (other.parent / "mergekit.yml").exists()


def test_a_merge_of_lightning_s_checkpoints_loads_with_lightning(decoder, tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self, width, lr):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 2)
            self.register_buffer("steps", torch.tensor(width))

    files = []
    for k in range(2):
        torch.manual_seed(k)
        trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=False)
        trainer.strategy.connect(Module(3, 0.1 * (k + 1)))
        trainer.save_checkpoint(tmp_path / f"{k}.ckpt")
        files.append(tmp_path / f"{k}.ckpt")
    out = saved(decoder, files, [0.3, 0.7], tmp_path / "m" / "model.ckpt")
    model = Module.load_from_checkpoint(out)
    assert model.hparams == {"width": 3, "lr": 0.2}  # of the parent that counts most
    own = [torch.load(f, weights_only=False)["state_dict"] for f in files]
    torch.testing.assert_close(model.layer.weight, 0.3 * own[0]["layer.weight"] + 0.7 * own[1]["layer.weight"])
    assert int(model.steps) == 3


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "ckpt"])
def test_the_number_of_a_merge_is_no_epoch_and_each_is_a_run_of_its_own(decoder, save, tmp_path, suffix):
    runs = tmp_path / "runs"
    files = [save(runs / f"run_{k}" / "epoch_001.pt", k + 1) for k in range(2)]
    for k in (3, 4):
        share = k / 10
        saved(decoder, files, [share, 1 - share], runs / "merged_001" / f"merged_{k:03d}" / f"model.{suffix}")
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        assert not ingest(catalogue, runs, jobs=1).failed
        merged = [c for c in catalogue.checkpoints() if is_recombined(c)]
    assert [(c.run, c.epoch, c.metrics) for c in merged] == [
        (f"merged_001/merged_{k:03d}", None, {"coverage": 0.5}) for k in (3, 4)
    ]


def test_merges_of_bare_state_dicts_and_of_adapters_are_known_as_merges(decoder, base, tmp_path):
    runs = tmp_path / "runs"
    files = []
    for k in range(2):
        torch.manual_seed(k)
        files.append(runs / f"run_{k}" / "net.pt")
        files[-1].parent.mkdir(parents=True)
        torch.save({"a.weight": torch.eye(4) + 0.01 * torch.randn(4, 4)}, files[-1])
    saved(decoder, files, [0.5, 0.5], runs / "merged_001" / "merged_002" / "model.pt")
    adapters = [save_adapter(base, runs / f"lora_{k}" / "checkpoint-3", k, r=k + 1) for k in range(2)]
    saved(decoder, adapters, [0.5, 0.5], runs / "merged_002" / "merged_007" / "adapter_model.safetensors")
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        assert not ingest(catalogue, runs, jobs=1).failed
        found = {c.run: (is_recombined(c), c.epoch, c.metrics) for c in catalogue.checkpoints()}
        lineages = {c.lineage_id for c in catalogue.checkpoints() if "lora" in c.run or "007" in c.run}
    assert found["merged_001/merged_002"] == (True, None, {"coverage": 0.5})
    assert found["merged_002/merged_007"] == (True, None, {"coverage": 0.5})
    assert [merge for merge, _, _ in found.values()].count(True) == 2
    assert len(lineages) == 1


def test_a_merge_of_archives_of_stable_baselines_is_such_an_archive(decoder, tmp_path):
    import io
    import zipfile

    files, states = [], []
    for k in range(2):
        torch.manual_seed(k)
        states.append({"mlp_extractor.policy_net.0.weight": torch.eye(4) + 0.01 * torch.randn(4, 4),
                       "log_std": torch.zeros(2)})  # fmt: skip
        files.append(tmp_path / "runs" / f"run_{k}" / "best_model.zip")
        files[-1].parent.mkdir(parents=True)
        with zipfile.ZipFile(files[-1], "w") as archive:
            archive.writestr("data", json.dumps({"num_timesteps": 1000 + k, "gamma": 0.9}))
            with archive.open("policy.pth", "w", force_zip64=True) as policy:  # as BaseAlgorithm.save does
                torch.save(states[-1], policy)
            archive.writestr("_stable_baselines3_version", "2.7.0")
    out = saved(decoder, files, [0.3, 0.7], tmp_path / "runs" / "merged_001" / "merged_004" / "model.zip")
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["data", "policy.pth", "_stable_baselines3_version", "epsopt.json"]
        assert [p["path"] for p in json.loads(archive.read("epsopt.json"))["parents"]] == list(map(str, files))
        assert json.loads(archive.read("data")) == {
            "num_timesteps": 1001,
            "gamma": 0.9,
        }  # of the parent that counts most
        merged = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 0.3 * states[0][name] + 0.7 * states[1][name])
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
        found = {c.run: (is_recombined(c), c.epoch, c.lineage_id) for c in catalogue.checkpoints()}
        said = {r.name: r.hyperparameters for r in catalogue.runs()}
    assert found["merged_001/merged_004"] == (True, None, found["run_0"][2])
    assert found["run_1"][1] == 1001
    assert said["run_1"] == {"gamma": 0.9}
    assert "gamma" not in said["merged_001/merged_004"]


def test_a_rank_that_is_asked_for_keeps_the_largest_singular_values_of_each_update(base, tmp_path):
    files = [save_adapter(base, tmp_path / str(k), k, r=4) for k in (1, 2)]
    with WeightDecoder(rank=3) as decoder:
        out = saved(decoder, files, [0.5, 0.5], tmp_path / "m" / "adapter_model.safetensors")
    with WeightDecoder() as decoder:
        whole = saved(decoder, files, [0.5, 0.5], tmp_path / "n" / "adapter_model.safetensors")
    assert json.loads((out.parent / "adapter_config.json").read_text())["r"] == 3
    found, all_of_it = load_file(out), load_file(whole)
    for down in (n for n in found if ".lora_A." in n):
        up = down.replace(".lora_A.", ".lora_B.")
        u, s, v = torch.linalg.svd(all_of_it[up] @ all_of_it[down])
        torch.testing.assert_close(found[up] @ found[down], (u[:, :3] * s[:3]) @ v[:3], rtol=1e-3, atol=1e-4)
    assert torch.isfinite(logits(base, out.parent)).all()
    assert (whole.parent / "mergekit.yml").exists()
    assert not (out.parent / "mergekit.yml").exists(), "mergekit keeps the whole sum"
