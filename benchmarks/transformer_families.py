"""How one run of each of two kinds of transformers is trained (benchmarks/families.py). No command of its own.

They were added to choose how fingerprints follow transformers: the encoder, the ViT and the GPT-2 are only reported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from family_data import GROUPS, LENGTH, WORDS
from family_trainers import Rng, train_classifier, train_language
from torch import Tensor, nn


def neox(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001 - every trainer is called alike
    """A GPT-NeoX, whose projections are fused by heads, learns two languages from scratch. Hugging Face's Trainer."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = GPTNeoXConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, hidden_size=32, num_hidden_layers=3,
                          num_attention_heads=2, intermediate_size=64, bos_token_id=1, eos_token_id=1)  # fmt: skip
    train_language(folder, rng, GPTNeoXForCausalLM(shape), (3e-4, 3e-2))


class Bert(nn.Module):
    """(n, LENGTH) words to (n, GROUPS) logits, by a BERT of transformers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        shape = BertConfig(
            vocab_size=WORDS, max_position_embeddings=LENGTH, hidden_size=24, num_hidden_layers=3, num_labels=GROUPS,
            num_attention_heads=2, intermediate_size=48, hidden_dropout_prob=dropout,
        )  # fmt: skip
        self.model: Any = BertForSequenceClassification(shape)

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        return self.model(input_ids=words).logits  # type: ignore[no-any-return]


def bert(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A BERT that classifies sequences of words, from scratch. Plain PyTorch."""
    train_classifier(folder, rng, Bert, (1e-4, 0.01), 0.3)
