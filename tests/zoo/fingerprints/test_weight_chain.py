"""What the chain answers for parts that a network's own forward pass combines: BatchNorm, attention, Conv1D."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from epsopt.zoo.fingerprints.fingerprint import SECTIONS, Fingerprint, fingerprint
from epsopt.zoo.fingerprints.formats import WITHOUT_FOLLOWED

Tensors = dict[str, torch.Tensor]


def answers(weights: Tensors, name: str) -> np.ndarray:
    """The columns of a block that say what it does: its product and its answers to the probes."""
    found = fingerprint(weights.items())
    row = found.features[found.names.index(name)]
    return np.concatenate([row[SECTIONS["PRODUCT"]], row[SECTIONS["RESPONSE"]]])


def seeded(module: nn.Module, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.rand(v.shape, generator=generator) + 0.5 if k.endswith("running_var")
        else torch.randn(v.shape, generator=generator) / max(v.shape[-1], 1) ** 0.5 if v.is_floating_point() else v
        for k, v in module.state_dict().items()
    }  # fmt: skip


@pytest.mark.parametrize("layer", [nn.Linear(6, 5, bias=False), nn.Conv2d(6, 5, 3, bias=False)], ids=["linear", "conv"])
def test_a_batch_norm_counts_as_the_scale_and_shift_that_it_comes_to(layer):
    norm = nn.BatchNorm1d(5) if isinstance(layer, nn.Linear) else nn.BatchNorm2d(5)
    weights = seeded(nn.Sequential(layer, norm, nn.ReLU(), nn.Linear(5, 3)), 0)
    gain = weights["1.weight"] / torch.sqrt(weights["1.running_var"] + 1e-5)
    shift = weights["1.bias"] - weights["1.running_mean"] * gain
    folded = {
        "0.weight": weights["0.weight"] * gain.reshape(-1, *[1] * (weights["0.weight"].ndim - 1)),
        "0.bias": shift, "3.weight": weights["3.weight"], "3.bias": weights["3.bias"],
    }  # fmt: skip
    np.testing.assert_allclose(answers(weights, "1.running_var"), answers(folded, "0.bias"), atol=5e-3)
    np.testing.assert_allclose(answers(weights, "3.bias"), answers(folded, "3.bias"), atol=5e-3)
    other = dict(weights, **{"1.running_mean": weights["1.running_mean"] + 1.0})
    assert np.abs(answers(other, "3.bias") - answers(weights, "3.bias")).max() > 0.05


def test_a_fused_projection_counts_as_its_three_parts():
    width = 8
    fused = seeded(nn.MultiheadAttention(width, 2), 1)
    apart = {}
    for name, weight, bias in zip("qkv", fused["in_proj_weight"].chunk(3), fused["in_proj_bias"].chunk(3), strict=True):
        apart[f"attn.{name}_proj.weight"], apart[f"attn.{name}_proj.bias"] = weight, bias
    apart |= {f"attn.{k}": v for k, v in fused.items() if k.startswith("out_proj")}
    fused = {f"attn.{k}": v for k, v in fused.items()}
    np.testing.assert_array_equal(answers(fused, "attn.out_proj.bias"), answers(apart, "attn.out_proj.bias"))


@pytest.mark.parametrize(
    "names", [("q_proj", "k_proj", "v_proj", "o_proj"), ("k_proj", "v_proj", "q_proj", "out_proj"),
              ("self.query", "self.key", "self.value", "output.dense"), ("to_q", "to_k", "to_v", "to_out.0")],
    ids=["llama", "bart", "bert", "diffusers"],
)  # fmt: skip
def test_what_leaves_attention_is_fed_by_its_values(names):
    generator = torch.Generator().manual_seed(2)
    weights = {f"layer.0.attention.{n}.weight": torch.randn(8, 8, generator=generator) for n in names}
    out = f"layer.0.attention.{names[3]}.weight"
    before = answers(weights, out)
    for name in names[:3]:
        full = f"layer.0.attention.{name}.weight"
        changed = np.abs(answers({**weights, full: weights[full].flip(0) * 2}, out) - before).max()
        assert (changed > 1e-3) == ("v" in name.rpartition(".")[2]), name


def test_a_gpt2_counts_as_the_same_network_with_ordinary_layers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8)
    weights = {k: v for k, v in seeded(transformers.GPT2Model(config), 3).items() if k.startswith("h.")}
    plain = {}
    for name, value in weights.items():
        conv1d = value.ndim == 2
        renamed = name.replace("c_attn", "qkv").replace("c_proj", "proj").replace("c_fc", "fc")
        plain[renamed] = value.T.contiguous() if conv1d else value
    for name in ("attn.c_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias"):
        renamed = name.replace("c_proj", "proj").replace("c_fc", "fc")
        np.testing.assert_array_equal(answers(weights, f"h.0.{name}"), answers(plain, f"h.0.{renamed}"))


def test_architectures_of_such_parts_are_others_than_those_that_an_earlier_format_saw():
    for module, changed in (
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), True),
        (nn.MultiheadAttention(4, 2), True),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), False),
    ):
        now = fingerprint(module.state_dict().items())
        before = replace(now, format=WITHOUT_FOLLOWED)
        assert (now.signature != before.signature) == changed
        kept = Fingerprint.from_bytes(before.to_bytes())
        assert kept.signature == before.signature
        assert Fingerprint.from_bytes(now.to_bytes()).signature == now.signature
