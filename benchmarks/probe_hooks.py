"""What models of each family make of a few inputs (benchmarks/family_probes.py): an `embed` hook as users write it.

Anchors are inputs that runs were trained on, never those that metrics are measured on. No command of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import family_trainers as trainers
import numpy as np
import torch
from digits import Classifier, images
from family_data import sentences, sequences
from family_models import ResNet, SequenceClassifier, TernaryReLU, cnn, mlp
from merging_hooks import lora_base
from numpy.typing import NDArray
from torch import Tensor

from epsopt.demo.ternary import operations

State = Mapping[str, Tensor]
_STATES = (4.8, 3.0, 0.42, 3.0)  # of a cart and its pole: ranges of position, speed, angle and turning


@torch.no_grad()
def embed(state: State, path: Path, *, family: str, anchors: str) -> NDArray[np.float32]:
    """``(anchors, dimensions)`` answers to fixed inputs, as probabilities; points of the ball for ternary networks."""
    found = _ANSWERS[family](state, path, int(anchors))
    return np.asarray(found.numpy(), dtype=np.float32)


def hook(family: str, anchors: int) -> str:
    """Name a family's hook."""
    return f"probe_hooks:family={family};anchors={anchors}"


def _pixels(anchors: int) -> Tensor:
    """``(anchors, 8, 8)`` training images."""
    return images()[0][:anchors]


def _of_images(model: Any, state: State, pixels: Tensor) -> Tensor:
    model.load_state_dict(dict(state))
    found = model.eval()(pixels)
    return getattr(found, "logits", found).softmax(dim=1)


def _mlp(state: State, _path: Path, anchors: int) -> Tensor:
    old = _pixels(anchors // 2).flatten(1)
    return _of_images(mlp(), state, torch.cat([old, 1.0 - old]))


def _cnn(state: State, _path: Path, anchors: int) -> Tensor:
    plain = {name.removeprefix("model."): t for name, t in state.items()}
    return _of_images(cnn(8), plain, _pixels(anchors)[:, None])


def _resnet(state: State, _path: Path, anchors: int) -> Tensor:
    return _of_images(ResNet(), state, _pixels(anchors)[:, None])


def _vit(state: State, _path: Path, anchors: int) -> Tensor:
    return _of_images(trainers.small_vit(), state, _pixels(anchors)[:, None])


def _digits(state: State, _path: Path, anchors: int) -> Tensor:
    return Classifier.from_state_dict(state)(_pixels(anchors)).softmax(dim=1)


def _ternary(state: State, _path: Path, anchors: int) -> Tensor:
    model = TernaryReLU()
    model.load_state_dict(dict(state))
    rows = np.random.default_rng(0).permutation(len(operations()))[:anchors]
    points: Tensor = model.eval()(operations()[rows])[0]
    return points


def _encoder(state: State, _path: Path, anchors: int) -> Tensor:
    model = SequenceClassifier()
    model.load_state_dict(dict(state))
    answer: Tensor = model.eval()(sequences()[0][:anchors])
    return answer.softmax(dim=1)


def _words(anchors: int) -> Tensor:
    return torch.cat([sentences(0)[: anchors // 2], sentences(1)[: anchors // 2]])


def _next_words(model: Any, anchors: int) -> Tensor:
    answer: Tensor = model.eval()(input_ids=_words(anchors)).logits[:, -2]
    return answer.softmax(dim=1)


def _llama(state: State, _path: Path, anchors: int) -> Tensor:
    model = trainers.small_llama()
    model.load_state_dict(dict(state), strict=False)
    return _next_words(model, anchors)


def _gpt2(state: State, _path: Path, anchors: int) -> Tensor:
    model = trainers.small_gpt2()
    model.load_state_dict(dict(state), strict=False)
    return _next_words(model, anchors)


def _lora(_state: State, path: Path, anchors: int) -> Tensor:
    from peft import PeftModel

    return _next_words(PeftModel.from_pretrained(lora_base(), path.parent), anchors)


def _ppo(state: State, _path: Path, anchors: int) -> Tensor:
    policy = trainers.small_policy()
    policy.load_state_dict(dict(state))
    drawn = np.random.default_rng(0).uniform(-0.5, 0.5, (anchors, len(_STATES))) * _STATES
    answer: Tensor = policy.get_distribution(torch.as_tensor(drawn, dtype=torch.float32)).distribution.probs
    return answer


_ANSWERS: dict[str, Callable[[State, Path, int], Tensor]] = {
    "mlp-finetune": _mlp, "cnn-lightning": _cnn, "resnet-bn": _resnet, "lora": _lora, "ternary-relu": _ternary,
    "encoder": _encoder, "llama": _llama, "vit": _vit, "gpt2": _gpt2, "ppo": _ppo, "ppo-noisy": _ppo,
    "ppo-finetune": _ppo, "digits": _digits,
}  # fmt: skip
