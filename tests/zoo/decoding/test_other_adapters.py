"""Adapters of other layouts than peft's LoRA: merged as what they do, or refused in one sentence."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import update

from epsopt.zoo import ingest
from epsopt.zoo.catalogue import tables
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination, recombination
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.fingerprints.fingerprint import fingerprint
from epsopt.zoo.fingerprints.sketch import sketch_distance
from epsopt.zoo.layouts.effective_weights import effective_weights
from epsopt.zoo.layouts.open_checkpoint import open_checkpoint
from epsopt.zoo.reading.source import Limits

from ..adapters import load_base, save_adapter, save_base  # noqa: TID252

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def decoder():
    with WeightDecoder() as opened:
        yield opened


def parent(path):
    return Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def kohya(path, seed, rank, alpha, names=("lora_down", "lora_up"), *, scale=1.0):
    """Write an adapter as kohya's scripts do: of two linear maps and a convolution."""
    torch.manual_seed(seed)
    r = torch.randn(rank, rank, dtype=torch.float64) + 2.0 * torch.eye(rank)
    tensors = {}
    for k, (module, up, down) in enumerate(
        [("lora_unet_a_to_q", (6,), (5,)), ("lora_te_b_fc1", (4,), (6,)), ("lora_unet_c_conv", (3, 1, 1), (2, 3, 3))]
    ):
        torch.manual_seed(100 * seed + k)
        down_of = torch.randn(rank, *down, dtype=torch.float64)
        up_of = torch.randn(up[0], rank, *up[1:], dtype=torch.float64)
        gauge_up = torch.einsum("or...,rs->os...", up_of, r) if scale != 1.0 else up_of
        gauge_down = torch.einsum("sr,r...->s...", torch.linalg.inv(r), down_of) if scale != 1.0 else down_of
        tensors[f"{module}.{names[0]}.weight"] = (gauge_down * scale).float().contiguous()
        tensors[f"{module}.{names[1]}.weight"] = (gauge_up / scale).float().contiguous()
        if alpha is not None:
            tensors[f"{module}.alpha"] = torch.tensor(float(alpha))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def updates(path):
    """Return what a file of kohya's layout changes, as kohya's scripts compute it."""
    tensors, out = load_file(path), {}
    for name in tensors:
        if not name.endswith("down.weight"):
            continue
        module = name.split(".")[0]
        down, up = tensors[name].double(), tensors[name.replace("down", "up")].double()
        alpha = tensors.get(f"{module}.alpha", torch.tensor(float(len(down)))).double()
        out[module] = (up.flatten(1) @ down.flatten(1)) * alpha / len(down)
    return out


def merged(decoder, files, coefficients, path):
    decoded = decoder.decode(Recombination(tuple(map(parent, files)), (tuple(coefficients),)))
    decoder.save(decoded, path, Provenance("merge"))
    return path


@pytest.mark.parametrize("names", [("lora_down", "lora_up"), ("lora.down", "lora.up")])
def test_adapters_of_kohya_s_scripts_are_merged_as_what_they_do_whatever_their_rank(decoder, tmp_path, names):
    one = kohya(tmp_path / "one" / "a.safetensors", 1, 2, 1.0, names)
    two = kohya(tmp_path / "two" / "b.safetensors", 2, 3, 6.0, names)
    out = merged(decoder, [one, two], [0.3, 0.7], tmp_path / "m.safetensors")
    first, second, found = updates(one), updates(two), updates(out)
    assert found.keys() == first.keys()
    for name, summed in found.items():
        torch.testing.assert_close(summed, 0.3 * first[name] + 0.7 * second[name], rtol=1e-4, atol=1e-4)
    without = kohya(tmp_path / "three" / "c.safetensors", 3, 3, None, names)
    again = updates(merged(decoder, [without, two], [0.5, 0.5], tmp_path / "n.safetensors"))
    third = updates(without)
    for name, summed in again.items():
        torch.testing.assert_close(summed, 0.5 * third[name] + 0.5 * second[name], rtol=1e-4, atol=1e-4)


def looked_at(path):
    with open_checkpoint(path, Limits()) as checkpoint:
        return effective_weights(checkpoint, Limits()).fingerprint()


def test_no_gauge_of_such_an_adapter_changes_its_fingerprint_and_any_ranks_are_alike(tmp_path):
    one, same, two = (
        looked_at(kohya(tmp_path / f"{name}.safetensors", seed, rank, 4.0, scale=scale))
        for name, seed, rank, scale in (("a", 1, 3, 1.0), ("same", 1, 3, 2.5), ("b", 2, 2, 1.0))
    )
    assert one.signature == two.signature
    assert sketch_distance(one.sketch, same.sketch) < 1e-4
    assert sketch_distance(one.sketch, two.sketch) > 0.5
    apart = np.abs(one.features - same.features) > 1e-2
    assert apart.mean() < 0.001, "all but logarithms of means that are nearly nothing"


def test_a_catalogue_that_looked_at_factors_by_themselves_reads_them_again_once(tmp_path, catalogue):
    file = kohya(tmp_path / "runs" / "a" / "a.safetensors", 1, 3, 4.0)
    ingest(catalogue, tmp_path / "runs", jobs=1)
    before = fingerprint(load_file(file).items())
    with catalogue.writing() as connection:
        connection.execute(update(tables.fingerprints).values(data=before.to_bytes()))
        connection.execute(update(tables.checkpoints).values(signature=before.signature))
    assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 1
    (found,) = catalogue.checkpoints()
    assert found.signature == looked_at(file).signature != before.signature
    assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 0


def other(base, folder, seed, config):
    from peft import get_peft_model

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_base(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return folder / "adapter_model.safetensors"


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "AdaLoraConfig", "VeraConfig", "OFTConfig"])
def test_adapters_that_are_no_sums_of_what_they_hold_are_refused_in_a_sentence(decoder, base, tmp_path, kind):
    import peft

    options = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    options |= {"AdaLoraConfig": {"total_step": 10, "init_r": 4}, "OFTConfig": {"r": 2, "oft_block_size": 0}}.get(
        kind, {}
    )
    files = [other(base, tmp_path / str(k), k, getattr(peft, kind)(**options)) for k in (1, 2)]
    recombined = Recombination(tuple(map(parent, files)), ((0.5, 0.5),))
    with pytest.raises(EpsoptError, match="no sum of what it holds: merge each adapter into its base"):
        decoder.decode(recombined)
    with pytest.raises(EpsoptError, match="no sum of what it holds"):
        decoder.products(recombined.parents[1:], recombined.parents[0])
    alone = merged(decoder, files[:1], [1.0], tmp_path / "alone" / "adapter_model.safetensors")
    assert all(torch.equal(t, load_file(files[0])[n]) for n, t in load_file(alone).items()), "alone it is itself"


def test_adapters_of_lycoris_are_refused_by_the_names_of_their_tensors(decoder, tmp_path):
    for k in (1, 2):
        tensors = {f"lora_unet_a.hada_w{i}_{s}": torch.randn(4, 4) for i in (1, 2) for s in "ab"}
        save_file({**tensors, "lora_unet_a.alpha": torch.tensor(1.0)}, tmp_path / f"{k}.safetensors")
    recombined = Recombination(tuple(parent(tmp_path / f"{k}.safetensors") for k in (1, 2)), ((0.5, 0.5),))
    with pytest.raises(EpsoptError, match=r"an adapter with 'lora_unet_a\.hada_w1_a', whose update is no sum"):
        decoder.decode(recombined)


def test_scales_of_ia3_are_merged_since_they_are_no_product(decoder, base, tmp_path):
    import peft

    config = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    files = [other(base, tmp_path / str(k), k, peft.IA3Config(**config)) for k in (1, 2)]
    out = load_file(merged(decoder, files, [0.25, 0.75], tmp_path / "m" / "adapter_model.safetensors"))
    one, two = map(load_file, files)
    for name, tensor in out.items():
        torch.testing.assert_close(tensor, 0.25 * one[name] + 0.75 * two[name])


def test_adapters_of_other_modules_are_refused_in_a_sentence(base, tmp_path, catalogue):
    runs = tmp_path / "runs"
    save_adapter(base, runs / "one", 1, target_modules=["q_proj"])
    save_adapter(base, runs / "two", 2, target_modules=["q_proj", "v_proj"])
    assert not ingest(catalogue, runs, jobs=1).failed
    with pytest.raises(UsageError, match="tensors of other names or shapes"):
        recombination(catalogue.checkpoints(), [[0.5, 0.5]])
