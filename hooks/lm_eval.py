"""Measure merged language models with lm-evaluation-harness (Gao et al. 2024).

In the project file: ``evaluate = "epsopt.hooks.lm_eval:tasks=arc_easy,hellaswag;limit=200"``. Needs the extra
``epsopt[lm-eval]``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LACKING = "lm-evaluation-harness is not installed: pip install 'epsopt[lm-eval]'"


def evaluate(
    folder: Path,
    *,
    config: Mapping[str, Any],
    slot: int,
    tasks: str = "",
    limit: str = "",
    num_fewshot: str = "",
    batch_size: str = "1",
    device: str = "",
    base: str = "",
    tokenizer: str = "",
    model: str = "hf",
    model_args: str = "",
    include_path: str = "",
    apply_chat_template: str = "",
) -> dict[str, float]:
    """Measure a model, or an adapter together with its base.

    Args:
        folder: of the model as transformers saves it, or of an adapter of peft.
        config: what ``config.json`` or ``adapter_config.json`` says.
        slot: which of the evaluations at a time this is; of several GPUs it takes the one of this number.
        tasks: names of tasks or groups, joined with commas.
        limit: examples of each task at most; below 1 their share. All when empty.
        num_fewshot: examples in the context. What the task says when empty.
        batch_size: a number, or ``auto``.
        device: such as ``cuda:1``. When empty the GPU of the slot, or the CPU where there is none.
        base: the model that an adapter belongs to; what ``adapter_config.json`` names when empty.
        tokenizer: of another folder than the model's. For a model without one, that of its base.
        model: kind of model in lm-evaluation-harness.
        model_args: more arguments of the model, as ``key=value,key=value``.
        include_path: a folder with tasks of your own.
        apply_chat_template: ``true`` or the name of a template; none when empty.

    Returns:
        Each metric as ``TASK/METRIC``, such as ``arc_easy/acc_norm``; ``TASK/METRIC,FILTER`` where a task has filters.

    Raises:
        ModuleNotFoundError: lm-evaluation-harness is not installed.
        ValueError: no task is named, or an adapter of which nothing names the base.
    """
    named = [task.strip() for task in tasks.split(",") if task.strip()]
    if not named:
        raise ValueError("no task is named: expected epsopt.hooks.lm_eval:tasks=arc_easy,hellaswag")
    arguments = _model(folder, config, base)
    if tokenizer:
        arguments["tokenizer"] = tokenizer
    pairs = [pair.strip().partition("=") for pair in model_args.split(",") if pair.strip()]
    arguments |= {key: _value(text) for key, _, text in pairs}
    try:
        import lm_eval
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise ModuleNotFoundError(_LACKING) from error
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=named,
        num_fewshot=int(num_fewshot) if num_fewshot else None,
        batch_size=int(batch_size) if batch_size.isdecimal() else batch_size,
        device=device or _device(slot),
        limit=_value(limit) if limit else None,
        bootstrap_iters=0,  # errors of metrics are not used
        log_samples=False,
        apply_chat_template=_value(apply_chat_template) if apply_chat_template else False,
        task_manager=_task_manager(include_path),
    )
    return metrics_of(found["results"])


def metrics_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of all tasks by name, without their standard errors.

    Args:
        results: ``METRIC,FILTER`` of each task, and what else is said of it; a value that is no number counts as none.
    """
    out = {}
    for task, found in results.items():
        for key, value in found.items():
            metric, comma, kind = key.partition(",")
            number = isinstance(value, int | float) and math.isfinite(value)
            if comma and number and not metric.endswith("_stderr"):
                out[f"{task}/{metric}" if kind == "none" else f"{task}/{key}"] = float(value)
    return out


def _model(folder: Path, config: Mapping[str, Any], base: str) -> dict[str, Any]:
    if not (folder / "adapter_config.json").exists():
        return {"pretrained": str(folder)}
    base = base or str(config.get("base_model_name_or_path") or "")
    if not base:
        raise ValueError("the adapter names no base: add base=FOLDER to the options of the hook")
    return {"pretrained": base, "peft": str(folder)}


def _device(slot: int) -> str:
    import torch

    return f"cuda:{slot % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def _value(text: str) -> bool | int | float | str:
    """Read an option as what it looks like."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _task_manager(include_path: str) -> Any:
    if not include_path:
        return None
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)
