"""How one run of each of two deep families is trained (benchmarks/families.py). No command of its own.

Both have about three hundred tensors, so that their fingerprints keep the answers of a few blocks alone
(epsopt.zoo.fingerprints.kept_rows). They were added with that bound, to measure it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_data import GROUPS, LENGTH, WORDS, sentences
from family_trainers import Rng, steps_of, train_classifier, train_language
from torch import Tensor, nn

_BLOCKS = 33  # of a Llama: 300 tensors
_LAYERS = 24  # of an encoder: 292 tensors


def deep_llama(folder: Path, rng: Rng, home: Path) -> None:
    """A Llama of 33 blocks goes on from one base with a blend of two languages. Hugging Face's Trainer."""
    from transformers import LlamaForCausalLM

    train_language(folder, rng, LlamaForCausalLM.from_pretrained(home / "base"), (1e-4, 1e-2))


def deep_llama_base(home: Path) -> None:
    """Train the language model on the first language alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=_BLOCKS,
                        num_attention_heads=2, max_position_embeddings=LENGTH)  # fmt: skip
    model: Any = LlamaForCausalLM(shape)
    rng = np.random.default_rng(0)

    def loss() -> Tensor:
        rows = sentences(0)[rng.integers(0, 768, 16)]
        return model(input_ids=rows, labels=rows).loss  # type: ignore[no-any-return]

    for _ in steps_of(model, {"optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0}, loss, 1, 300):
        pass
    model.save_pretrained(home / "base")


class DeepClassifier(nn.Module):
    """(n, LENGTH) words to (n, GROUPS) logits, by 24 layers of attention."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(WORDS, 16), nn.Parameter(0.1 * torch.randn(LENGTH, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(16, GROUPS)

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.encoder(self.embedding(words) + self.places).mean(dim=1))  # type: ignore[no-any-return]


def deep_encoder(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001 - every trainer is called alike
    """PyTorch's TransformerEncoder of 24 layers on sequences of words, from scratch. Plain PyTorch."""
    train_classifier(folder, rng, DeepClassifier, (1e-4, 0.01), 0.3)
