"""`epsopt predict`: the metrics of checkpoint files, whether the catalogue has them or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, follow_links_option, level_option, overwrite_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import Workspace
    from epsopt.optimize.latent.predict_checkpoint import Assessment
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.predict_files import FilePredictions
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.reading.reader import CheckpointContents


_LISTED = 12  # files of a kind that are named


@click.command("predict")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--weights-only", is_flag=True, help="Do not run the project's embed hook on the files.")
@follow_links_option
@level_option
@picture_option
@overwrite_option
@common
def command(
    options: Options, paths: tuple[Path, ...], level: float, weights_only: bool, follow_links: bool,
    picture: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Predict the metrics of checkpoint files (or of all files in folders), with intervals.

    Where the project has an embed hook, it runs on each file: the anchors' embeddings tell more than weights do.

    Nothing is recorded. A file that lies far from all checkpoints that the map knows is named as such: there the
    intervals mean little. Metrics of an architecture that the map was not trained on are not predicted, unless the map
    was tested on enough architectures that it had not seen; their intervals are then calibrated on those.

    --picture draws the predictions, hollow with their intervals, among what the catalogue's checkpoints measured.

    The exit status is 1 where not one file is predicted.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            objectives = () if file is None else _drawn_objectives(workspace, catalogue)
            from epsopt.studies.predict_files import predict_files

            found = predict_files(
                catalogue, workspace.project, paths,
                level=level, weights_only=weights_only, follow_links=follow_links, progress=progress,
            )  # fmt: skip
        if file is not None and any(a.refused is None for a in found.predicted):
            save_picture(_figure(found, objectives, checkpoints), file)
        else:
            picture = None
    if options.json:
        print_json(_document(found, level))
    else:
        _show_all(found, workspace.shown_metrics(found.surrogate.metric_names), level, RunLabels.of(checkpoints))
        tell_picture(picture)
    _require_predictions(found, paths)


def _drawn_objectives(workspace: Workspace, catalogue: Catalogue) -> tuple[Objective, ...]:
    """Return the axes of the picture: the project's objectives that the map predicts.

    Raises:
        UsageError: it predicts none of them.
    """
    from epsopt.studies.surrogate_store import load_map

    predicted = load_map(catalogue)[0].metric_names
    found = tuple(o for o in workspace.require_project().objectives if o.name in predicted)
    if not found:
        raise UsageError("--picture draws objectives, and the map predicts none of the project's: run 'epsopt fit'")
    return found


def _figure(found: FilePredictions, objectives: Sequence[Objective], checkpoints: Sequence[Checkpoint]) -> go.Figure:
    """Draw the predictions among the measured checkpoints."""
    from types import SimpleNamespace

    from epsopt.cli.render import short_path
    from epsopt.figures import front

    drawn = [
        SimpleNamespace(point=a.point, low=a.low, high=a.high, probability=None, nearest=(a.nearest,),
                        label=short_path(r.path))
        for r, a in zip(found.read, found.predicted, strict=True) if a.refused is None
    ]  # fmt: skip
    return front(objectives, checkpoints, drawn, title=f"Predicted: {count(len(drawn), 'checkpoint')}")


def _require_predictions(found: FilePredictions, paths: Sequence[Path]) -> None:
    """Refuse to end well where not one file is predicted.

    Raises:
        EpsoptError: none is; says why.
    """
    from epsopt.zoo.layouts.nothing_found import nothing_found

    if not found.read:
        raise nothing_found(paths, failed=found.failed)
    if all(a.refused for a in found.predicted):
        raise EpsoptError(_nothing_predicted(found))


def _document(found: FilePredictions, level: float) -> dict[str, Any]:
    from epsopt.cli.render import failure_json, neighbour_json, predicted_json

    return {
        "level": level,
        "trained_on": found.surrogate.trained_on,
        "probes": found.surrogate.probes,
        "measured_at_ends": found.measured_at_ends,
        "predictions": [
            {
                "path": str(r.path),
                "epoch": r.epoch,
                "sha256": r.sha256,
                "predicted": predicted_json(a),
                "measured": dict(r.metrics),
                "nearest": neighbour_json(a.nearest),
                "in_trust_region": a.trusted,
                "trust_radius": a.radius,
                "known_architecture": a.known_architecture,
                "known_lineage": r.lineage is not None,
                "refused": a.refused,
            }
            for r, a in zip(found.read, found.predicted, strict=True)
        ],
        "tested": [
            {"metric": t.metric, "files": t.n, "mean_absolute_error": t.error, "inside": t.inside}
            for t in found.tested()
        ],
        "failed": failure_json(found.failed),
        "side_file_failures": failure_json(found.side_file_failures),
    }


def _show_all(found: FilePredictions, names: tuple[str, ...], level: float, labels: RunLabels) -> None:
    """Print what is predicted, what to doubt about it, and what could not be read."""
    from epsopt.cli.output import failures, links_outside, print_side_file_failures, print_wrapped

    if found.read:
        predicted = _show(found.read, found.predicted, names, level, labels)
        _learned_from(found)
        _tested(found, names, level)
        _doubt_ranges(found.read, found.surrogate)
        _doubt_embeddings(found.read, found.surrogate)
        if found.measured_at_ends and predicted:
            print_wrapped(
                f"Careful: {', '.join(found.measured_at_ends)} was measured at the ends of runs only; what is "
                "predicted of earlier checkpoints was never compared with a measurement."
            )
    if found.failed:
        print_wrapped("Could not be read:")
        failures(found.failed)
    print_side_file_failures(found.side_file_failures)
    links_outside(found.outside_links)


def _learned_from(found: FilePredictions) -> None:
    """Say how many of the files that are predicted the map has learned from."""
    from epsopt.cli.output import print_wrapped

    predicted = sum(a.refused is None for a in found.predicted)
    if known := found.n_taught:
        print_wrapped(
            f"{known} of these {count(predicted, 'checkpoint')} taught the map what they measured: this is no "
            "test of it."
            if predicted > 1
            else "This checkpoint taught the map what it measured: this is no test of it."
        )


def _tested(found: FilePredictions, names: Sequence[str], level: float) -> None:
    """Say how predictions compare with what files measured that the map did not learn from."""
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters

    tested = [t for t in found.tested() if t.n > 1 and t.metric in names]
    if tested:
        texts = formatters(names, [{t.metric: t.error for t in tested}])
        lines = [[t.metric, str(t.n), texts[t.metric](t.error), f"{t.inside} of {t.n}"] for t in tested]
        print_wrapped("Predicted beside measured, of files that the map did not learn from:")
        heads = [Head("metric", "left"), Head("files"), Head("mean error"), Head(f"inside {level:.0%}")]
        print_table(heads, [Rows([line]) for line in lines])
        print_wrapped()


def _doubt_ranges(read: Sequence[CheckpointContents], surrogate: Surrogate) -> None:
    """Say once a metric that files measured what it cannot be."""
    from epsopt.cli.output import print_wrapped
    from epsopt.surrogate.ranges import n_outside, range_text

    for name, transform in zip(surrogate.metric_names, surrogate.transforms, strict=True):
        values = [v for r in read if (v := r.metrics.get(name)) is not None]
        if transform.bounds is not None and (outside := n_outside(transform.bounds, values)):
            print_wrapped(
                f"Careful: {count(outside, 'file says', 'files say')} a {name} outside of what the map takes it to be, "
                f"{range_text(transform.bounds)}; what is predicted stays inside. [metrics] bounds in epsopt.toml and "
                "'epsopt fit' change that."
            )


def _doubt_embeddings(read: Sequence[CheckpointContents], surrogate: Surrogate) -> None:
    """Say of how many files the embed hook gave what the map cannot use."""
    from epsopt.cli.output import print_wrapped
    from epsopt.cli.render import short_path
    from epsopt.optimize.latent.predict_checkpoint import usable

    odd = [r for r in read if r.embedding is not None and not usable(r.embedding, surrogate)]
    if surrogate.probes and surrogate.embedding_scale is not None and odd:
        shape = tuple(surrogate.embedding_scale[0].shape)
        print_wrapped(
            f"Careful: the embedding of {count(len(odd), 'file')} ({short_path(odd[0].path)} first) is not finite or "
            f"not of the shape {shape} that the map knows, and counts as none; 'epsopt predict --weights-only' asks "
            "the map that reads no embeddings."
        )


def _nothing_predicted(found: FilePredictions) -> str:
    """Say in one sentence why not one file was predicted."""
    from epsopt.cli.render import short_path

    read = found.read
    reasons = list(dict.fromkeys(str(a.refused) for a in found.predicted))
    if len(read) == 1:
        lead = f"no metrics of {short_path(read[0].path)} are predicted: {reasons[0]}"
    elif len(reasons) == 1:
        lead = f"no metrics of any of the {len(read)} files are predicted, each for the same reason: {reasons[0]}"
    else:
        lead = f"no metrics of any of the {len(read)} files are predicted, each for the reason that stands with it"
    if all(r.fingerprint.nan_weights for r in read):
        return lead
    return f"{lead}; ingest runs like these and run 'epsopt fit' again"


def _show(
    read: Sequence[CheckpointContents],
    found: Sequence[Assessment],
    names: tuple[str, ...],
    level: float,
    labels: RunLabels,
) -> bool:
    """Print what is predicted, and of every other file why it is not; return whether anything is predicted."""
    from epsopt.cli.output import print_line, print_wrapped
    from epsopt.cli.render import short_path

    pairs = list(enumerate(zip(read, found, strict=True), 1))
    predicted = [(i, r, a) for i, (r, a) in pairs if a.refused is None]
    refused = [(i, r, a) for i, (r, a) in pairs if a.refused is not None]
    if predicted:
        _table(predicted, names, level, labels)
    elif len({a.refused for _, _, a in refused}) == 1:
        return False  # the error says it
    for i, r, _ in predicted:
        print_line(f"{i}  {short_path(r.path)}")
    _doubts(predicted)
    for i, r, a in refused:
        print_line(f"{i}  {short_path(r.path)}")
        print_wrapped(f"Not predicted: {a.refused}.")
    return bool(predicted)


def _doubts(rows: list[tuple[int, CheckpointContents, Assessment]]) -> None:
    """Say of which files the predictions mean less than their intervals say, once a kind."""
    from epsopt.cli.output import print_wrapped

    kinds = {
        "architecture is none of the map's; intervals are as wide as other architectures that the map had not seen "
        "asked for": [i for i, _, a in rows if not a.known_architecture],
        "weights are far from all known checkpoints, further than the map is trusted; the intervals mean little "
        "there": [i for i, _, a in rows if a.known_architecture and not a.trusted],
        "lineage is not known: a distance from a base is one of the things that the map goes by, and theirs is taken "
        "as zero": [i for i, r, a in rows if a.known_architecture and a.trusted and r.lineage is None],
        "hyperparameters are not known: the map goes by the weights alone, and the intervals are as wide as that asks "
        "for": [i for i, _, a in rows if a.known_architecture and a.weights_alone],
    }
    for why, numbers in kinds.items():
        if numbers:
            listed = ", ".join(map(str, numbers[:_LISTED])) + (" and others" if len(numbers) > _LISTED else "")
            which = "all of them" if len(numbers) == len(rows) > 1 else listed
            print_wrapped(f"Careful with {which} ({len(numbers)} of {len(rows)}): the {why}.")


def _table(
    rows: list[tuple[int, CheckpointContents, Assessment]], names: tuple[str, ...], level: float, labels: RunLabels
) -> None:
    """Print predicted metrics beside what the file says and what the nearest known checkpoint measured."""
    from epsopt.cli.output import DISTANCE, Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads, near_label, predicted_rows

    values = [m for _, r, a in rows for m in (r.metrics, a.point, a.low, a.high, a.nearest.metrics)]
    texts = formatters(names, values)
    groups = []
    for i, r, a in rows:
        (point, interval), dim = predicted_rows(a, names, texts, "predicted", level)
        lines = [[str(i), *point], ["", *interval]]
        if any(r.metrics.get(n) is not None for n in names):
            lines.append(["", *measured_row("measured in the file", r.metrics, names, texts)])
        lines.append(["", *measured_row(near_label(a.nearest, labels), a.nearest.metrics, names, texts)])
        groups.append(Rows(lines, dim))
    print_table([Head("#"), Head("", "left"), *metric_heads(names, ())], groups, keep=2)
    print_wrapped()
    print_wrapped(
        "The last row of each is the nearest checkpoint that the map knows (its latent distance) as it was measured."
        + DISTANCE
    )
    print_wrapped("Predicted values are predicted, not evaluated.")
    print_wrapped()
