"""How a merge of each family is measured (benchmarks/merging_peers.py): hooks as users write them. No command.

Each measures what the family's runs logged of their checkpoints, on the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import families
import family_trainers as trainers
import torch
from digits import Classifier, measure
from family_data import LENGTH, judge_images, some_digits
from family_models import ResNet, SequenceClassifier, TernaryReLU, cnn, mlp
from torch import Tensor, nn

from epsopt.optimize import Objective

State = Mapping[str, Tensor]
Metrics = dict[str, float]
_CALIBRATION = 512  # training images that running statistics are computed from

_LANGUAGES = (Objective("eval_first_loss", maximize=False), Objective("eval_second_loss", maximize=False))
_IMAGES = (Objective("accuracy", maximize=True), Objective("calibration_error", maximize=False))
_POLES = (Objective("eval/mean_reward", maximize=True), Objective("eval/strange_reward", maximize=True))
OBJECTIVES: dict[str, tuple[Objective, ...]] = {
    "mlp-finetune": (Objective("new_accuracy", maximize=True), Objective("old_accuracy", maximize=True)),
    "lora": _LANGUAGES,
    "llama": _LANGUAGES,
    "gpt2": _LANGUAGES,
    "ternary-relu": (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True)),
    "encoder": (Objective("accuracy", maximize=True), Objective("strange_accuracy", maximize=True)),
    "vit": _IMAGES,
    "resnet-bn": _IMAGES,
    "cnn-lightning": (Objective("val_accuracy", maximize=True), Objective("val_calibration_error", maximize=False)),
    "digits": _IMAGES,
    "ppo-noisy": _POLES,
    "ppo-finetune": _POLES,
}
CORRECTING = {"resnet-bn"}
"""Families whose hook computes running statistics anew, and so measures something else than runs logged."""


def hook(family: str) -> str:
    """Name a family's hook."""
    return f"merging_hooks:{family.replace('-', '_')}"


def mlp_finetune(state: State) -> Metrics:
    """A fine-tuned MLP."""
    return trainers.judge_finetune(_loaded(mlp(), state))


def ternary_relu(state: State) -> Metrics:
    """A network of ternary operations."""
    return trainers.judge_ternary(_loaded(TernaryReLU(), state))


def encoder(state: State) -> Metrics:
    """A TransformerEncoder."""
    return trainers.judge_sequences(_loaded(SequenceClassifier(dropout=0.0), state))


def vit(state: State) -> Metrics:
    """A ViT."""
    return trainers.judge_vit(_loaded(trainers.small_vit(), state))


def cnn_lightning(state: State) -> Metrics:
    """A CNN that Lightning saved; its own name stands before each tensor's."""
    judged = judge_images(_loaded(cnn(8), {name.removeprefix("model."): t for name, t in state.items()}))
    return {f"val_{name}": value for name, value in judged.items()}


def digits(state: State) -> Metrics:
    """A classifier of any of the zoo's architectures."""
    return measure(Classifier.from_state_dict(state))


def ppo_noisy(state: State) -> Metrics:
    """A policy of a short pole that is seen through noise."""
    judged = trainers.judge_policy(_loaded(trainers.small_policy(), state), trainers.SHORT_POLES)
    return {f"eval/{name}": value for name, value in judged.items()}


def ppo_finetune(state: State) -> Metrics:
    """A policy of a light pole and of a heavy one."""
    judged = trainers.judge_policy(_loaded(trainers.small_policy(), state), trainers.TWO_POLES)
    return {f"eval/{name}": value for name, value in judged.items()}


def llama(state: State) -> Metrics:
    """A Llama-shaped language model."""
    return trainers.judge_languages(_loaded(trainers.small_llama(), state, strict=False))


def gpt2(state: State) -> Metrics:
    """A GPT-2. Of such models, transformers' Trainer divides by all words, the first too, which nothing predicts."""
    judged = trainers.judge_languages(_loaded(trainers.small_gpt2(), state, strict=False))
    return {name: value * (LENGTH - 1) / LENGTH for name, value in judged.items()}


@torch.no_grad()
def resnet_bn(state: State) -> tuple[Metrics, dict[str, Tensor]]:
    """A ResNet; its running statistics are those of training images, computed anew, and go into what is saved."""
    import numpy as np

    model = _loaded(ResNet(), state)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all that is seen
    model.train()
    images, _ = some_digits(np.random.default_rng(0), _CALIBRATION, 0.0)
    model(images[:, None])
    corrected = {n: b.clone() for n, b in model.named_buffers()}
    return judge_images(model), corrected


def lora(folder: Path) -> Metrics:
    """An adapter, as peft loads it."""
    from peft import PeftModel

    return trainers.judge_languages(PeftModel.from_pretrained(lora_base(), folder))


def lora_base() -> Any:
    """A copy of the language model that adapters belong to."""
    return deepcopy(_llama_base())


@lru_cache(maxsize=1)
def _llama_base() -> Any:
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return LlamaForCausalLM.from_pretrained(families.OUT / f"lora-{families.SEED}-base" / "base")


def _loaded(model: Any, state: State, *, strict: bool = True) -> Any:
    model.load_state_dict(dict(state), strict=strict)
    return model
