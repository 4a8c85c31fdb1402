"""`epsopt interpolate`: the way from one checkpoint to another, predicted, decoded and measured."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, level_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.cli.resolve_checkpoint import Located
    from epsopt.optimize.latent.interpolation import PathPoint
    from epsopt.studies.merge.decode import MergedCheckpoint


@click.command("interpolate")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--steps", type=click.IntRange(min=2), default=11, show_default=True, help="Points, both ends included.")
@click.option("--evaluate", is_flag=True, help="Measure each mixture of the weights with the project's evaluate hook.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write each mixture as a checkpoint.")
@click.option(
    "--format", "form", type=click.Choice(["safetensors", "pt"]), help="Of saved checkpoints; like A and B if not said."
)
@level_option
@common
def command(
    options: Options, a: str, b: str, steps: int, evaluate: bool, save: Path | None, form: str | None, level: float
) -> None:
    """Walk from checkpoint A to checkpoint B: predicted metrics at each step, and mixtures of their weights.

    A and B are files, runs (their last checkpoint), RUN:EPOCH, or the beginning of a SHA-256. Where both share an
    initialisation, each step is a real set of weights; otherwise there are only predictions.
    """
    from epsopt.cli.merge_output import free_files
    from epsopt.cli.output import print_json
    from epsopt.cli.progress import working
    from epsopt.cli.resolve_checkpoint import locate
    from epsopt.cli.workspace import measured, open_workspace
    from epsopt.studies.output_paths import save_folder, suffix_for
    from epsopt.zoo.decoding.decoder import WeightDecoder
    from epsopt.zoo.decoding.provenance import Provenance, labels

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        hook = workspace.project.evaluate if workspace.project else None
        if evaluate and hook is None:
            raise UsageError(
                "--evaluate needs an evaluate hook: name it in epsopt.toml, as "
                '[hooks] evaluate = "package.module:function"'
            )
        with (
            contextlib.ExitStack() as held,
            workspace.catalogue() as catalogue,
            WeightDecoder(hook, weights_key=catalogue.weights_key) as decoder,
        ):
            checkpoints = measured(catalogue)
            from epsopt.optimize.latent.interpolation import along, linear_metrics, straight
            from epsopt.studies.merge.decode import decode_mixtures
            from epsopt.studies.surrogate_store import load_map
            from epsopt.zoo.decoding.recombination import require_one_lineage

            ends = [locate(what, catalogue, checkpoints) for what in (a, b)]
            start, end = (e.checkpoint for e in ends)
            reason = None
            try:
                require_one_lineage([start, end])
                if start.lineage_id == 0:
                    reason = f"{start.path} and {end.path} belong to no lineage that the catalogue knows"
            except UsageError as error:
                reason = str(error)
            if start.sha256 == end.sha256:
                raise UsageError(f"{ends[0].shown} and {ends[1].shown} are the same checkpoint: there is no way to go")
            if reason is not None and (evaluate or save):
                raise UsageError(f"{reason}; without --evaluate and --save, the map's predictions are shown")
            names = [f"step_{i:03d}{suffix_for(form, [start, end])}" for i in range(steps)]
            files = free_files(save, names) if save is not None else []
            if save is not None:  # held until all is saved
                runs = workspace.project.runs if workspace.project else Path()
                held.enter_context(save_folder(save, runs, "step", checkpoints))
            surrogate, _ = load_map(catalogue)
            mixtures: list[MergedCheckpoint] = []
            if reason is None:
                from epsopt.optimize.latent.interpolation import shares
                from epsopt.zoo.decoding.recombination import recombination

                mixed = [recombination([start, end], [[1.0 - t, t]]) for t in shares(steps)]
                mixtures = decode_mixtures(
                    decoder, catalogue, checkpoints, surrogate, mixed, level=level, evaluate=evaluate, progress=progress
                )
                from torch import stack

                z = stack([m.z for m in mixtures])
            else:
                for located in ends:
                    if (refused := surrogate.refusal(located.fingerprint.signature, level)) is not None:
                        raise UsageError(f"the way to {located.shown} cannot be predicted: {refused}")
                codes = surrogate.encode([e.fingerprint for e in ends])
                z = straight(codes[0], codes[1], steps)
            way = along(surrogate, checkpoints, z, level)
            named = labels([start, end])
            from epsopt.cli.render import predicted_json

            for mixture, step, file in zip(mixtures, way, files, strict=False):
                origin = Provenance("interpolate", predicted_json(step), mixture.measured, hook, named)
                decoder.save(mixture.decoded, file, origin)
    between = linear_metrics(start.metrics, end.metrics, surrogate.metric_names, steps)
    if options.json:
        print_json(_document(ends, way, mixtures, between, files, reason, level, named))
    else:
        _show(ends, way, mixtures, files, reason, workspace.shown_metrics(surrogate.metric_names), level)


def _document(
    ends: list[Located],
    way: list[PathPoint],
    mixtures: list[MergedCheckpoint],
    between: list[dict[str, float | None]],
    files: list[Path],
    reason: str | None,
    level: float,
    named: Mapping[str, str],
) -> dict[str, Any]:
    from epsopt.cli.merge_output import recombination_json
    from epsopt.cli.render import checkpoint_json, neighbour_json, predicted_json

    steps = []
    for i, step in enumerate(way):
        mixture = mixtures[i] if mixtures else None
        steps.append(
            {
                "share": step.share,
                "predicted": predicted_json(step),
                "measured": mixture.measured if mixture else None,
                "linear": between[i],
                "in_trust_region": step.trusted,
                "nearest": neighbour_json(step.nearest),
                "weights": recombination_json(mixture.recombination, named) if mixture else None,
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
    ends: list[Located],
    way: list[PathPoint],
    mixtures: list[MergedCheckpoint],
    files: list[Path],
    reason: str | None,
    names: tuple[str, ...],
    level: float,
) -> None:
    from epsopt.cli.output import Head, Rows, print_line, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads, predicted_rows, short_path

    measurements = [m.measured or {} for m in mixtures]
    shown: list[Mapping[str, float | None]] = [m for s in way for m in (s.point, s.low, s.high)]
    texts = formatters(names, [*shown, *measurements])
    groups = []
    for i, step in enumerate(way):
        rows, dim = predicted_rows(step, names, texts, "predicted", level)
        lines = [[f"{step.share:.2f}", *rows[0]], ["" if step.trusted else "far", *rows[1]]]
        if mixtures and mixtures[i].measured is not None:
            lines.append(["", *measured_row("measured", measurements[i], names, texts)])
        groups.append(Rows(lines, dim))
    print_line(f"from {ends[0].shown} (0) to {ends[1].shown} (1):")
    print_wrapped()
    print_table([Head("way"), Head("", "left"), *metric_heads(names, ())], groups, keep=2)
    print_wrapped()
    if reason is not None:
        print_wrapped(f"Predictions only: {reason}.")
    elif mixtures[0].measured is None:
        print_wrapped("Predicted values are predicted from the mixed weights, not evaluated: --evaluate measures them.")
    else:
        print_wrapped("Predicted values are predicted from the mixed weights; measured ones are the evaluate hook's.")
    if not all(step.trusted for step in way):
        print_wrapped("'far': outside of what the map was trained on; the intervals mean little there.")
    if files:
        print_line(f"saved: {short_path(files[0].resolve())} to {files[-1].name}")
