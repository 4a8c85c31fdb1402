"""`epsopt interpolate`: the way from one checkpoint to another, predicted, decoded and measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, level_option, overwrite_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.cli.resolve_checkpoint import Located
    from epsopt.studies.merge.interpolate import Interpolation
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.decoding.decoder import WeightDecoder


@click.command("interpolate")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--steps", type=click.IntRange(min=2), default=11, show_default=True, help="Points, both ends included.")
@click.option("--evaluate", is_flag=True, help="Measure each merged checkpoint with the project's evaluate hook.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write each merge as a checkpoint.")
@picture_option
@overwrite_option
@click.option(
    "--format", "form", type=click.Choice(["safetensors", "pt"]), help="Of saved checkpoints; like A and B if not said."
)
@level_option
@common
def command(
    options: Options, a: str, b: str, steps: int, evaluate: bool, save: Path | None, picture: Path | None,
    overwrite: bool, form: str | None, level: float,
) -> None:  # fmt: skip
    """Walk from checkpoint A to checkpoint B: predicted metrics at each step, and merges of their weights.

    A and B are files, runs (their last checkpoint), RUN:EPOCH, or the beginning of a SHA-256. Where both share an
    initialisation, each step is a real set of weights; otherwise there are only predictions.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.resolve_checkpoint import locate
    from epsopt.cli.workspace import measured, open_workspace
    from epsopt.zoo.decoding.decoder import WeightDecoder

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        project = workspace.project
        hook, calibrate = (project.evaluate, project.calibrate) if project else (None, None)
        if evaluate and hook is None:
            raise UsageError(
                "--evaluate needs an evaluate hook: name it in epsopt.toml, as "
                '[hooks] evaluate = "package.module:function"'
            )
        with (
            contextlib.ExitStack() as held,
            workspace.catalogue() as catalogue,
            WeightDecoder(hook, weights_key=catalogue.weights_key, calibrate=calibrate) as decoder,
        ):
            checkpoints = measured(catalogue)
            drawn = picture_file(picture, catalogue, overwrite=overwrite)
            from epsopt.studies.merge.interpolate import interpolate, why_not_mergeable
            from epsopt.studies.surrogate_store import load_map

            ends = [locate(what, catalogue, checkpoints) for what in (a, b)]
            reason = why_not_mergeable(*(e.checkpoint for e in ends))
            _check_ends(ends, reason, weights=evaluate or save is not None)
            files: list[Path] = []
            if save is not None:
                files = held.enter_context(_files(save, form, steps, ends, workspace.project, checkpoints))
            surrogate, _ = load_map(catalogue)
            way = interpolate(
                decoder, catalogue, checkpoints, surrogate, ends, steps,
                weights=reason is None, level=level, evaluate=evaluate, progress=progress,
            )  # fmt: skip
            _save(decoder, way, files, ends)
        if drawn is not None:
            save_picture(_figure(ends, way, workspace.shown_metrics(surrogate.metric_names)), drawn)
    if options.json:
        print_json(_document(ends, way, files, reason, level))
    else:
        _show(ends, way, files, reason, workspace.shown_metrics(surrogate.metric_names), level)
        tell_picture(picture)


def _figure(ends: list[Located], way: Interpolation, names: tuple[str, ...]) -> go.Figure:
    """The way as a figure: measured ends are measured, whether weights were or not."""
    from epsopt.figures import Way, interpolation

    measured: list[Mapping[str, float | None] | None] = [m.measured for m in way.merged] or [None] * len(way.steps)
    for i in (0, -1):
        measured[i] = measured[i] or ends[i].checkpoint.metrics
    title = f"A: {ends[0].shown}, B: {ends[1].shown}"
    drawn = Way(title, [s.share for s in way.steps], way.steps, measured, [s.trusted for s in way.steps])
    return interpolation([drawn], names)


def _check_ends(ends: list[Located], reason: str | None, *, weights: bool) -> None:
    if ends[0].checkpoint.sha256 == ends[1].checkpoint.sha256:
        raise UsageError(f"{ends[0].shown} and {ends[1].shown} are the same checkpoint: there is no way to go")
    for end in ends:
        if (refused := end.fingerprint.refusal) is not None:
            raise UsageError(f"there is no way from or to {end.shown}: {refused}")
    if reason is not None and weights:
        raise UsageError(f"{reason}; without --evaluate and --save, the map's predictions are shown")


@contextlib.contextmanager
def _files(
    save: Path, form: str | None, steps: int, ends: list[Located], project: Project | None,
    checkpoints: Sequence[Checkpoint],
) -> Iterator[list[Path]]:  # fmt: skip
    """Hold the folder until all is saved, and give the files to save into, none of which is there."""
    from epsopt.cli.merge_output import free_files
    from epsopt.studies.output_paths import decoded_file, save_folder

    parents = [e.checkpoint for e in ends]
    files = free_files(save, [decoded_file(save, f"step_{i:03d}", form, parents) for i in range(steps)])
    with save_folder(save, project.runs if project else Path(), "step", checkpoints):
        yield files


def _save(decoder: WeightDecoder, way: Interpolation, files: list[Path], ends: list[Located]) -> None:
    from epsopt.cli.render import predicted_json
    from epsopt.zoo.decoding.provenance import Provenance, labels

    named = labels([e.checkpoint for e in ends])
    for merged, step, file in zip(way.merged, way.steps, files, strict=False):
        provenance = Provenance("interpolate", predicted_json(step), merged.measured, decoder.hook, named)
        decoder.save(merged.decoded, file, provenance)


def _document(
    ends: list[Located], way: Interpolation, files: list[Path], reason: str | None, level: float
) -> dict[str, Any]:
    from epsopt.cli.merge_output import recombination_json
    from epsopt.cli.render import checkpoint_json, neighbour_json, predicted_json
    from epsopt.zoo.decoding.provenance import labels

    named = labels([e.checkpoint for e in ends])
    steps = []
    for i, step in enumerate(way.steps):
        merged = way.merged[i] if way.merged else None
        steps.append(
            {
                "share": step.share,
                "predicted": predicted_json(step),
                "measured": merged.measured if merged else None,
                "linear": way.linear[i],
                "in_trust_region": step.trusted,
                "nearest": neighbour_json(step.nearest),
                "weights": recombination_json(merged.recombination, named) if merged else None,
                "saved": str(files[i].resolve()) if files else None,
            }
        )
    return {
        "from": checkpoint_json(ends[0].checkpoint),
        "to": checkpoint_json(ends[1].checkpoint),
        "level": level,
        "decoded": reason is None,
        "reason": reason,
        "steps": steps,
    }


def _show(
    ends: list[Located], way: Interpolation, files: list[Path], reason: str | None, names: tuple[str, ...], level: float
) -> None:
    from epsopt.cli.output import Head, Rows, print_line, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads, predicted_rows, short_path
    from epsopt.zoo.formatting import count

    measurements = [m.measured or {} for m in way.merged]
    known = {0: ends[0].checkpoint.metrics, len(way.steps) - 1: ends[1].checkpoint.metrics}
    shown: list[Mapping[str, float | None]] = [m for s in way.steps for m in (s.point, s.low, s.high)]
    texts = formatters(names, [*shown, *measurements, *known.values()])
    groups = []
    for i, step in enumerate(way.steps):
        rows, dim = predicted_rows(step, names, texts, "predicted", level)
        lines = [[f"{step.share:.2f}", *rows[0]], ["" if step.trusted else "far", *rows[1]]]
        if way.merged and way.merged[i].measured is not None:
            lines.append(["", *measured_row("measured", measurements[i], names, texts)])
        elif any(known.get(i, {}).get(n) is not None for n in names):
            lines.append(["", *measured_row("measured", known[i], names, texts)])
        groups.append(Rows(lines, dim))
    print_line(f"from {ends[0].shown} (0) to {ends[1].shown} (1):")
    print_wrapped()
    print_table([Head("way"), Head("", "left"), *metric_heads(names, ())], groups, keep=2)
    print_wrapped()
    if reason is not None:
        for end in ends:
            reason = reason.replace(end.checkpoint.path, end.shown)
        print_wrapped(f"Predictions only: {reason}.")
    elif way.merged[0].measured is None:
        print_wrapped(
            "Predicted values are predicted from merged weights, not evaluated: --evaluate measures them. What is "
            "measured of both ends is what their runs measured."
        )
    else:
        print_wrapped("Predicted values are predicted from merged weights; measured ones are the evaluate hook's.")
    refused = [why for m in way.merged if (why := m.assessment.refused) is not None]
    if refused:
        print_wrapped(f"No prediction for {count(len(refused), 'merge')}, for example: {refused[0]}.")
    if not all(step.trusted for step in way.steps):
        print_wrapped("'far': outside of what the map was trained on; the intervals mean little there.")
    if files:
        print_line(f"saved: {short_path(files[0].resolve().parent)} to {files[-1].parent.name}")
