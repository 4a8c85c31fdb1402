"""`epsopt search`: the trade-offs that meet the targets, and the real checkpoints nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli import decoded
from epsopt.cli.decoded import decode_options
from epsopt.cli.options import (
    Options,
    TargetCommand,
    common,
    details_option,
    level_option,
    overwrite_option,
    seed_option,
)
from epsopt.cli.pictures import picture_option

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.cli.workspace import OpenProject
    from epsopt.optimize.latent.search import Engine, SearchResult
    from epsopt.studies.merge.decode_answers import DecodedPoint

_DRAWN = 600  # checkpoints in the picture of the map that the dashboard shows
_ENGINES = ("gradient", "botorch", "optuna")  # optimize.ENGINES, which takes torch to import


@click.command("search", cls=TargetCommand)
@click.option("--engine", type=click.Choice(_ENGINES), default="gradient", show_default=True, help="What searches.")
@click.option(
    "--answers",
    "-n",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="At most so many distinct ones.",
)
@click.option("--neighbours", type=click.IntRange(min=1), default=3, show_default=True, help="Named in --json.")
@decode_options
@details_option
@level_option
@seed_option
@click.option("--no-record", is_flag=True, help="Do not keep the search as an Optuna study.")
@picture_option
@overwrite_option
@common
def command(
    options: Options,
    wanted: dict[str, float],
    engine: Engine,
    answers: int,
    neighbours: int,
    decode: bool,
    evaluate: bool,
    save: Path | None,
    details: bool,
    level: float,
    seed: int,
    no_record: bool,
    picture: Path | None,
    overwrite: bool,
) -> None:
    """Search the map for the trade-offs that meet your targets.

    Each answer names the nearest real checkpoint, what was measured on it and its file; --details adds its
    hyperparameters. The other objectives are pushed as far as they go once the targets hold. The probability of
    several targets is the product of those of each. With --decode, --evaluate or --save each answer becomes real
    weights, and what those measure is shown beside what was predicted.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import opened_picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.search_output import print_search
    from epsopt.cli.workspace import open_map

    with working("loading the map") as progress:
        opened = open_map(options, wanted)
        from epsopt.studies.merge.decode_answers import check_can_decode

        check_can_decode(opened.project, save, evaluate=evaluate)
        file = opened_picture_file(picture, opened, overwrite=overwrite)
        from epsopt.optimize import search

        progress("searching the map", None)
        result = search(
            opened.surrogate, opened.checkpoints, opened.objectives, opened.targets,
            engine=engine, limit=answers, neighbours=neighbours, level=level, seed=seed,
        )  # fmt: skip
        made: list[DecodedPoint] = []
        if result.answers and (decode or evaluate or save is not None):
            made = decoded.decode(opened, result.answers, "search", save, level, progress, evaluate=evaluate)
        if file is not None:
            save_picture(_figure(opened, result), file)
        study = front = None
        if not no_record:
            progress("recording the studies", None)
            how = {"engine": engine, "answers": answers, "neighbours": neighbours, "level": level, "seed": seed}
            study, front = _record(opened, result, how)
    opened.note_unseen()
    if options.json:
        print_json(_document(opened, result, made, study, front, engine=engine, level=level, seed=seed))
    else:
        print_search(opened, result, made, study, answers, details=details)
        tell_picture(picture)
        decoded.tell_saved(save, made)


def _figure(opened: OpenProject, result: SearchResult) -> go.Figure:
    from epsopt.figures import front

    return front(opened.objectives, opened.checkpoints, result.answers, opened.targets)


def _record(opened: OpenProject, result: SearchResult, query: dict[str, Any]) -> tuple[str, str | None]:
    """Keep the search and the front as Optuna studies, and return their names."""
    from epsopt.figures import map as draw_map
    from epsopt.studies import record_front, record_runs, record_search

    storage, name = opened.workspace.studies(), opened.project.name
    objectives, checkpoints, targets = opened.objectives, opened.checkpoints, opened.targets
    asked = {"targets": {t.name: t.value for t in targets}, **query, "map": opened.surrogate.trained_on}
    trust = opened.validation.coverage_sentence()
    record_runs(storage, name, objectives, checkpoints)
    study = record_search(
        storage, name, objectives, result.answers, asked, checkpoints=checkpoints, targets=targets, trust=trust,
        pictures={"map": lambda: draw_map(opened.surrogate, checkpoints, answers=result.answers, most=_DRAWN)},
    )  # fmt: skip
    return study, record_front(storage, name, objectives, checkpoints, result.answers, targets, trust)


def _document(
    opened: OpenProject, result: SearchResult, made: Sequence[DecodedPoint], study: str | None, front: str | None,
    *, engine: str, level: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    from epsopt.cli.render import checkpoint_json, neighbour_json, objective_json, predicted_json, target_json

    return {
        "engine": engine,
        "seed": seed,
        "level": level,
        "objectives": objective_json(opened.objectives),
        "targets": target_json(opened.targets),
        "targets_met": result.targets_met,
        "answers": [
            {
                "predicted": predicted_json(a),
                "probability": a.probability,
                "nearest": [neighbour_json(n) for n in a.nearest],
                "decoded": decoded.decoded_json(made[i] if made else None, opened.checkpoints),
            }
            for i, a in enumerate(result.answers)
        ],
        "measured_meeting_targets": [checkpoint_json(c) for c in result.measured_meeting_targets],
        "n_candidates": result.n_candidates,
        "n_checkpoints": len(opened.checkpoints),
        "n_unseen": opened.n_unseen,
        "trained_on": opened.surrogate.trained_on,
        "study": study,
        "front_study": front,
        "seconds": result.seconds,
    }
