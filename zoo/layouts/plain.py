"""The plain layout: a run is a folder that directly holds checkpoint files, which say the rest, or files beside them.

It is the last one asked: whatever no other layout recognises is plain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.checkpoint_folders import (
    HOLDERS,
    above,
    by_name,
    checkpoint_folder,
    number_of,
    says_more,
    says_which,
    step_of,
)
from epsopt.zoo.layouts.checkpoint_names import by_number, rows_by_name, rows_of_mapping
from epsopt.zoo.layouts.config_texts import BYTES, parse_config_text, parse_python_config
from epsopt.zoo.layouts.evaluations import EVALUATIONS, evaluations
from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.layouts.log_rows import (
    by_moment,
    columns_of,
    flat,
    no_numbers,
    rows_of,
    says_place,
    series_in,
    without_lists,
)
from epsopt.zoo.layouts.named_values import with_own_number
from epsopt.zoo.layouts.numbers_in_names import epoch_in_name, moment_in_name, score_in_name, step_in_name
from epsopt.zoo.layouts.other_logs import is_other, other_logs, records_of
from epsopt.zoo.layouts.own_files import own_files, take
from epsopt.zoo.layouts.parsed import ParsedCheckpoint, Row, RunMetadata
from epsopt.zoo.layouts.ray import PROGRESS, add_reports, are_reports
from epsopt.zoo.layouts.row_kinds import of_run, rows_by_kind
from epsopt.zoo.layouts.series import (
    CHECKPOINT,
    REPEAT,
    SHARED,
    is_part,
    leave_out_shared,
    name_of,
    series_of,
)
from epsopt.zoo.layouts.several_logs import Log, put_together
from epsopt.zoo.layouts.side_file_reader import SideFileReader
from epsopt.zoo.layouts.state_dicts import StateDict, find_state_dict, require_no_object
from epsopt.zoo.layouts.training_state import METRICS, latest, scores, stated, stated_hyperparameters, states_of
from epsopt.zoo.reading.plain_values import (
    MOST_METRICS,
    VALUES,
    flatten,
    metrics_of,
    number_or_text,
    without_prefixes,
)
from epsopt.zoo.reading.policy_archive import POLICY, Arguments, arguments, unpacked

if TYPE_CHECKING:
    import torch

    from epsopt.zoo.reading.tensors import OpenCheckpoint

STEP = ("global_step", "step", "iteration", "iter", "iter_num", "num_updates")
EPOCH = ("epoch", "current_epoch", "cur_epoch", "step", *STEP[:1], *STEP[2:])
RESUMED = ("resume_from", "resume_from_checkpoint", "resume", "ckpt_path")
BASE = ("init_from", "base", "init_checkpoint", "pretrained", "finetune_from", "load_from", *RESUMED)
"""Hyperparameters that name the checkpoint which a run started from or went on from, by the last part of their name."""
CONFIGS = tuple(
    f"{stem}.{suffix}"
    for stem in ("config", "hparams", "args", "params", "hyperparameters", "hyperparams", "training_args", "train")
    for suffix in ("yaml", "yml", "json", "toml")
    if (stem, suffix) != ("train", "json")  # data, more often than not
)
CONFIG_TEXTS = tuple(
    f"{stem}.txt"
    for stem in ("config", "hparams", "args", "params", "hyperparameters", "hyperparams", "opt", "train_opt")
)
LOG_TEXTS = ("log.txt",)
"""Texts that are logs where they hold an object of JSON on each line (DETR, MAE, DINO and their kin)."""
LOGS = tuple(
    f"{stem}.{suffix}"
    for stem in (
        *("metrics", "log", "logs", "results", "summary", "history", "progress"),
        *("training_log", "train_log", "trainer_log", "training_history", "train_history", "log_history"),
        *("train_metrics", "val_metrics", "eval_metrics", "losses", "scores"),
    )
    for suffix in ("csv", "tsv", "jsonl", "json")
)
_IN_ORDER = (*CONFIGS, *CONFIG_TEXTS, *LOGS, *LOG_TEXTS, EVALUATIONS)
TELLS = frozenset(_IN_ORDER)
CONFIGURATIONS = frozenset((*CONFIGS, *CONFIG_TEXTS))
_FOR_CONFIGURATIONS = frozenset("params configs config conf cfg logs".split())
_CONFIGURATION = re.compile(
    r"(?:[\w-]+_)?(?:config|hparams|args|params|hyperparameters|agent)\.(?:ya?ml|json)", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"([\w-]+\.)*(optim(izer)?|criterion|(lr_?)?scheduler|rng_state|scaler)(_state)?(s?)([_-]?\d+)?\.\w+"
    r"|\.?lr_find[\w-]*\.ckpt|_tmp\.pth",  # what Lightning's and fastai's searches for a learning rate leave behind
    re.IGNORECASE,
)
_PARTS_OF_A_POLICY = frozenset(("pytorch_variables.pth", "ent_coef_optimizer.pth"))
"""What Stable-Baselines3 packs with a policy: a few numbers, and the state of an optimiser."""
_PYTHON_CONFIG = ".py"
_DATED = re.compile(r"\d{8}_\d{6}")
_OF_AN_EVALUATION = frozenset(("precision", "recall", "scores", "counts"))
"""What pycocotools keeps of an evaluation; DETR and its kin save it as ``eval/latest.pth``."""
_PACKED = re.compile(r"\.(absmax|qweight|qzeros|quant_state\.bitsandbytes__\w+|SCB)$")
"""Names of what goes with packed weights."""


def run_of(file: Path, folders: Folders) -> Path:
    """Return the folder that holds the file, or the one above a folder ``checkpoints`` if that one says more.

    A folder that is one checkpoint (``checkpoint_3/model.pt``) is no run: the one above it is. Where a folder holds the
    files of several trainings, each is a run, called as its files are. Folders in ``checkpoints`` that are called as
    parts of a model or as callbacks (``checkpoints/generator/``) are no runs where the folder above says more.
    """
    folder = file.parent
    single = checkpoint_folder(file, folders, TELLS)
    if single is None and file.suffix.lower() == ".zip":
        single = by_name(unpacked(file))  # rl_model_1000_steps.zip is what such a folder would be
    if single is not None:
        return above(single, folders, TELLS)
    if (name := series_of(file, folders)) is not None:
        return folder / name
    if folder.name.lower() in HOLDERS and says_more(folder.parent, folders, TELLS):
        return folder.parent
    holder = folder.parent
    if (
        is_part(folder.name)
        and holder.name.lower() in HOLDERS
        and says_more(holder.parent, folders, TELLS)
        and not says_more(folder, folders, TELLS)
    ):
        return holder.parent
    return folder


def is_configuration(name: str) -> bool:
    """Tell whether a file's name is that of a configuration."""
    return name in CONFIGURATIONS or name.endswith(_PYTHON_CONFIG) or _CONFIGURATION.fullmatch(name) is not None


def ignores(file: Path, folders: Folders) -> bool:
    """Tell the state of an optimiser, scheduler or random generator that was saved beside a model."""
    if _NO_MODEL.fullmatch(file.name):
        return True
    return file.name in _PARTS_OF_A_POLICY and POLICY in folders.names(file.parent)


def side_files(run: Path, held: Sequence[Path], folders: Folders) -> list[Path]:
    """Return configurations and logs in the run's folder, or beside its checkpoints."""
    places = dict.fromkeys((run, *held))
    own = [file for folder in places for file in folders.those(folder, _IN_ORDER)]
    inside = [] if any(file.name in CONFIGURATIONS for file in own) else _configurations_inside(run, folders)
    return [
        *own,
        *inside,
        *([] if inside or any(file.name in CONFIGURATIONS for file in own) else _of_repeats(run, folders)),
        *_of_openmmlab(run, folders),
        *own_files(held, folders, TELLS),
        *other_logs(run, held, folders, TELLS),
        *_of_nnunet(run, folders),
    ]


def _configurations_inside(run: Path, folders: Folders) -> list[Path]:
    """Return configurations in a run's folders for these: ``params/agent.yaml``, ``logs/torchtune_config.yaml``."""
    places = (run / name for name in sorted(folders.names(run)) if name.lower() in _FOR_CONFIGURATIONS)
    return [place / name for place in places for name in sorted(folders.names(place)) if _CONFIGURATION.fullmatch(name)]


def _of_repeats(run: Path, folders: Folders) -> list[Path]:
    """Return configurations above runs that repeat one training: ``lr_0.1/config.yaml`` and ``lr_0.1/seed_0/``."""
    above_runs = run.parent
    if REPEAT.fullmatch(run.name) is None or any(CHECKPOINT.search(name) for name in folders.names(above_runs)):
        return []
    return folders.those(above_runs, (*CONFIGS, *CONFIG_TEXTS))


def _of_openmmlab(run: Path, folders: Folders) -> list[Path]:
    """Return logs of MMDetection and its kin: ``DATE_TIME.log.json``, or ``DATE_TIME/vis_data/scalars.json``.

    The configuration comes first: the newest session's, or the only one that lies in the folder.
    """
    names = sorted(folders.names(run))
    logs = [run / name for name in names if name.endswith(".log.json") and _is_of_openmmlab(run / name)]
    sessions = [run / name / "vis_data" for name in names if _DATED.fullmatch(name)]
    if logs or sessions:
        newest = [folder / "config.py" for folder in sessions[::-1] if "config.py" in folders.names(folder)]
        written = newest or [run / name for name in names if name.endswith(_PYTHON_CONFIG)]
        logs = [*(written[:1] if newest or len(written) == 1 else []), *logs]
    return [*logs, *(file for place in sessions for file in folders.those(place, ("scalars.json",)))]


def _of_nnunet(run: Path, folders: Folders) -> list[Path]:
    """Return what nnU-Net measured of ``checkpoint_final.pth`` when training ended."""
    ended = "checkpoint_final.pth" in folders.names(run)
    return folders.those(run / _VALIDATION, (_SUMMARY,)) if ended else []


_VALIDATION, _SUMMARY = "validation", "summary.json"


def _is_of_openmmlab(file: Path) -> bool:
    dated = file.name.endswith(".log.json") and _DATED.fullmatch(file.name.removesuffix(".log.json")) is not None
    return dated or file.name == "scalars.json"


def parse_side_files(reader: SideFileReader) -> RunMetadata:
    """Read hyperparameters from configurations and metrics from logs; where two say the same, the first file counts."""
    metadata = RunMetadata(failures=reader.failures)
    logs: list[Log] = []
    shared: list[Path] = []
    configured: list[tuple[Path, dict[str, Any]]] = []
    for file in reader.files:
        if file.name in CONFIGS or _is_inside(file, reader.run):
            configured.append((file, _configured(reader.structure(file), file, reader)))
        elif file.name in CONFIG_TEXTS:
            held = reader.attempt(file, lambda p: parse_config_text(reader.text(p, BYTES)))
            configured.append((file, _configured(held, file, reader)))
        elif file.suffix == _PYTHON_CONFIG:
            held = reader.attempt(file, lambda p: parse_python_config(reader.text(p, BYTES)))
            configured.append((file, _configured(held, file, reader)))
        elif logs and _is_of_openmmlab(file) and _is_of_openmmlab(logs[-1].file):
            _read_log(reader, file, logs[-1].metadata)  # a later session of the same log
        else:
            log = Log(file, RunMetadata(failures=reader.failures))
            ours = _read_log(reader, file, log.metadata)
            if file.parent == reader.run.parent and not ours and leave_out_shared(log.metadata):
                shared.append(file)
            logs.append(log)
    if shared:
        verb = "does" if len(shared) == 2 else "do"
        others = f" (so {verb} {count(len(shared) - 1, 'other file')})" if shared[1:] else ""
        reader.record_failure(shared[0], f"{SHARED}{others}")
    _put_configurations(metadata, configured)
    put_together(metadata, logs)
    return metadata


def _put_configurations(metadata: RunMetadata, configured: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Add what configurations say; where two say other values of one name, the first counts and the second is named."""
    source: dict[str, Path] = {}
    for file, values in configured:
        known = metadata.hyperparameters
        others = [name for name, value in values.items() if name in known and not _same(known[name], value)]
        if others:
            name = others[0]
            more = f" (and {count(len(others) - 1, 'other')})" if others[1:] else ""
            reason = (
                f"says {name[:60]} = {_short(values[name])}{more}, and {source[name].name} says {_short(known[name])}, "
                "which counts: remove the file that is not of this run"
            )
            metadata.failures.append((str(file), reason))
        metadata.hyperparameters = {**values, **known}
        source = {**dict.fromkeys(values, file), **source}


def _same(one: Any, other: Any) -> bool:
    """Tell whether two files mean the same: ``1`` in a text and in JSON, ``0.10`` and ``0.1``, ``None`` and null."""
    return (
        one == other or str(one).lower() == str(other).lower() or number_or_text(str(one)) == number_or_text(str(other))
    )


def _short(value: Any) -> str:
    return repr(value)[:40]


def _is_inside(file: Path, run: Path) -> bool:
    return (
        file.parent.parent == run
        and file.parent.name.lower() in _FOR_CONFIGURATIONS
        and _CONFIGURATION.fullmatch(file.name) is not None
    )


def _configured(tree: Any, file: Path, reader: SideFileReader) -> dict[str, Any]:
    """Return a configuration, flat; of one above a repeat the repeat's own name says its seed or fold."""
    inherited = file.parent == reader.run.parent and REPEAT.fullmatch(reader.run.name) is not None
    return with_own_number(reader.run, flat(tree)) if inherited else flat(tree)


def _read_log(reader: SideFileReader, file: Path, metadata: RunMetadata) -> bool:
    """Add what a log says; return whether its rows were chosen since they name the run."""
    if is_other(file, reader.run, TELLS) and not _is_of_openmmlab(file):
        return _add_records(metadata, file, records_of(reader, file), reader)
    if file.name in LOG_TEXTS:
        return _add_records(metadata, file, reader.json_lines_or_text(file), reader)
    if file.name == EVALUATIONS:
        metadata.rows += reader.attempt(file, partial(evaluations, reader)) or []
    elif file.suffix in (".csv", ".tsv"):
        table = reader.table(file)
        if not (file.name == PROGRESS and are_reports(table)):
            return _add_records(metadata, file, table, reader)
        add_reports(metadata, table, file)
        if any(row.checkpoint for row in metadata.rows):  # a report without one is of no checkpoint
            metadata.rows = [row for row in metadata.rows if row.checkpoint]
    elif file.suffix == ".jsonl":
        return _add_records(metadata, file, reader.json_lines(file), reader)
    elif file.name in LOGS or _is_of_openmmlab(file):
        tree = reader.json_or_lines(file)
        if file.parent.name == _VALIDATION and isinstance(tree, Mapping):
            tree = {_VALIDATION: tree.get("foreground_mean", {})}
        return _add_json(metadata, file, _at_iterations(tree) if file.name.endswith(".log.json") else tree, reader)
    else:
        take(metadata, file, reader.structure(file))
    return False


def _at_iterations(tree: Any) -> Any:
    """Give what MMCV validated the iteration of the update before: it writes how many batches validation took."""
    if not isinstance(tree, list):
        return tree
    out, iteration = [], None
    for record in tree:
        if isinstance(record, Mapping) and record.get("mode") == "train":
            iteration = record.get("iter", iteration)
        validated = isinstance(record, Mapping) and record.get("mode") == "val" and iteration is not None
        out.append({**record, "iter": iteration} if validated else record)
    return out


def _add_records(metadata: RunMetadata, file: Path, records: Iterable[Any], reader: SideFileReader) -> bool:
    held = [r for r in records if isinstance(r, Mapping)]
    if (by_checkpoint := rows_by_name(held, reader.checkpoint_names)) is not None:
        rows, remarks = by_checkpoint
        metadata.rows += rows
        metadata.failures += [(str(file), remark) for remark in [*remarks, *no_numbers(held)]]
        return False
    ours = of_run(held, name_of(reader.run))
    found, remarks = rows_by_kind(held if ours is None else ours)
    metadata.failures += [(str(file), remark) for remark in remarks]
    rows = rows_of(found)
    metadata.failures += [(str(file), reason) for reason in no_numbers(found)]
    if rows and all(row.epoch is None and row.step is None for row in rows):
        # A row without a number counts: order is all that tells where the others stand.
        whole = [next(iter(rows_of([record])), Row(None, None, {})) for record in found]
        metadata.ordered.append((str(file), whole))
    else:
        metadata.rows += rows
    return ours is not None


def _add_json(metadata: RunMetadata, file: Path, tree: Any, reader: SideFileReader) -> bool:
    """Take a metrics.json: a list of records, columns of equal length, or the values of the run's end.

    In the folder of one checkpoint (``epoch_3/metrics.json``) they are those of this checkpoint.

    Returns:
        Whether its rows were chosen since they name the run.
    """
    if isinstance(tree, Mapping) and (records := by_moment(tree) or by_number(tree, reader.positions)):
        tree = records
    elif isinstance(tree, Mapping) and (named := rows_of_mapping(tree, reader.checkpoint_names)):
        metadata.rows += named
        return False
    elif isinstance(tree, Mapping):
        rows, tree = series_in(tree)
        metadata.rows += rows
        if rows and not tree:
            return False
    if isinstance(tree, list):
        return _add_records(metadata, file, tree, reader)
    if isinstance(tree, Mapping):
        columns = columns_of(tree)
        if columns:
            _add_columns(metadata, file, columns, reader)
            tree = without_lists(tree)
        if any(says_place(k) for k in tree):
            metadata.rows += rows_of([tree])
        else:
            number = None if file.parent == reader.run else number_of(file.parent)
            for row in rows_of([tree]):
                if file.parent != reader.run and says_which(file.parent.name):
                    metadata.own.setdefault(str(file.parent), {}).update(row.metrics)
                elif number is None:
                    metadata.final.update(row.metrics)
                else:
                    metadata.rows.append(replace(row, epoch=number, step=step_of(file.parent)))
    return False


def _add_columns(metadata: RunMetadata, file: Path, columns: Mapping[str, list[Any]], reader: SideFileReader) -> None:
    """Take lists of one value an epoch each; those as long as the list of epochs have it, others their order."""
    placed = {k: v for k, v in columns.items() if says_place(k)}
    length = len(next(iter(placed.values()), ()))
    others: dict[int, dict[str, list[Any]]] = {}
    for name, values in columns.items():
        others.setdefault(len(values), {})[name] = values
    for n, named in others.items():
        known = {**placed, **named} if n == length else named
        _add_records(metadata, file, [{k: v[i] for k, v in known.items()} for i in range(n)], reader)


def interpret(checkpoint: OpenCheckpoint) -> ParsedCheckpoint:
    """Find weights, hyperparameters, metrics and epoch under the names that people use.

    Raises:
        UnreadableCheckpoint: no weights under any known name, or tensors that claim more than the file holds.
    """

    def scalar(tensor: torch.Tensor) -> Any:
        checkpoint.check({"a number": tensor})
        return checkpoint.read("a number", tensor).reshape(()).item()

    about = checkpoint.tree if checkpoint.metadata is None else _about_safetensors(checkpoint.metadata)
    if not isinstance(about, Mapping):
        about = {}
    found = _state_dict(checkpoint)
    states = states_of(about)
    path = checkpoint.source.path
    archived = arguments(checkpoint.source.file) if path.suffix.lower() == ".zip" else Arguments()
    hyperparameters = flatten(stated_hyperparameters(about) or archived.hyperparameters, scalar)
    hyperparameters.pop("", None)
    declared = _base(hyperparameters, path)
    metrics = {
        **scores(states, scalar, tensors=bool(found.key)),
        **metrics_of(_first(about, METRICS) or {}, scalar),
    }
    epoch = epoch_of(numbers := flatten(stated(states, EPOCH), scalar), unpacked(path))
    step = _step_of(numbers, unpacked(path))
    if epoch is None and step is None:  # best_model.zip: its name says no step, and its arguments do
        epoch = step = archived.step
    notes = [f"what it says of its arguments cannot be read: {archived.reason}"] if archived.reason else []
    metrics = {**score_in_name(unpacked(path).stem), **latest(states, epoch), **metrics}
    return ParsedCheckpoint(
        weights=found.tensors,
        weights_key=found.key,
        hyperparameters=hyperparameters,
        metrics=dict(list(metrics.items())[:MOST_METRICS]),
        epoch=epoch,
        base=declared,
        step=step,
        notes=(*notes, *_cut("metrics", metrics, MOST_METRICS), *_cut("hyperparameters", hyperparameters, VALUES)),
    )


def _cut(what: str, found: Mapping[str, Any], most: int) -> list[str]:
    """Say that a file holds more of something than is read."""
    if len(found) <= most and len(found) < VALUES:
        return []
    number = f"at least {VALUES:,}" if len(found) >= VALUES else f"{len(found):,}"
    return [f"holds {number} {what}, of which the first {most:,} are read: save fewer"]


def _first(tree: Mapping[Any, Any], keys: tuple[str, ...]) -> Any:
    return next((tree[k] for k in keys if isinstance(tree.get(k), Mapping)), None)


def _state_dict(checkpoint: OpenCheckpoint) -> StateDict:
    tree, path = checkpoint.tree, checkpoint.source.path
    if not isinstance(tree, Mapping) or hasattr(tree, "title"):
        require_no_object(tree, "the model", path)
        what = f"an object of {title}" if (title := getattr(tree, "title", "")) else f"a {type(tree).__name__}"
        raise UnreadableCheckpoint(path, f"holds {what}, expected a dictionary with a state dict in it")
    if checkpoint.metadata is None:
        found = find_state_dict(tree, path, checkpoint.weights_key, checkpoint.equal)
    else:
        found = StateDict("", dict(tree))
    if found.tensors and _OF_AN_EVALUATION.issuperset(found.tensors):
        raise UnreadableCheckpoint(path, "holds the results of an evaluation (precision, recall), no weights")
    if not any(t.is_floating_point() and t.numel() for t in found.tensors.values()):
        raise UnreadableCheckpoint(path, f"no weights: none of its {len(found.tensors)} tensors is of floating point")
    _require_no_packed_weights(found.tensors, path)
    names = without_prefixes(list(found.tensors))
    weights = dict(zip(names, found.tensors.values(), strict=True))
    checkpoint.check(weights)
    return StateDict(found.key, weights)


def _require_no_packed_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse weights that a library packed into whole numbers: nothing can be learned or merged from these."""
    packed = next((name for name in tensors if _PACKED.search(name)), None)
    if packed is not None:
        raise UnreadableCheckpoint(
            path,
            f"holds weights that are quantised (bitsandbytes, GPTQ, AWQ; tensor {packed!r}): dequantise the model and "
            "save it again, or use the adapter that was trained on it",
        )


def _base(hyperparameters: Mapping[str, Any], path: Path) -> str | None:
    """Return the checkpoint that a run says it comes from; one of its own folder, from which it resumed, is none."""
    texts = {name.rpartition(".")[2].lower(): v for name, v in hyperparameters.items() if isinstance(v, str) and v}
    for name in BASE:
        if name in texts and not (name in RESUMED and str(Path(texts[name]).parent) in (".", str(path.parent))):
            return str(texts[name])
    return None


_KOHYA = "ss_"
_NO_SETUP = re.compile(
    r"ss_(epoch|steps|output_name|session_id|training_(started|finished)_at|training_comment|bucket_info|tag_frequency"
    r"|(reg_)?dataset_dirs|datasets|(new_)?(sd_model|vae)_hash|sd_scripts_commit_hash)"
)
"""What kohya's scripts write in a header beside hyperparameters: of one file, of one session, or of each picture."""
_PYTHON = {"None": None, "True": True, "False": False}


def _about_safetensors(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a .safetensors header says in JSON strings."""
    about: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except (ValueError, RecursionError):
            about[key] = _PYTHON.get(text, text)
    return _of_kohya(about) if any(key.startswith(_KOHYA) for key in about) else about


def _of_kohya(about: dict[str, Any]) -> dict[str, Any]:
    """Return what kohya's scripts say in a header: how a training was set up, and at which epoch and step it stands."""
    header = {key: value for key, value in about.items() if key.startswith(_KOHYA)}
    moment = {name: header[key] for name, key in (("epoch", "ss_epoch"), ("step", "ss_steps")) if key in header}
    setup = {key: header[key] for key in sorted(header) if _NO_SETUP.fullmatch(key) is None}
    rest = {key: value for key, value in about.items() if key not in header}
    return {"hyperparameters": setup, **moment, **rest}


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:18])
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53:
        return int(value)
    return None


def epoch_of(numbers: Mapping[str, Any], path: Path) -> int | None:
    """Return the epoch (or step) that the file says, or else that its name tells, or that of the folder it fills."""
    for key in EPOCH:
        if (value := _whole(numbers.get(key))) is not None and value >= 0:
            return value
    if (named := epoch_in_name(path.stem)) is not None:
        return named
    folder = by_name(path)
    if folder is not None and (number := number_of(folder)) is not None:
        return number
    return moment_in_name(path)


def _step_of(numbers: Mapping[str, Any], path: Path) -> int | None:
    """Return the optimiser step that the file says, or else that its name or its folder's tells (``step_400.pt``)."""
    step = _whole(next((numbers[k] for k in STEP if k in numbers), None))
    if step is not None:
        return step
    if (named := step_in_name(path.stem)) is not None:
        return named
    folder = by_name(path)
    return None if folder is None else step_of(folder)


LAYOUT = Layout("plain", run_of, ignores, side_files, interpret, parse_side_files)
