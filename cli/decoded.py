"""Options of commands that make points of the map, and what they say of the weights that came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.cli.workspace import OpenProject
    from epsopt.optimize.latent.search import Answer
    from epsopt.studies.merge.decode import MergedCheckpoint
    from epsopt.studies.merge.decode_answers import DecodedPoint
    from epsopt.zoo.catalogue.types import Checkpoint

_Command = TypeVar("_Command", bound=Callable[..., Any])


def decode_options(function: _Command) -> _Command:
    """Add --decode, --evaluate and --save."""
    for option in reversed((
        click.option("--decode", is_flag=True, help="Merge real checkpoints into weights for each, and predict those."),
        click.option("--evaluate", is_flag=True, help="Measure decoded weights with the project's evaluate hook."),
        click.option(
            "--save", type=click.Path(path_type=Path), metavar="DIR", help="Write decoded weights as checkpoints."
        ),
    )):  # fmt: skip
        function = option(function)
    return function


def decode(
    opened: OpenProject,
    points: Sequence[Answer],
    by: str,
    save: Path | None,
    level: float,
    progress: Callable[[str, float | None], None],
    *,
    evaluate: bool,
) -> list[DecodedPoint]:
    """Make the points of an open project; see :func:`epsopt.studies.merge.decode_answers.decode_answers`."""
    from epsopt.studies.merge.decode_answers import decode_answers

    with opened.workspace.catalogue() as catalogue:
        return decode_answers(
            opened.project, catalogue, opened.checkpoints, opened.surrogate, points,
            by=by, save=save, level=level, evaluate=evaluate, progress=progress,
        )  # fmt: skip


def decoded_json(made: DecodedPoint | None, checkpoints: Sequence[Checkpoint]) -> dict[str, Any] | None:
    """Return what was made of a point as JSON values; ``None``: nothing was."""
    from epsopt.cli.merge_output import recombination_json
    from epsopt.cli.render import predicted_json
    from epsopt.zoo.decoding.provenance import labels

    merged = None if made is None else made.merged
    if made is None or merged is None:
        return None
    keys = {p.sha256 for p in merged.recombination.parents}
    return {
        "weights": recombination_json(merged.recombination, labels([c for c in checkpoints if c.sha256 in keys])),
        "z": merged.z.tolist(),
        "predicted": predicted_json(merged.assessment),
        "refused": merged.assessment.refused,
        "measured": merged.measured,
        "saved": None if made.file is None else str(made.file.resolve()),
    }


def decoded_row(
    merged: MergedCheckpoint, names: Sequence[str], texts: dict[str, Callable[[float | None], str]]
) -> list[str]:
    """Return the cells of a table's row about decoded weights: measured, or else predicted."""
    from epsopt.cli.render import measured_row

    if merged.measured is None:
        return measured_row("decoded, predicted", merged.assessment.point, names, texts)
    return measured_row("decoded, measured", merged.measured, names, texts)


def tell_saved(save: Path | None, made: Sequence[DecodedPoint]) -> None:
    """Say how many checkpoints were written, if any."""
    from epsopt.cli.output import print_line

    if save is not None and (written := sum(m.file is not None for m in made)):
        print_line(f"saved: {count(written, 'checkpoint')} in {save}")


def standing(opened: OpenProject, points: Sequence[Answer], made: Sequence[DecodedPoint]) -> str:
    """Say whether what is shown was predicted or measured, and how well it held."""
    from epsopt.studies.merge.decode_answers import kept_predictions

    merges = [m.merged for m in made if m.merged is not None]
    alone = f" {len(points) - len(merges)} belong to no lineage and cannot be decoded." if made else ""
    alone = alone if len(merges) < len(points) else ""
    if not merges:
        return f"Predicted, not evaluated.{alone}"
    kept = kept_predictions(opened.objectives, opened.targets, points, made)
    if not kept.measured:
        return f"All of it is predicted, not evaluated: --evaluate measures the decoded weights.{alone}"
    meet = f"{kept.met} of {kept.measured} meet the targets, and " if opened.targets else ""
    further = (
        f", {kept.expected} within the one that was predicted of the weights: what checkpoints can be merged to does "
        "not reach every point" if kept.expected > kept.inside else ""
    )  # fmt: skip
    return (
        f"Measured on their decoded weights, {meet}{kept.inside} of {kept.values} values lie within the interval that "
        f"was predicted at the point{further}.{alone}"
    )


def reasons_without_prediction(merges: Sequence[MergedCheckpoint | None]) -> list[str]:
    """Say of which decoded weights the map predicts nothing, once a reason."""
    reasons: dict[str, list[str]] = {}
    for i, merged in enumerate(merges, 1):
        if merged is not None and merged.assessment.refused is not None:
            reasons.setdefault(merged.assessment.refused, []).append(str(i))
    return [f"Nothing is predicted of the decoded weights of {', '.join(who)}: {why}." for why, who in reasons.items()]
