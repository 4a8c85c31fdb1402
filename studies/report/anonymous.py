"""A report without names: of runs, of the project, and of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from epsopt.studies.report.report import LoopReport
from epsopt.zoo.catalogue.types import Checkpoint

# What is in quotes and has a slash in it is a path, and so is a word with one: but 3/4, and names of metrics.
_QUOTED = re.compile(r"""'[^'\n]*[/\\][^'\n]*'|"[^"\n]*[/\\][^"\n]*\"""")
_WORD = re.compile(r"""[^\s'",;()]*[/\\][^\s'",;()]*[^\s'",;().:]|/""")
_RATIO = re.compile(r"[\d.]+/[\d.]+")


def anonymous(report: LoopReport, project: str) -> tuple[LoopReport, Callable[[str], str]]:
    """Take names out of a report.

    Metrics and hyperparameters keep their names: without them a report says nothing.

    Args:
        report: of the loop.
        project: the project's name.

    Returns:
        The report, its runs numbered and without paths, and what does the same to a text.
    """
    groups = (report.old, report.new, report.merged)
    numbers = {run: f"run {i}" for i, run in enumerate(dict.fromkeys(c.run for g in groups for c in g), 1)}
    for i, run in enumerate(dict.fromkeys(r for p in report.proposals for r, _ in p.nearest_runs), len(numbers) + 1):
        numbers.setdefault(run, f"run {i}")

    def nameless(checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
        return tuple(replace(c, run=numbers[c.run], path="", aliases=(), hyperparameters={}) for c in checkpoints)

    checkpoints = [c for g in groups for c in g]
    kept = {n for c in checkpoints for n in (*c.metrics, *c.hyperparameters)}
    kept |= {n for p in report.proposals for n in (*p.params, *p.point)}
    folders = {str(f) for c in checkpoints for f in (Path(c.path), Path(c.path).parent) if len(f.parts) > 2}

    def hidden(found: re.Match[str]) -> str:
        word = found[0]
        return word if word in kept or _RATIO.fullmatch(word) else "(a file)"

    def changed(text: str) -> str:
        for path in sorted(folders, key=len, reverse=True):
            text = text.replace(path, "(a file)")
        text = _WORD.sub(hidden, _QUOTED.sub("(a file)", text))
        for run in sorted(numbers, key=len, reverse=True):
            text = re.sub(rf"(?<![\w/-]){re.escape(run)}(?![\w/-])", numbers[run], text)
        return re.sub(rf"(?<![\w/-]){re.escape(project)}(?![\w/-])", "the project", text)

    old, new, merged = (nameless(g) for g in groups)
    return replace(report, old=old, new=new, merged=merged), changed
