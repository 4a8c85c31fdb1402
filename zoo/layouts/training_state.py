"""What a checkpoint says of the moment of its training: epoch, step and scores, at its top or in a mapping of state.

PyTorch's own examples write ``{"epoch": …, "loss": …}``, nanoGPT ``iter_num`` and ``best_val_loss``, fairseq an
``extra_state`` and an ``optimizer_history``, MMEngine ``meta``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.reading.plain_values import metrics_of, no_tensor

if TYPE_CHECKING:
    import torch

HYPERPARAMETERS = ("config", "cfg", "args", "hparams", "hyperparams", "hyper_parameters", "hyperparameters")
OTHER_HYPERPARAMETERS = tuple(
    """hparam hyperparam hyper_params hps opt opts option options flags conf configuration settings params_dict
    training_args train_args training_config train_config run_config exp_config experiment_config cli_args cmd_args
    parsed_args model_config model_args model_kwargs kwargs init_args""".split()
)
"""Keys that hold hyperparameters where no key of `HYPERPARAMETERS` does; several of them together say all."""
METRICS = ("metrics", "val_metrics", "eval_metrics", "test_metrics", "results", "val_results", "eval_results", "scores")
"""Keys that hold a mapping of these, in a checkpoint and in a file of its name."""
_STATES = ("extra_state", "trainer_state", "training_state", "train_state", "meta", "progress")
_SCORES = frozenset(
    """loss acc accuracy error err score metric f f1 auc auroc ap map iou miou dice psnr ssim bleu rouge wer cer
    perplexity ppl mse rmse mae fid reward rewards return precision recall""".split()
)
_OF_OPTIMISERS = frozenset(("param_groups", "hypers"))  # of PyTorch and of fastai
_NUMBERED = re.compile(r"(?<=[a-z])\d+$")  # acc1, top5


def stated_hyperparameters(about: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return what a checkpoint says of its hyperparameters; empty where no key of them holds any.

    Under a key that may as well mean an optimiser (``opt``) its state is none. Where two keys say a name differently,
    the second one's has the key before it (``model_args.name``).
    """
    for key in HYPERPARAMETERS:
        if isinstance(held := about.get(key), Mapping) and held:
            return held
    out: dict[Any, Any] = {}
    for key in _other_keys(about):
        for name, value in about[key].items():
            out.setdefault(name if name not in out or _alike(out[name], value) else f"{key}.{name}", value)
    return out


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two values are plain and the same."""
    return type(one) is type(other) and isinstance(one, str | int | float | None) and one == other


def hyperparameter_keys(about: Mapping[Any, Any]) -> list[str]:
    """Return the keys of a checkpoint that hold hyperparameters."""
    return [*(key for key in HYPERPARAMETERS if key in about), *_other_keys(about)]


def _other_keys(about: Mapping[Any, Any]) -> list[str]:
    return [k for k in OTHER_HYPERPARAMETERS if isinstance(held := about.get(k), Mapping) and not _is_state(held)]


def _is_state(held: Mapping[Any, Any], depth: int = 4) -> bool:
    """Tell whether a mapping is the state of an optimiser or of a model: it holds tensors, or groups of parameters."""
    if _is_opaque(held) or not _OF_OPTIMISERS.isdisjoint(k for k in held if isinstance(k, str)):
        return True
    return any(
        _is_state(value, depth - 1)
        if depth and isinstance(value, Mapping)
        else hasattr(value, "numel") and _size(value) > 1
        for value in held.values()
    )


def states_of(about: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
    """Return the mappings that say where a training stands: the top of the file, then those of state."""
    inner = [held for key in _STATES if isinstance(held := about.get(key), Mapping) and not _is_opaque(held)]
    return [about, *inner, *_of_fairseq(about), *_of_ignite(about)]


def _is_opaque(held: Mapping[Any, Any]) -> bool:
    return bool(getattr(held, "opaque", False))


def _of_fairseq(about: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
    """Return the epoch and the updates of a checkpoint of fairseq; at an epoch's end its iterator says the next one."""
    extra, history = about.get("extra_state"), about.get("optimizer_history")
    iterator = extra.get("train_iterator") if isinstance(extra, Mapping) else None
    found: dict[str, Any] = {}
    if isinstance(iterator, Mapping) and isinstance(epoch := iterator.get("epoch"), int):
        found["epoch"] = epoch - int(iterator.get("iterations_in_epoch") == 0 and epoch > 1)
    if isinstance(history, list) and history and isinstance(history[-1], Mapping):
        found |= {k: v for k, v in history[-1].items() if k == "num_updates"}
    return [found]


def _of_ignite(about: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
    """Return the epoch and the step of a checkpoint that holds the state of Ignite's trainer."""
    trainer = about.get("trainer")
    if not isinstance(trainer, Mapping):
        return []
    iteration, length = trainer.get("iteration"), trainer.get("epoch_length")
    if not (isinstance(iteration, int) and isinstance(length, int) and iteration > 0 and length > 0):
        return []
    return [{"step": iteration, **({} if iteration % length else {"epoch": iteration // length})}]


def stated(states: list[Mapping[Any, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the states say under these names, the first of them that says it."""
    return {name: next(s[name] for s in states if name in s) for name in names if any(name in s for s in states)}


def scores(
    states: list[Mapping[Any, Any]], scalar: Callable[[torch.Tensor], Any], *, tensors: bool
) -> dict[str, float | None]:
    """Return single numbers whose names say that they were measured (``val_loss``, ``best_acc1``).

    Args:
        states: as :func:`states_of` returns them.
        scalar: gives the number of a one-element tensor.
        tensors: whether tensors at the top may be numbers; not where they are the weights.
    """
    found: dict[str, float | None] = {}
    for i, state in enumerate(states):
        for name, value in state.items():
            if not isinstance(name, str) or name in found or not is_score(name):
                continue
            if isinstance(value, Mapping) and _is_flat(value):  # Coqui's model_loss = {"train_loss": …, "eval_loss": …}
                found.update(metrics_of({f"{name}.{k}": v for k, v in value.items()}, no_tensor))
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number or ((tensors or i) and hasattr(value, "item") and _size(value) == 1):
                try:
                    found.update(metrics_of({name: value}, scalar))
                except UnreadableCheckpoint:
                    continue  # an odd number beside the weights costs itself alone
    return found


def _is_flat(held: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping holds a few single numbers, or nothing in their place."""
    return 0 < len(held) <= _FEW and all(
        isinstance(k, str) and (v is None or (isinstance(v, int | float) and not isinstance(v, bool)))
        for k, v in held.items()
    )


_FEW = 16


def latest(states: list[Mapping[Any, Any]], epoch: int | None) -> dict[str, float | None]:
    """Return the last value of lists that hold one number an epoch: ``val_losses`` as ``val_loss``, those of a history.

    Args:
        states: as :func:`states_of` returns them.
        epoch: of the checkpoint; lists that are as long as it, or by one longer (from epoch 0), hold a value of it.
    """
    if epoch is None:
        return {}
    about = states[0]
    # A list under a singular name (``loss``) may be of one epoch's batches.
    plural = {name: _singular(name) for name in about if isinstance(name, str)}
    lists = {one: about[name] for name, one in plural.items() if one != name and is_score(one)}
    for key in _HISTORIES:
        if isinstance(held := about.get(key), Mapping):
            lists.update(
                {_score_of(name): v for name, v in held.items() if isinstance(name, str) and not _says_how(name)}
            )
    found = {
        name: values[-1]
        for name, values in lists.items()
        if isinstance(values, list) and len(values) in (epoch, epoch + 1) and _are_numbers(values)
    }
    return metrics_of(found, no_tensor)


def _says_how(name: str) -> bool:
    """Tell whether a list of a history is of times or learning rates, as nnU-Net keeps them."""
    return name.lower() in ("lr", "lrs") or name.lower().endswith(("timestamps", "timestamp"))


def _score_of(name: str) -> str:
    """Name a value of a history by its list: ``val_losses`` holds a val_loss an epoch."""
    return one if is_score(one := _singular(name)) else name


def _singular(name: str) -> str:
    for plural, one in (("sses", "ss"), ("ies", "y"), ("ss", "ss"), ("s", "")):
        if name.lower().endswith(plural):
            return name[: len(name) - len(plural)] + one
    return name


def _are_numbers(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


_HISTORIES = ("history", "hist", "log", "logs", "logging", "results", "metrics_history")


def _size(value: Any) -> int:
    size = getattr(value, "numel", None)
    return int(size()) if callable(size) else int(getattr(value, "size", 0))


def is_score(name: str) -> bool:
    """Tell whether a name says that something was measured (``val_loss``, ``best_acc1``)."""
    last = re.split(r"[^a-z0-9@]+", name.lower())[-1]
    return last in _SCORES or _NUMBERED.sub("", last) in _SCORES
