"""`epsopt sample`: hypothetical checkpoints in the region of the map that meets the targets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.cli.workspace import OpenProject
    from epsopt.optimize.latent.region_sampling import RegionSample
    from epsopt.optimize.latent.search import Answer
    from epsopt.studies.merge.decode import MergedCheckpoint

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
@click.option("--decode", is_flag=True, help="Merge real checkpoints into weights for each, and predict those.")
@click.option("--evaluate", is_flag=True, help="Measure decoded weights with the project's evaluate hook.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write decoded weights as checkpoints.")
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
        if evaluate and opened.project.evaluate is None:
            raise UsageError(
                "--evaluate needs an evaluate hook: name it in epsopt.toml, as "
                '[hooks] evaluate = "package.module:function"'
            )
        if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
            raise UsageError(f"{save} is there already: name another folder, nothing is written over")
        file = opened_picture_file(picture, opened, overwrite=overwrite)
        from epsopt.optimize.latent.region_sampling import sample_region

        progress("sampling the map", None)
        found = sample_region(
            opened.surrogate, opened.checkpoints, opened.objectives, opened.targets,
            n=count, neighbours=neighbours, probability=probability, level=level, seed=seed,
        )  # fmt: skip
        merges: list[MergedCheckpoint | None] = []
        files: list[Path | None] = []
        if found.points and (decode or evaluate or save is not None):
            merges, files = _decode(opened, found.points, save, level, progress, evaluate=evaluate)
        if file is not None:
            save_picture(_figure(opened, found, merges), file)
    opened.note_unseen()
    if options.json:
        print_json(_document(opened, found, merges, files, seed, level, probability))
    else:
        _show(opened, found, merges, count, probability, details=details)
        tell_picture(picture)
        if save is not None and any(files):
            from epsopt.cli.output import print_line

            print_line(f"saved: {sum(f is not None for f in files)} checkpoints in {save}")


def _figure(opened: OpenProject, found: RegionSample, merges: Sequence[MergedCheckpoint | None]) -> go.Figure:
    from epsopt.figures import sampling

    made = [None if m is None else m.measured for m in merges]
    return sampling(opened.objectives, opened.checkpoints, found.points, opened.targets, made)


def _decode(
    opened: OpenProject,
    points: Sequence[Answer],
    save: Path | None,
    level: float,
    progress: Callable[[str, float | None], None],
    *,
    evaluate: bool,
) -> tuple[list[MergedCheckpoint | None], list[Path | None]]:
    from epsopt.cli.render import predicted_json
    from epsopt.studies.merge.decode import decode_samples
    from epsopt.studies.output_paths import decoded_file, save_folder
    from epsopt.zoo.decoding.decoder import WeightDecoder
    from epsopt.zoo.decoding.provenance import Provenance, labels

    hook = opened.project.evaluate
    by_key = {c.sha256: c for c in opened.checkpoints}
    held: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if save is not None:
        held = save_folder(save, opened.project.runs, "sample", opened.checkpoints)
    with (
        held,
        opened.workspace.catalogue() as catalogue,
        WeightDecoder(hook, weights_key=catalogue.weights_key, calibrate=opened.project.calibrate) as decoder,
    ):
        merges = decode_samples(
            decoder, catalogue, opened.checkpoints, opened.surrogate, points,
            level=level, evaluate=evaluate, progress=progress,
        )  # fmt: skip
        files: list[Path | None] = []
        for i, merged in enumerate(merges, 1):
            if merged is None or save is None:
                files.append(None)
                continue
            parents = [by_key[p.sha256] for p in merged.recombination.parents]
            file = decoded_file(save, f"sample_{i:03d}", None, parents)
            provenance = Provenance("sample", predicted_json(merged.assessment), merged.measured, hook, labels(parents))
            decoder.save(merged.decoded, file, provenance)
            files.append(file)
    return merges, files


def _document(
    opened: OpenProject,
    found: RegionSample,
    merges: Sequence[MergedCheckpoint | None],
    files: Sequence[Path | None],
    seed: int,
    level: float,
    probability: float,
) -> dict[str, Any]:
    from epsopt.cli.merge_output import recombination_json
    from epsopt.cli.render import neighbour_json, objective_json, predicted_json, target_json
    from epsopt.zoo.decoding.provenance import labels

    named = labels(opened.checkpoints) if merges else {}

    def decoded(i: int) -> dict[str, Any] | None:
        merged = merges[i] if merges else None
        if merged is None:
            return None
        file = files[i]
        return {
            "weights": recombination_json(merged.recombination, named),
            "z": merged.z.tolist(),
            "predicted": predicted_json(merged.assessment),
            "refused": merged.assessment.refused,
            "measured": merged.measured,
            "saved": None if file is None else str(file.resolve()),
        }

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
                "decoded": decoded(i),
            }
            for i, p in enumerate(found.points)
        ],
    }


def _show(
    opened: OpenProject,
    found: RegionSample,
    merges: Sequence[MergedCheckpoint | None],
    count: int,
    probability: float,
    *,
    details: bool,
) -> None:
    from epsopt.cli.output import DISTANCE, PRODUCT, TARGETS_HOLD, Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters, list_runs, measured_row, metric_heads, near_label, varying
    from epsopt.cli.run_labels import RunLabels

    if not found.points:
        print_wrapped(
            f"No point of the trust region meets all targets with a probability of {probability:g}: the best has "
            f"{found.best:.2g}. Ask for less, or sample with a lower --probability."
            + (PRODUCT if len(opened.targets) > 1 else "")
        )
        print_wrapped(_trust_region(found))
        return
    names = [o.name for o in opened.objectives]
    labels = RunLabels.of(opened.checkpoints)
    shown = found.points[:_SHOWN]
    made = [merges[i] if merges else None for i in range(len(shown))]
    values: list[Mapping[str, float | None]] = [p.point for p in shown]
    values += [m.measured or m.assessment.point for m in made if m is not None]
    texts = formatters(names, values)
    heads = [Head("#"), Head("P"), *([Head("", "left")] if merges else [])]
    heads += [*metric_heads(names, opened.objectives, opened.targets), Head("nearest real checkpoint", "left")]
    groups = []
    for i, (point, merged) in enumerate(zip(shown, made, strict=True), 1):
        title, *cells = measured_row("at the point, predicted", point.point, names, texts)
        begin = [str(i), f"{point.probability or 0.0:.2f}", *([title] if merges else [])]
        rows = [[*begin, *cells, near_label(point.nearest[0], labels)]]
        if merged is not None:
            rows.append(
                ["", "", *measured_row("decoded, predicted", merged.assessment.point, names, texts), ""]
                if merged.measured is None
                else ["", "", *measured_row("decoded, measured", merged.measured, names, texts), ""]
            )
        groups.append(Rows(rows))
    print_table(heads, groups, keep=3 if merges else 1)
    print_wrapped()
    more = f"; the first {_SHOWN} are shown, --json has all" if len(found.points) > _SHOWN else ""
    few = (
        " (fewer than asked for: the region holds no more of the proposed points)" if len(found.points) < count else ""
    )
    print_wrapped(f"{len(found.points)} hypothetical checkpoints{few}{more}. {_standing(opened, found, merges)}")
    for text in reasons_without_prediction(merges):
        print_wrapped(text)
    print_wrapped(
        f"{found.share:.0%} of the points proposed inside the trust region meet the targets. Samples lie "
        f"{found.spacing:.2f} apart (median). {_trust_region(found)}"
        + DISTANCE
        + TARGETS_HOLD
        + (PRODUCT if len(opened.targets) > 1 else "")
    )
    print_wrapped()
    list_runs([p.nearest[0] for p in shown], varying(opened.checkpoints), labels, details=details)


def _trust_region(found: RegionSample) -> str:
    return (
        f"The trust region is what lies at most {found.radius:.2f} from a real checkpoint, the median distance between "
        "a checkpoint and the nearest one of another run: predictions farther out are hardly tested."
    )


def reasons_without_prediction(merges: Sequence[MergedCheckpoint | None]) -> list[str]:
    """Say of which decoded weights the map predicts nothing, once a reason."""
    reasons: dict[str, list[str]] = {}
    for i, merged in enumerate(merges, 1):
        if merged is not None and merged.assessment.refused is not None:
            reasons.setdefault(merged.assessment.refused, []).append(str(i))
    return [f"Nothing is predicted of the decoded weights of {', '.join(who)}: {why}." for why, who in reasons.items()]


def _standing(opened: OpenProject, found: RegionSample, merges: Sequence[MergedCheckpoint | None]) -> str:
    """Say whether what is shown was predicted or measured."""
    made = [m for m in merges if m is not None]
    alone = f" {len(found.points) - len(made)} belong to no lineage and cannot be decoded." if merges else ""
    alone = alone if len(made) < len(found.points) else ""
    if not made:
        return f"Predicted, not evaluated.{alone}"
    if made[0].measured is None:
        return f"All of it is predicted, not evaluated: --evaluate measures the decoded weights.{alone}"
    signs = {o.name: 1.0 if o.maximize else -1.0 for o in opened.objectives}
    met = sum(
        all((v := (m.measured or {}).get(t.name)) is not None and (v - t.value) * signs[t.name] >= 0.0
            for t in opened.targets)
        for m in made
    )  # fmt: skip
    return f"Measured on their decoded weights, {met} of {len(made)} meet the targets.{alone}"
