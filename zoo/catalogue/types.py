"""What the catalogue answers with: plain frozen records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Run:
    """One training run, a folder of checkpoints.

    Attributes:
        id: of its row.
        name: path relative to the folder that was ingested, with more of it in front where other runs have the same.
        path: absolute path of the folder.
        hyperparameters: flattened with dots, from its newest checkpoint that has any.
    """

    id: int
    name: str
    path: str
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        id: of its row.
        run_id: of its run.
        run: the run's name; no two runs have the same at one time, but it may become longer when others come.
        path: absolute path of the file.
        sha256: of the file's content.
        epoch: epoch or step, None when unknown.
        metrics: measured values by name; None where the file says NaN or infinity.
        hyperparameters: the run's.
        signature: digest of tensor names and shapes.
        lineage_id: of its lineage.
        n_parameters: floating-point values in it.
        layout: the name of the one that read the file.
        aliases: absolute paths of other files that hold it.
    """

    id: int
    run_id: int
    run: str
    path: str
    sha256: str
    epoch: int | None
    metrics: dict[str, float | None]
    hyperparameters: dict[str, Any]
    signature: str
    lineage_id: int
    n_parameters: int
    layout: str = "plain"
    aliases: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Show it in a notebook: what it measured, and what its run was trained with."""
        from epsopt.zoo.html_text import html_table

        name = self.run if self.epoch is None else f"{self.run}, epoch {self.epoch}"
        rows = [[n, "not known" if v is None else f"{v:.6g}"] for n, v in self.metrics.items()]
        rows += [[n, str(v)] for n, v in self.hyperparameters.items()]
        return html_table(f"{name}: {self.path}", ["measured, then hyperparameters", ""], rows)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all its files."""
        return (self.path, *self.aliases)

    @property
    def trained(self) -> int | None:
        """Epochs (or steps) of training behind it, None when unknown: Lightning calls its first epoch 0."""
        return None if self.epoch is None else self.epoch + (self.layout == "lightning")


def each_content_once(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Leave one of the checkpoints that are one file in several runs: an untrained epoch 0, a base, a copied folder.

    It is what was measured once. Held out with one run and learned from with another, it would be its own prediction;
    and two of it would be each other's nearest neighbours.

    Args:
        checkpoints: of any runs.

    Returns:
        In the same order, each content as the checkpoint of the run that has most of them, so that a folder of chosen
        copies does not part what was trained together; of runs of equal length as that of the first. A metric that is
        not measured there is taken from the others.
    """
    if len({c.sha256 for c in checkpoints}) == len(checkpoints):
        return list(checkpoints)
    lengths = Counter(c.run_id for c in checkpoints)
    same: dict[str, list[int]] = {}
    for i, c in enumerate(checkpoints):
        same.setdefault(c.sha256, []).append(i)
    kept = {}
    for rows in same.values():
        first, *others = sorted(rows, key=lambda i: -lengths[checkpoints[i].run_id])
        metrics = dict(checkpoints[first].metrics)
        for i in others:
            known = {name: v for name, v in checkpoints[i].metrics.items() if v is not None}
            metrics.update((name, v) for name, v in known.items() if metrics.get(name) is None)
        kept[first] = replace(checkpoints[first], metrics=metrics) if others else checkpoints[first]
    return [kept[i] for i in sorted(kept)]


@dataclass(frozen=True)
class Lineage:
    """Checkpoints that share an initialisation.

    Attributes:
        id: of its row.
        signature: of its members.
        reference_path: the checkpoint that deltas are taken from.
        declared: whether runs name that file as their base; otherwise the lineage was found from distances.
        reference_sha256: that file's content when the lineage was founded.
    """

    id: int
    signature: str
    reference_path: str
    declared: bool
    reference_sha256: str


@dataclass(frozen=True)
class NotFinite:
    """A metric that was NaN, infinite or beyond any real quantity, and so counts as not measured there.

    Attributes:
        metric: its name.
        checkpoints: on how many.
        runs: of how many runs those are.
    """

    metric: str
    checkpoints: int
    runs: int


@dataclass(frozen=True)
class CopiedRun:
    """A run all of whose checkpoints another run holds, too: what is learned, is learned from them once.

    Attributes:
        run: its name.
        of: name of the other run.
        checkpoints: how many it has.
    """

    run: str
    of: str
    checkpoints: int


def copied_runs(checkpoints: Sequence[Checkpoint]) -> tuple[list[CopiedRun], int]:
    """Find runs that are copies of others, and count what several runs share besides.

    Args:
        checkpoints: the catalogue's.

    Returns:
        The copies, in the order of the checkpoints; of two runs with the same contents the one that was ingested first
        is no copy. And the number of contents that several of the remaining runs hold, as those of a common start.
    """
    names = {c.run_id: c.run for c in checkpoints}
    held: dict[int, set[str]] = {}
    holding: dict[str, set[int]] = {}
    for c in checkpoints:
        held.setdefault(c.run_id, set()).add(c.sha256)
        holding.setdefault(c.sha256, set()).add(c.run_id)
    copies: list[CopiedRun] = []
    copied: set[int] = set()
    for run, contents in held.items():
        around = [o for o in set.intersection(*(holding[c] for c in contents)) if o != run]
        whole = max(around, key=lambda o: (len(held[o]), -o), default=run)
        if (len(held[whole]), -whole) > (len(contents), -run):
            copied.add(run)
            copies.append(CopiedRun(names[run], names[whole], len(contents)))
    return copies, sum(len(runs - copied) > 1 for runs in holding.values())
