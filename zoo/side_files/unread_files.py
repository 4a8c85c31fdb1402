"""Tables and configurations beside checkpoints that no layout reads: what a metric may be in that nobody has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.other_logs import is_other, names_moments
from epsopt.zoo.layouts.plain import TELLS
from epsopt.zoo.layouts.registry import sources
from epsopt.zoo.layouts.side_file_reader import SideFileReader

_MOST_RUNS = 100
"""Runs that are looked at: files that matter lie in each."""
_DATA = frozenset(
    (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".txt")
)
_OF_MODELS = re.compile(
    r"(tokenizer|vocab|special_tokens|added_tokens|generation_config|preprocessor|processor|merges|requirements"
    r"|chat_template|license|readme|conda|environment|modules|sentence_|config_sentence|training_args|wandb-"
    r"|.*\.index\.json).*",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")


def unread_files(runs: Mapping[Path, Sequence[Path]]) -> dict[str, int]:
    """Return names of files in runs' folders that no layout reads and that may hold metrics or hyperparameters.

    Args:
        runs: folders that hold each run's checkpoints, by the run's own folder.

    Returns:
        In how many runs a file of that name lies, the most frequent first; numbers in names are written ``#``.
    """
    folders = Folders()
    found: Counter[str] = Counter()
    step = max(1, -(-len(runs) // _MOST_RUNS))
    for run in sorted(runs)[::step]:
        held = list(dict.fromkeys(runs[run]))
        read = {file for _, files in sources(run, held, folders) for file in files if _is_read(file, run)}
        names = {
            _DIGITS.sub("#", name)
            for folder in dict.fromkeys((run, *held))
            for name in folders.names(folder)
            if folder / name not in read and Path(name).suffix.lower() in _DATA and not _OF_MODELS.fullmatch(name)
        }
        found.update(names)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _is_read(file: Path, run: Path) -> bool:
    """Tell whether a file that a layout named is read: of tables of any name, those that hold epochs or steps are."""
    return not is_other(file, run, TELLS) or names_moments(SideFileReader(run, [file]), file)
