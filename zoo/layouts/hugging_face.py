"""Hugging Face's Trainer: ``RUN/checkpoint-N/{model.safetensors, trainer_state.json, config.json}``; N counts steps.

Sharded models are one checkpoint, and adapters (``adapter_model.safetensors``) are the weights that were trained. The
arguments of the training lie in ``training_args.bin``, a pickle that is never opened: what trainer_state.json and
config.json repeat of them has to do. The learning rate is the highest one that was logged, or the one that a linear
decay began with: logged once an epoch, the first of five is a fifth lower.

A model beside a recipe of mergekit is a merge, which was not trained.

With ``load_best_model_at_end`` what is evaluated after training is the best checkpoint, and it is logged at the step of
the last one: in the Trainer's own state, and in ``eval_results.json`` and its like. Nothing that can be read says
whether the best one was loaded, so it shows where an evaluation after training repeats what that one, or the last, had.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.layouts import plain
from epsopt.zoo.layouts.checkpoint_folders import above as above_of
from epsopt.zoo.layouts.checkpoint_folders import by_name, checkpoint_folder, number_of
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import flat, rows_of
from epsopt.zoo.layouts.parsed import RECOMBINED, AfterTraining, ParsedCheckpoint, RunMetadata
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.reading.remote import is_url
from epsopt.zoo.reading.shards import shards

if TYPE_CHECKING:
    from epsopt.zoo.reading.tensors import OpenCheckpoint

MODELS = frozenset(
    "model.safetensors adapter_model.safetensors pytorch_model.bin adapter_model.bin pytorch_model.safetensors".split()
)
STATE, CONFIG, ADAPTER = "trainer_state.json", "config.json", "adapter_config.json"
RECIPES = ("mergekit_config.yml", "mergekit_config.yaml", "mergekit.yml")
"""What mergekit writes beside a model that it has merged, and epsopt beside its own."""
RESULTS = ("all_results.json", "eval_results.json", "test_results.json", "predict_results.json")
_LARGEST_CONFIG = 4 << 20  # bytes
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,15})")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_NO_MODEL = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth|training_args\.bin")
# How the Trainer itself was set, as far as its state repeats it; the rest of the state is its progress.
_ARGUMENTS = ("num_train_epochs", "max_steps", "train_batch_size", "eval_steps", "logging_steps", "save_steps")
_AFTER = re.compile(r"(?!train_).*")  # what was measured on the model at the end, not on the way there
_SAME = 1e-5  # of a value that is measured again
_NO_METRIC = re.compile(
    r"([a-z0-9]+_)*(runtime|samples_per_second|steps_per_second|jit_compilation_time|model_preparation_time|samples)"
    r"|total_flos|learning_rate"
)
# Names, versions and labels: nothing of it is a choice that a training run makes.
_NO_HYPERPARAMETER = re.compile(
    r"(_name_or_path|architectures|auto_map|transformers_version|id2label|label2id|auto_mapping)(\..*)?|.*_token_ids?"
    r"|use_cache|inference_mode|peft_version"
)
_SETS = frozenset(("target_modules", "modules_to_save", "exclude_modules", "target_parameters"))
"""What peft keeps as sets, so that the order in which it writes them is another one in every process."""


def run_of(file: Path, folders: Folders) -> Path | None:
    """Return the folder above ``checkpoint-N``; for a model beside its config.json, the Trainer's output folder."""
    folder = file.parent
    if whole_name(file) not in MODELS:
        return None
    if _CHECKPOINT.fullmatch(folder.name):
        return folder.parent
    if not {CONFIG, ADAPTER} & folders.names(folder):
        return None
    single = checkpoint_folder(file, folders, plain.TELLS)
    if single is not None:  # save_pretrained("epoch_3")
        return above_of(single, folders, plain.TELLS)
    above = folder.parent
    return above if _checkpoints(above, folders) and not _checkpoints(folder, folders) else folder


def _checkpoints(run: Path, folders: Folders) -> list[Path]:
    """Return the folders ``checkpoint-N`` of a run, the newest first."""
    found = [(int(m[1]), name) for name in folders.names(run) if (m := _CHECKPOINT.fullmatch(name))]
    return [run / name for _, name in sorted(found, reverse=True)]


def ignores(file: Path, folders: Folders) -> bool:
    """Tell the pickles that the Trainer needs to go on: they are never opened."""
    if _NO_MODEL.fullmatch(file.name) is None:
        return False
    return _CHECKPOINT.fullmatch(file.parent.name) is not None or CONFIG in folders.names(file.parent)


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return states and configurations, the newest first: its history holds all earlier ones."""
    ours = [folder for folder in held if any(whole_name(Path(name)) in MODELS for name in folders.names(folder))]
    # Other programs save the same names: of its own accord the run's folder is the Trainer's if its state lies there.
    whole = bool(ours) and (bool(_checkpoints(run, folders)) or run in ours or STATE in folders.names(run))
    newest = dict.fromkeys([*_checkpoints(run, folders), *ours, *([run] if whole else [])]) if ours else {}
    kept = [file for name in (STATE, CONFIG, ADAPTER) for folder in newest for file in folders.those(folder, (name,))]
    recipes = folders.those(run, RECIPES) if run in ours else []
    return [*kept, *(folders.those(run, RESULTS) if whole else []), *recipes]


def interpret(checkpoint: OpenCheckpoint) -> ParsedCheckpoint | None:
    """Read the tensors; the number of the folder is the step, and stands for the epoch."""
    path = checkpoint.source.path
    if whole_name(path) not in MODELS:
        return None
    folder = _CHECKPOINT.fullmatch(path.parent.name)
    reading = plain.interpret(checkpoint)
    if folder is not None:
        return replace(reading, epoch=int(folder[1]), step=int(folder[1]), layout="hugging-face")
    single = by_name(path)
    number = number_of(single) if single is not None else None
    return replace(reading, epoch=number if reading.step is None else reading.step)  # the number of a shard is none


def folder_config(path: Path) -> dict[str, Any] | None:
    """Return what ``adapter_config.json`` or ``config.json`` in the folder of a model says; None: there is none."""
    for name in () if is_url(str(path)) else (ADAPTER, CONFIG):
        file = path.with_name(name)
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if file.stat().st_size <= _LARGEST_CONFIG:
                values = json.loads(file.read_bytes())
                if isinstance(values, dict):
                    return values
    return None


def whole_name(path: Path) -> str:
    """Return the name that a file has, or would have if the model were in one file."""
    return path.name if len(shards(path)) == 1 else _SHARD.sub("", path.name)


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read the newest history of metrics that can be read, and what is repeated of the arguments."""
    metadata = RunMetadata(failures=reader.failures)
    for name in (CONFIG, ADAPTER):
        tree = {k: _in_order(k, v) for k, v in (_first(reader, name) or {}).items()}
        found = flat(tree).items()
        metadata.hyperparameters.update((k, v) for k, v in found if not _NO_HYPERPARAMETER.fullmatch(k))
    for file in reader.named(*RECIPES):
        recipe = reader.yaml(file)
        if isinstance(recipe, Mapping) and isinstance(method := recipe.get("merge_method"), str):
            metadata.hyperparameters |= {RECOMBINED: True, "merge_method": method}
            break
    state = _first(reader, STATE)
    if state is not None:
        _parse_trainer_state(metadata, state)
    metadata.after = _after_training(reader, metadata)
    return metadata


def _in_order(name: str, value: Any) -> Any:
    """Return what is a set to peft in one order: ``[q_proj, v_proj]`` is the same choice as ``[v_proj, q_proj]``."""
    named = name in _SETS and isinstance(value, list) and all(isinstance(v, str) for v in value)
    return sorted(value) if named else value


def _first(reader: SideFileReader, name: str) -> Mapping[str, Any] | None:
    return next((tree for file in reader.named(name) if isinstance(tree := reader.json(file), Mapping)), None)


FROM_THE_LOG = frozenset(("learning_rate",))
"""Hyperparameters that are no more than what the log shows of them."""


def _parse_trainer_state(metadata: RunMetadata, state: Mapping[str, Any]) -> None:
    history = _history(state)
    metadata.hyperparameters.update(
        {k: v for k, v in flat({a: state.get(a) for a in _ARGUMENTS}).items() if v is not None}
    )
    if _comes_of_epochs(state):
        metadata.hyperparameters.pop("max_steps", None)
    metadata.hyperparameters.update(flat(state.get("trial_params")))
    rates = [
        (float(step), float(rate))
        for entry in history
        if isinstance(rate := entry.get("learning_rate"), int | float)
        and isinstance(step := entry.get("step"), int | float)
    ]
    if rates:
        highest = max(rate for _, rate in rates)
        metadata.hyperparameters["learning_rate"] = _first_rate(rates, state.get("max_steps")) or highest
    kept = [{k: v for k, v in e.items() if not _NO_METRIC.fullmatch(str(k))} for e in history[: _end(history)]]
    metadata.rows = rows_of(kept, by_step=True)


def _first_rate(rates: Sequence[tuple[float, float]], end: object) -> float | None:
    """Return the learning rate that a decay in a line to zero at the end began with; None: it is no such decay.

    The Trainer's own default is one without warm-up. A warm-up that ends before the first entry does not show.

    Args:
        rates: the step of each entry and its rate, in their order.
        end: the last step of the whole training.
    """
    if len(rates) < 2 or not isinstance(end, int | float) or end <= 0:
        return None
    (first, high), (last, low) = rates[0], rates[-1]
    slope = (high - low) / (last - first) if last > first else 0.0
    if slope <= 0.0 or any(not math.isclose(high - slope * (s - first), r, rel_tol=_SAME) for s, r in rates):
        return None
    zero = first + high / slope  # `end`, or one more where a rate is logged before the step that it is used in
    return slope * end if min(abs(zero - end), abs(zero - end - 1)) < _SAME * end else None


def _comes_of_epochs(state: Mapping[str, Any]) -> bool:
    """Tell whether the number of steps is only what the epochs come to, with as many rows and as large batches.

    The Trainer keeps both numbers, whichever of them it was given; with a number of steps that is no whole number of
    epochs it keeps the next larger one.
    """
    known = (state.get(k) for k in ("max_steps", "num_train_epochs", "global_step", "epoch"))
    numbers = [float(v) for v in known if isinstance(v, int | float) and v > 0]
    if len(numbers) < 4:
        return False
    steps, epochs, step, epoch = numbers
    return math.isclose(steps * epoch / step, epochs, rel_tol=1e-6)


def _history(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    log = state.get("log_history")
    return [entry for entry in log if isinstance(entry, Mapping)] if isinstance(log, list) else []


def _end(history: Sequence[Mapping[str, Any]]) -> int:
    """Return how many entries were made before training ended: the Trainer then logs how long it took."""
    return next((i for i, e in reversed(list(enumerate(history))) if "train_runtime" in e), len(history))


def _after_training(reader: SideFileReader, metadata: RunMetadata) -> AfterTraining | None:
    """Return what was measured once training had ended, and on which checkpoint as far as that shows."""
    file = next((f for f in reader.named(STATE) if f.parent == reader.run), None)
    state = reader.json(file) if file is not None else None
    state = state if isinstance(state, Mapping) else _first(reader, STATE) or {}
    history = _history(state)
    found: dict[str, float | None] = {}
    for name in RESULTS:
        found |= _measured(_first(reader, name) or {})
    for entry in history[_end(history) :]:
        found |= _measured(entry)
    best, last = state.get("best_model_checkpoint"), state.get("global_step")
    best = re.split(r"[\\/]", best)[-1] if isinstance(best, str) and best else None
    newest = f"checkpoint-{last}" if isinstance(last, int) else None
    one = best is None or best == newest
    if not found:  # a model that was saved at the end is the last checkpoint, if not the best
        values = _logged(metadata, newest)
        return AfterTraining(values, newest if one else None, None) if values else None
    source = str(file or next(iter(reader.named(*RESULTS, STATE))))
    alike = [newest] if one else [name for name in (best, newest) if _repeats(found, _logged(metadata, name))]
    return AfterTraining(found, alike[0] if len(alike) == 1 else None, source)


def _logged(metadata: RunMetadata, checkpoint: str | None) -> dict[str, float | None]:
    """Return the evaluation that the log has at the step of a checkpoint."""
    number = _CHECKPOINT.fullmatch(checkpoint or "")
    rows = [row.metrics for row in metadata.rows if number is not None and row.step == int(number[1])]
    return {k: v for row in rows for k, v in row.items() if k.startswith("eval_")}


def _measured(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics of an entry that say something of the model as it was then."""
    kept = {k: v for k, v in entry.items() if _AFTER.fullmatch(str(k)) and not _NO_METRIC.fullmatch(str(k))}
    return dict(next((row.metrics for row in rows_of([kept], by_step=True)), {}))


def _repeats(found: Mapping[str, float | None], known: Mapping[str, float | None]) -> bool:
    """Tell whether what was measured after training is what had been measured before."""
    pairs = [(value, then) for k, value in found.items() if value is not None and (then := known.get(k)) is not None]
    return bool(pairs) and all(math.isclose(value, then, rel_tol=_SAME) for value, then in pairs)


def trainer_names(metadata: RunMetadata) -> None:
    """Give metrics that the Trainer handed to another logger the names that they have in its own state.

    It writes ``eval/acc`` for ``eval_acc`` and ``train/loss`` for ``loss``: one metric is not to be two.
    """
    metadata.rows = [replace(row, metrics={_own_name(k): v for k, v in row.metrics.items()}) for row in metadata.rows]
    metadata.final = {_own_name(k): v for k, v in metadata.final.items()}


def _own_name(name: str) -> str:
    for prefix in ("eval", "test"):
        if name.startswith(f"{prefix}/"):
            return f"{prefix}_{name[len(prefix) + 1 :]}"
    return name.removeprefix("train/")


LAYOUT = Layout("hugging-face", run_of, ignores, side_files, interpret, parse_side_files)
