"""What tables and pages call runs and checkpoints: short, and no two alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from epsopt.cli.output import middle, one_line, print_line, print_wrapped
from epsopt.zoo.catalogue.run_names import short_names, without_common_words

WIDTH = 20
"""Of a checkpoint's label: with its latent distance, three metrics with intervals stand beside it in 80 columns."""


class OfRun(Protocol):
    """What belongs to a run."""

    @property
    def run_id(self) -> int:
        """Of its run."""

    @property
    def run(self) -> str:
        """Its run's name."""

    @property
    def epoch(self) -> int | None:
        """Epoch or step, None when unknown."""


@dataclass(frozen=True)
class RunLabels:
    """Labels of runs; every command that knows the same runs gives them the same.

    Attributes:
        shown: by the run's name; all different.
        legend: labels that are no part of the name, such as ``r12``, by the run's name; mostly empty.
    """

    shown: dict[str, str]
    legend: dict[str, str]

    @classmethod
    def of(cls, checkpoints: Iterable[OfRun], width: int = WIDTH) -> RunLabels:
        """Label the runs of these checkpoints, which are all that the catalogue has.

        The part of the path that differs, else without the words that all share, else shortened in the middle, else
        ``r`` with a number, whichever fits first and leaves no two alike.

        Args:
            checkpoints: of all runs.
            width: of a checkpoint's label, with its epoch.
        """
        known = {c.run: c.run_id for c in checkpoints}
        longest = max((len(f":{epoch}") for epoch in {c.epoch for c in checkpoints} if epoch is not None), default=0)
        room = max(width - longest, 8)
        short = {name: one_line(text) for name, text in short_names(known).items()}
        if not _fit(short.values(), room):
            words = without_common_words(set(short.values())) if len(set(short.values())) == len(short) else {}
            fewer = {name: words.get(text, text) for name, text in short.items()}
            cut = {name: middle(text, room) for name, text in fewer.items()}
            if not _fit(cut.values(), room):
                ids = {name: f"r{known[name]}" for name in known}
                return cls(ids, ids)
            short = cut
        return cls(short, {})

    def __call__(self, run: str, epoch: int | None = None) -> str:
        """Name a run, or a checkpoint as ``RUN:EPOCH``; one that is not known keeps its name."""
        return self.shown.get(run, one_line(run)) + ("" if epoch is None else f":{epoch}")

    def in_text(self, text: str) -> str:
        """Return a sentence with the names of runs in it as they are called here."""
        for run in sorted(self.shown, key=len, reverse=True):
            if self.shown[run] != run:
                text = text.replace(run, self.shown[run])
        return text

    def print_legend(self, runs: Sequence[str]) -> None:
        """Say which runs labels mean that are no part of their names; nothing where there are none."""
        named = {run: self.legend[run] for run in runs if run in self.legend}
        if named:
            print_wrapped("Runs, as they are called above:")
            for run, text in named.items():
                print_line(f"  {text}  {one_line(run)}")


def _fit(texts: Iterable[str], room: int) -> bool:
    listed = list(texts)
    return len(set(listed)) == len(listed) and all(len(text) <= room for text in listed)
