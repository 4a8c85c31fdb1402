"""Who feeds whom: residual streams, embeddings, gates, attention; and the order that a file does not keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from epsopt.zoo.fingerprints.fingerprint import SECTIONS, fingerprint
from epsopt.zoo.forward_order import alphabetical_order, forward_order

Tensors = dict[str, torch.Tensor]


def random_weights(module: nn.Module, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.rand(v.shape, generator=generator) + 0.5 if k.endswith("running_var")
        else torch.randn(v.shape, generator=generator) / max(v.shape[-1], 1) ** 0.5
        for k, v in module.state_dict().items() if v.is_floating_point()
    }  # fmt: skip


def responses(weights: Tensors, name: str) -> np.ndarray:
    found = fingerprint(weights.items())
    return found.features[found.names.index(name)][SECTIONS["RESPONSE"]]


def depends(weights: Tensors, name: str, on: str) -> bool:
    """Whether what one tensor answers changes with another."""
    generator = torch.Generator().manual_seed(9)
    changed = {**weights, on: torch.randn(weights[on].shape, generator=generator)}
    return bool(np.abs(responses(changed, name) - responses(weights, name)).max() > 1e-3)


class Block(nn.Module):
    """A feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)


class Residual(nn.Module):
    """Two of them between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.blocks, self.out = nn.Linear(5, 8), nn.ModuleList([Block(), Block()]), nn.Linear(8, 3)


def test_what_a_block_adds_is_added_to_what_it_reads():
    """The chain answers as a network of SiLU units does whose blocks read a normalised stream and add to it."""
    weights = random_weights(Residual())
    probes = torch.from_numpy(np.random.default_rng(5).standard_normal((5, 64), dtype=np.float32))
    # The generator draws the basis of wider chains first; of five inputs it is the identity, and draws nothing.
    probes[:, 0] = 0.0

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"][:, None]

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean(dim=0, keepdim=True) + 1e-12)

    stream = layer("inp", probes)
    for i in (0, 1):
        stream = stream + layer(f"blocks.{i}.fc2", nn.functional.silu(layer(f"blocks.{i}.fc1", normalised(stream))))
    expected = torch.zeros(16, 64)
    expected[:3] = layer("out", normalised(stream))
    expected = expected.sign() * expected.abs().log1p()
    np.testing.assert_allclose(responses(weights, "out.bias").reshape(16, 64), expected, atol=2e-3)


def test_blocks_without_a_norm_or_attention_follow_one_another():
    weights = {k: v for k, v in random_weights(Residual()).items() if ".norm." not in k}
    zero = {**weights, "blocks.1.fc2.weight": 0.0 * weights["blocks.1.fc2.weight"]}
    assert not depends(zero, "out.bias", "blocks.0.fc1.weight")  # nothing leads around the second block
    with_norms = {**random_weights(Residual()), "blocks.1.fc2.weight": zero["blocks.1.fc2.weight"]}
    assert depends(with_norms, "out.bias", "blocks.0.fc1.weight")


class Convolutions(nn.Module):
    """A residual block as torchvision has them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A few of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(Convolutions(6, 6), Convolutions(6, 6))
        self.layer2 = nn.Sequential(Convolutions(6, 9), Convolutions(9, 9))
        self.fc = nn.Linear(9, 4)


@pytest.mark.parametrize(
    "part", ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv2.weight", "layer2.0.conv2.weight",
             "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias", "layer2.1.conv1.weight"],
)  # fmt: skip
def test_every_part_of_a_residual_network_reaches_its_end(part):
    weights = random_weights(ResNet())
    assert depends(weights, "fc.bias", part)
    nothing = {k: 0.0 * v if k in {"layer2.1.bn2.weight", "layer1.1.bn2.weight"} else v for k, v in weights.items()}
    assert depends(nothing, "fc.bias", part) == (not part.startswith(("layer2.1", "layer1.1")))


class Attention(nn.Module):
    """A decoder's block of a Llama, values shared by two heads each."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict(
            {n: nn.Linear(8, 4 if n[0] in "kv" else 8, bias=False) for n in ("q_proj", "k_proj", "v_proj", "o_proj")}
        )
        self.mlp = nn.ModuleDict(
            {"gate_proj": nn.Linear(8, 12, bias=False), "up_proj": nn.Linear(8, 12, bias=False),
             "down_proj": nn.Linear(12, 8, bias=False)}
        )  # fmt: skip
        self.input_layernorm = nn.LayerNorm(8, bias=False)


class Decoder(nn.Module):
    """Two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.layers = nn.Embedding(20, 8), nn.ModuleList([Attention(), Attention()])
        self.lm_head = nn.Linear(8, 20, bias=False)


@pytest.mark.parametrize(
    "part", ["embed_tokens", "layers.0.self_attn.v_proj", "layers.0.self_attn.o_proj", "layers.0.mlp.gate_proj",
             "layers.0.mlp.up_proj", "layers.1.mlp.down_proj"],
)  # fmt: skip
def test_every_part_of_a_decoder_reaches_its_head(part):
    weights = random_weights(Decoder())
    assert depends(weights, "lm_head.weight", f"{part}.weight")


def test_queries_and_keys_change_nothing_behind_them():
    weights = random_weights(Decoder())
    for part in ("q_proj", "k_proj"):
        assert not depends(weights, "lm_head.weight", f"layers.0.self_attn.{part}.weight")


def test_a_matrix_that_may_be_a_table_is_one_where_its_width_is_read():
    embedding = {"embed.weight": torch.randn(20, 8), "layers.0.weight": torch.randn(6, 8)}
    layer = {"embed.weight": torch.randn(8, 20), "layers.0.weight": torch.randn(6, 8)}
    for weights in (embedding, layer):
        assert depends(weights, "layers.0.weight", "embed.weight")


NETWORKS = {
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_SMALL, num_key_value_heads=2)),
    "gpt2": lambda t: t.GPT2LMHeadModel(
        t.GPT2Config(n_layer=11, n_head=2, n_embd=16, vocab_size=20, n_positions=12, bos_token_id=1, eos_token_id=1)
    ),
    "bert": lambda t: t.BertForSequenceClassification(t.BertConfig(**_SMALL, max_position_embeddings=8)),
    "vit": lambda t: t.ViTForImageClassification(
        t.ViTConfig(**{k: v for k, v in _SMALL.items() if k != "vocab_size"}, image_size=8, patch_size=4)
    ),
    "t5": lambda t: t.T5ForConditionalGeneration(
        t.T5Config(d_model=16, d_ff=32, d_kv=4, num_layers=11, num_heads=4, vocab_size=20)
    ),
    "mixtral": lambda t: t.MixtralForCausalLM(t.MixtralConfig(**_SMALL, num_key_value_heads=2, num_local_experts=2)),
}
_SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 11, "num_attention_heads": 4, "vocab_size": 20
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_in_the_order_of_the_alphabet_says_what_the_state_dict_says(name):
    """Of networks that people fine-tune; the alphabet's order itself says something else."""
    transformers = pytest.importorskip("transformers")
    weights = random_weights(NETWORKS[name](transformers))
    by_name = {n: weights[n] for n in forward_order(sorted(weights))}
    one, other = fingerprint(weights.items()), fingerprint(by_name.items())
    assert one.signature == other.signature
    places = [other.names.index(n) for n in one.names]
    # Sums of several embeddings are added up in another order.
    np.testing.assert_allclose(one.features, other.features[places], atol=1e-3)
    before = fingerprint((n, weights[n]) for n in alphabetical_order(weights))
    assert np.abs(before.features[[before.names.index(n) for n in one.names]] - one.features).max() > 0.1


@pytest.mark.parametrize("module", [ResNet(), Residual(), Decoder(), nn.LSTM(4, 8, 11), nn.TransformerEncoder(
    nn.TransformerEncoderLayer(8, 2, 16), 11, enable_nested_tensor=False)], ids=lambda m: type(m).__name__)  # fmt: skip
def test_the_order_of_pytorch_modules_is_found_again(module):
    weights = random_weights(module)
    one = fingerprint(weights.items())
    other = fingerprint((n, weights[n]) for n in forward_order(sorted(weights)))
    np.testing.assert_array_equal(one.features, other.features[[other.names.index(n) for n in one.names]])


def test_the_order_is_one_order_whatever_comes_first():
    names = [
        "l.10.w",
        "l.2.w",
        "l.02.w",
        "l.2.bias",
        "l.2.weight",
        "a" + "1" * 5000 + ".w",
        "",
        "w",
        "out.w",
        "embed.weight",
    ]
    for order in (forward_order, alphabetical_order):
        assert order(names) == order(names[::-1])
        assert sorted(order(names)) == sorted(names)
    assert forward_order(["l.10.w", "l.9.w", "head.w", "embed.w"]) == ["embed.w", "l.9.w", "l.10.w", "head.w"]
