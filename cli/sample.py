"""`epsopt sample`: hypothetical checkpoints in the region of the map that meets the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from epsopt.optimize.latent.region_sampling import RegionSample
    from epsopt.studies.merge.decode_answers import DecodedPoint

_SHOWN = 10


@click.command("sample", cls=TargetCommand)
@click.option("--count", "-n", type=click.IntRange(min=1), default=100, show_default=True, help="How many.")
@click.option("--neighbours", type=click.IntRange(min=1), default=3, show_default=True, help="Named in --json.")
@click.option(
    "--probability",
    type=click.FloatRange(0, 1, True, True),
    default=0.5,
    show_default=True,
    help="That all targets are met, at least: the product over single targets.",
)
@decode_options
@picture_option
@overwrite_option
@details_option
@level_option
@seed_option
@common
def command(
    options: Options,
    wanted: dict[str, float],
    count: int,
    neighbours: int,
    probability: float,
    decode: bool,
    evaluate: bool,
    save: Path | None,
    picture: Path | None,
    overwrite: bool,
    details: bool,
    level: float,
    seed: int,
) -> None:
    """Sample hypothetical checkpoints that meet your targets, far apart, close to real ones.

    Everything about them is predicted, not evaluated; each names the real checkpoints nearest to it. With --decode,
    --evaluate or --save each becomes real weights, out of checkpoints of the lineage that is nearest to it: what those
    weights are predicted to reach, or measured to, is shown beside what was predicted at the point.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import opened_picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_map

    with working("loading the map") as progress:
        opened = open_map(options, wanted)
        from epsopt.studies.merge.decode_answers import check_can_decode

        check_can_decode(opened.project, save, evaluate=evaluate)
        file = opened_picture_file(picture, opened, overwrite=overwrite)
        from epsopt.optimize.latent.region_sampling import sample_region

        progress("sampling the map", None)
        found = sample_region(
            opened.surrogate, opened.checkpoints, opened.objectives, opened.targets,
            n=count, neighbours=neighbours, probability=probability, level=level, seed=seed,
        )  # fmt: skip
        made: list[DecodedPoint] = []
        if found.points and (decode or evaluate or save is not None):
            made = decoded.decode(opened, found.points, "sample", save, level, progress, evaluate=evaluate)
        if file is not None:
            save_picture(_figure(opened, found, made), file)
    opened.note_unseen()
    if options.json:
        print_json(_document(opened, found, made, seed, level, probability))
    else:
        _show(opened, found, made, count, probability, details=details)
        tell_picture(picture)
        decoded.tell_saved(save, made)


def _figure(opened: OpenProject, found: RegionSample, made: Sequence[DecodedPoint]) -> go.Figure:
    from epsopt.figures import sampling

    measured = [None if m.merged is None else m.merged.measured for m in made]
    return sampling(opened.objectives, opened.checkpoints, found.points, opened.targets, measured)


def _document(
    opened: OpenProject,
    found: RegionSample,
    made: Sequence[DecodedPoint],
    seed: int,
    level: float,
    probability: float,
) -> dict[str, Any]:
    from epsopt.cli.render import neighbour_json, objective_json, predicted_json, target_json

    return {
        "seed": seed,
        "level": level,
        "least_probability": probability,
        "objectives": objective_json(opened.objectives),
        "targets": target_json(opened.targets),
        "share": found.share,
        "spacing": found.spacing,
        "trust_radius": found.radius,
        "best_probability": found.best,
        "trained_on": opened.surrogate.trained_on,
        "samples": [
            {
                "z": p.z.tolist(),
                "predicted": predicted_json(p),
                "probability": p.probability,
                "nearest": [neighbour_json(n) for n in p.nearest],
                "decoded": decoded.decoded_json(made[i] if made else None, opened.checkpoints),
            }
            for i, p in enumerate(found.points)
        ],
    }


def _show(
    opened: OpenProject,
    found: RegionSample,
    made: Sequence[DecodedPoint],
    count: int,
    probability: float,
    *,
    details: bool,
) -> None:
    from epsopt.cli.output import DISTANCE, Head, Rows, print_table, print_wrapped, product, targets_hold
    from epsopt.cli.render import formatters, list_runs, measured_row, metric_heads, near_label, varying
    from epsopt.cli.run_labels import RunLabels

    if not found.points:
        print_wrapped(
            f"No point of the trust region meets all targets with a probability of {probability:g}: the best has "
            f"{found.best:.2g}. Ask for less, or sample with a lower --probability." + product(opened.targets)
        )
        print_wrapped(_trust_region(found))
        return
    names = [o.name for o in opened.objectives]
    labels = RunLabels.of(opened.checkpoints)
    shown = found.points[:_SHOWN]
    merges = [m.merged for m in made]
    mine = [merges[i] if merges else None for i in range(len(shown))]
    values: list[Mapping[str, float | None]] = [p.point for p in shown]
    values += [m.measured or m.assessment.point for m in mine if m is not None]
    texts = formatters(names, values, opened.checkpoints)
    heads = [Head("#"), Head("P"), *([Head("", "left")] if merges else [])]
    heads += [*metric_heads(names, opened.objectives, opened.targets), Head("nearest real checkpoint", "left")]
    groups = []
    for i, (point, merged) in enumerate(zip(shown, mine, strict=True), 1):
        title, *cells = measured_row("at the point, predicted", point.point, names, texts)
        begin = [str(i), f"{point.probability or 0.0:.2f}", *([title] if merges else [])]
        rows = [[*begin, *cells, near_label(point.nearest[0], labels)]]
        if merged is not None:
            rows.append(["", "", *decoded.decoded_row(merged, names, texts), ""])
        groups.append(Rows(rows))
    print_table(heads, groups, keep=3 if merges else 1)
    print_wrapped()
    more = f"; the first {_SHOWN} are shown, --json has all" if len(found.points) > _SHOWN else ""
    few = (
        " (fewer than asked for: the region holds no more of the proposed points)" if len(found.points) < count else ""
    )
    print_wrapped(
        f"{len(found.points)} hypothetical checkpoints{few}{more}. {decoded.standing(opened, found.points, made)}"
    )
    for text in decoded.reasons_without_prediction(merges):
        print_wrapped(text)
    print_wrapped(
        f"{found.share:.0%} of the points proposed inside the trust region meet the targets. Samples lie "
        f"{found.spacing:.2f} apart (median). {_trust_region(found)}" + DISTANCE + targets_hold(opened.targets)
    )
    print_wrapped()
    list_runs([p.nearest[0] for p in shown], varying(opened.checkpoints), labels, details=details)


def _trust_region(found: RegionSample) -> str:
    return (
        f"The trust region is what lies at most {found.radius:.2f} from a real checkpoint, the median distance between "
        "a checkpoint and the nearest one of another run: predictions farther out are hardly tested."
    )
