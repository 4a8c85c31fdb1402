"""What a run's program printed: the last lines of its streams or logs, beside its checkpoints."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from epsopt.zoo.credentials import masked
from epsopt.zoo.reading.text import visible

STDOUT, STDERR = "stdout.txt", "stderr.txt"
"""Where ``epsopt work`` keeps what a program prints, in the folder of its run."""

_TAIL = 16_384  # bytes of a file's end that are read
_LINES, _LONGEST = 60, 400  # lines of each file, and characters of a line
_MOST_FILES = 4
_LOG = re.compile(r"^(std(out|err)(\.txt|\.log)?|output\.(log|txt)|.*\.(log|out|err))$", re.IGNORECASE)
_PLAINLY = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_INNER = re.compile(r"^(checkpoint|ckpt|weights|models?|epoch|step|version)", re.IGNORECASE)
"""Folders inside the folder of a run: its logs lie above them."""


def output_files(checkpoint: str) -> list[Path]:
    """Find the files that hold what a checkpoint's run printed; links and anything but plain files do not count.

    Args:
        checkpoint: its path.

    Returns:
        At most four that hold something, in the order of their names; none where there are none.
    """
    folder = Path(checkpoint).parent
    for _ in range(4):
        if found := _logs(folder):
            return found
        if not _INNER.match(folder.name):
            return []
        folder = folder.parent
    return []


def output_tail(checkpoint: str) -> str:
    """Return the last lines of what a checkpoint's run printed, without passwords; empty where nothing is found.

    Args:
        checkpoint: its path.
    """
    parts = []
    for file in output_files(checkpoint):
        lines = [masked(visible(line.rstrip()[:_LONGEST], keep="\t")) for line in _end(file).splitlines()[-_LINES:]]
        parts.append("\n".join([f"==> {visible(file.name)} <==", *lines]))
    return "\n\n".join(parts)


def _logs(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if _LOG.match(e.name) and _holds_text(e))
    except OSError:
        return []
    return [folder / name for name in names[:_MOST_FILES]]


def _holds_text(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _end(file: Path) -> str:
    try:
        with os.fdopen(os.open(file, _PLAINLY), "rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
            return opened.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""
