"""Which recorded values of a run are bookkeeping: they say which run it was, where or when, and were not chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_PARTS = re.compile(r"[./]")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

SEED = "a seed"

# By the last part of a name, in words; wherever it stands.
_ANYWHERE = {
    SEED: "seed|random_state|rng_state",
    "which part of the data was held out": "fold|fold_id|fold_idx|fold_index|cv_fold|val_fold|test_fold",
    "where it ran": "host|hosts|hostname|host_name|node_name|nodename|nodelist|machine|ip|ip_address|port|"
    "master_port|master_addr|master_address|device|devices|gpu_id|gpu_ids|cuda_visible_devices|"
    "local_rank|global_rank|node_rank|world_rank|pid|process_id|user|username|user_name",
    "which run it was": "run_id|run_name|run_dir|experiment_id|experiment_name|exp_id|exp_name|trial_id|trial_number|"
    "trial_name|wandb_id|wandb_name|wandb_run_id|mlflow_run_id|uuid|guid|git_hash|git_sha|git_commit|commit|"
    "commit_hash|job|job_id|job_name|jobid|slurm_job_id|slurm_jobid|slurm_array_task_id|array_task_id|"
    "slurm_procid",
    "which checkpoint it started from": "init_from|resume_from|resume_from_checkpoint",
    "when it ran": "date|datetime|timestamp|time_stamp|start_time|end_time|started|started_at|created|created_at|"
    "launched_at|start_date|run_date|launch_time|creation_time",
    "a path": "output_dir|out_dir|save_dir|save_path|log_dir|logdir|logging_dir|work_dir|workdir|cwd|"
    "data_dir|data_path|data_root|cache_dir|ckpt_dir|ckpt_path|checkpoint_dir|checkpoint_path|default_root_dir|"
    "exp_dir|experiment_dir|results_dir|result_dir|root_dir|dirpath|filename|log_file|config_file|config_path",
    "a note": "note|notes|comment|comments|description",
}
_REASONS = {name: reason for reason, names in _ANYWHERE.items() for name in names.split("|")}

# Only as the whole name, or below a part that speaks of the run: `optimizer.name` is a choice.
_AT_TOP = frozenset({"name", "run", "base", "id", "out", "output", "tag", "tags", "experiment", "trial"})
_OF_A_LOGGER = frozenset({"group", "version", "project", "entity", "mode", "node", "nodes"})
_OF_RUNS = frozenset({
    "run", "runs", "experiment", "exp", "trial", "job", "logger", "loggers", "logging", "log", "wandb", "mlflow",
    "tensorboard", "comet", "neptune", "project", "hydra", "slurm", "meta", "metadata", "info", "env",
})  # fmt: skip

_DATE = re.compile(r"(19|20)\d\d[-/_.]?(0[1-9]|1[0-2])[-/_.]?(0[1-9]|[12]\d|3[01])([ T_:.+Z-]*\d[\d:._+Z-]*)?Z?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HASH = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{7,64}")
_FILE = re.compile(r"(?i)\.(pt|pth|ckpt|safetensors|bin|tar|gz|zip|csv|json|jsonl|ya?ml|toml|txt|log|npz?|pkl|h5)$")
_EPOCH_SECONDS = (1e9, 4e9)
_MANY = 12  # different texts


def why_left_out(name: str, values: Sequence[Any]) -> str | None:
    """Say why a hyperparameter is not searched: by its name, or by what all its values look like.

    Args:
        name: with its parts, divided by dots or slashes.
        values: of runs that have it, None left out.

    Returns:
        The reason in a few words; None: it is one that may be searched.
    """
    parts = [p for p in _PARTS.split(name) if p] or [name]
    last = "_".join(w.lower() for w in _WORDS.findall(parts[-1]))
    of_run = len(parts) == 1 or all(p.lower() in _OF_RUNS for p in parts[:-1])
    if last in _REASONS or last.endswith("_seed") or last.startswith("seed_"):
        return _REASONS.get(last, SEED)
    if of_run and (last in _AT_TOP or (len(parts) > 1 and last in _OF_A_LOGGER)):
        return "which run it was"
    return _by_values(last, values)


def _by_values(last: str, values: Sequence[Any]) -> str | None:
    texts = [v for v in values if isinstance(v, str)]
    distinct = set(texts)
    own = len(distinct) >= max(3, 0.9 * len(values))  # nearly each run has another
    if texts:
        if all(_DATE.fullmatch(t) for t in texts):
            return "when it ran"
        if all(_UUID.fullmatch(t) for t in texts) or (own and all(_HASH.fullmatch(t) for t in texts)):
            return "which run it was"
        if any(_is_path(t) for t in texts) or (own and any("/" in t for t in texts)):
            return "a path"
        if len(distinct) > max(_MANY, len(values) // 2):
            return "a text of its own in nearly every run"
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    low, high = _EPOCH_SECONDS
    when = {"time", "date", "start", "begin", "end", "created", "at", "ts", "now"} & set(last.split("_"))
    if when and len(numbers) == len(values) and all(low <= v < high or 1e3 * low <= v < 1e3 * high for v in numbers):
        return "when it ran"
    return None


def _is_path(text: str) -> bool:
    """Whether a text is plainly a path; ``org/model`` may be a choice."""
    rooted = text.startswith(("/", "./", "../", "~", "\\\\")) or "://" in text or re.match(r"[A-Za-z]:[\\/]", text)
    several = text.count("/") > 1 or "\\" in text
    return bool(rooted or several or ("/" in text and _FILE.search(text))) and "\n" not in text
