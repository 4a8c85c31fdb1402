"""What commands that merge weights show: coefficients, files, and whether metrics are predicted or measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.optimize.merge.simplex_merge import MergeResult
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.merge.weight_space_merge import WeightSpaceMerge
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.decoding.recombination import Recombination


def free_files(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return files below a folder, none of which is there yet: said before anything is computed.

    Raises:
        UsageError: one is there, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder to save checkpoints in")
    taken = [f for f in files if f.exists() or f.is_symlink()]
    if taken:
        raise UsageError(f"{taken[0]} is there already: name another folder, nothing is written over")
    return list(files)


def recombination_json(recombination: Recombination, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return parents, coefficients and groups as JSON values."""
    return {
        "groups": list(recombination.groups),
        "parents": [
            {
                "checkpoint": labels.get(p.sha256),
                "path": p.path,
                "sha256": p.sha256,
                "coefficients": [row[i] for row in recombination.coefficients],
            }
            for i, p in enumerate(recombination.parents)
        ],
    }


def outcome_json(
    outcome: MergeResult | WeightSpaceMerge,
    objectives: Sequence[Objective],
    disagreements: Sequence[str],
    left_out: Sequence[Checkpoint],
    folder: Path | None,
) -> dict[str, Any]:
    """Return how measuring merges ended, as the last JSON values of `epsopt merge`."""
    from epsopt.studies.merge.merge_sources import left_out_sentences

    return {
        "stopped": outcome.stopped,
        "reference": dict(zip([o.name for o in objectives], outcome.reference, strict=True)),
        "hypervolume": {"before": outcome.before, "after": outcome.after},
        "disagreements": list(disagreements),
        "left_out": left_out_sentences(left_out),
        "folder": None if folder is None else str(folder.resolve()),
    }


def kept_json(
    index: int, joined: Collection[int], saved: Mapping[int, Path], whole: Mapping[int, Path]
) -> dict[str, Any]:
    """Return whether one evaluation joined the front, the file it was saved in, and the folder of its whole model."""
    files = [str(known[index].resolve()) if index in known else None for known in (saved, whole)]
    return {"joined": index in joined, "saved": files[0], "whole_model": files[1]}


def print_saved(folder: Path, runs: Path) -> None:
    """Say where merges were saved, and the command that reads them."""
    from epsopt.cli.output import print_line
    from epsopt.cli.render import short_path

    place = folder.resolve()
    argument = "" if place.is_relative_to(runs.resolve()) else f" {short_path(place)}"
    print_line(f"saved in {short_path(place)}; 'epsopt ingest{argument}' reads them")


def print_whole(whole: Mapping[int, Path]) -> None:
    """Say where adapters were saved as whole models."""
    from epsopt.cli.output import print_line
    from epsopt.cli.render import short_path

    for folder in sorted({path.parent for path in whole.values()}):
        print_line(f"added to their base in {short_path(folder.resolve())}")
