"""`epsopt trajectory`: the path of a run over the map, and where it will end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, level_option, overwrite_option, seed_option
from epsopt.cli.pictures import former_picture_option
from epsopt.cli.trajectory_ahead import ahead_document, show_ahead, warn_beyond

if TYPE_CHECKING:
    from epsopt.optimize.forecast.run_forecaster import RunForecast
    from epsopt.optimize.forecast.run_trajectory import RunTrajectory
    from epsopt.optimize.latent.trajectory import MeasuredEnd
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.fingerprints.fingerprint import Fingerprint


FORECASTS = {
    "stack": ("weighted mean", "the mean of several forecasts"),
    "hyperparameters": ("hyperparameters", "what they predict for the end"),
    "late average": ("late average", "what hyperparameters predict for the last quarter"),
    "h, then g": (
        "place on the map",
        "the end on the map that hyperparameters predict, and what the map predicts there",
    ),
    "carry-forward": ("carry-forward", "metrics stay as they are"),
    "linear extrapolation": ("linear extrapolation", "metrics go on in a line"),
    "curve": ("curve", "trees on the metrics so far"),
    "map": ("curve and path", "trees on the metrics so far and on the path over the map"),
}
"""How output calls each forecast, and what it is."""


@click.command("trajectory")
@click.argument("run", metavar="RUN")
@click.option("--first", "-n", type=click.IntRange(min=0), help="Only its first N checkpoints, 0: none of them.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Epochs that it will have.")
@click.option(
    "--ahead",
    type=click.IntRange(min=1),
    metavar="N",
    help="Predict N epochs after its last checkpoint, one by one.",
)
@former_picture_option
@overwrite_option
@level_option
@seed_option
@common
def command(
    options: Options,
    run: str,
    first: int | None,
    epochs: float | None,
    ahead: int | None,
    picture: Path | None,
    overwrite: bool,
    level: float,
    seed: int,
) -> None:
    """Show a run's path over the map, and forecast its final metrics from its checkpoints so far.

    Of a run that is over, what it measured is shown instead.

    With --first 0 its hyperparameters alone are asked. The forecast learns from the other finished runs; where a plain
    baseline was clearly better on runs left out, that one answers, and the output says which.

    With --ahead N the next N epochs are predicted one by one instead: metrics with intervals, and the path on the map.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.resolve_checkpoint import require_run
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            from epsopt.optimize.forecast.run_trajectory import run_trajectory
            from epsopt.studies.surrogate_store import load_map
            from epsopt.surrogate.hyperparameter_table import hyperparameters_of

            surrogate, _ = load_map(catalogue)
            name = require_run(run, checkpoints)
            checkpoints, prints = _placed(name, checkpoints, catalogue.fingerprints([c.id for c in checkpoints]))
            known = hyperparameters_of(checkpoints)
            latents = surrogate.encode(prints, hyperparameters=known)
        found = run_trajectory(
            surrogate, checkpoints, latents, name, fingerprints=prints, first=first, total=epochs, ahead=ahead or 0,
            space=workspace.project.space if workspace.project else None, level=level, seed=seed,
            progress=lambda what: progress(what, None),
        )  # fmt: skip
        if file is not None:
            from epsopt.figures import trajectory

            save_picture(trajectory(surrogate, latents.double().numpy(), found), file)
    if options.json:
        print_json(_document(found, level))
        return
    _show(found, RunLabels.of(checkpoints)(found.whole.name))
    _show_future(found, level, workspace.shown_metrics(found.metric_names), ahead=bool(ahead))
    tell_picture(picture)


def _show_future(found: RunTrajectory, level: float, wanted: tuple[str, ...], *, ahead: bool) -> None:
    from epsopt.cli.output import note

    if found.end is not None:
        _show_end(found.end, found.metric_names, wanted)
    elif found.forecast is not None:
        _show_forecast(found, found.forecast, level, wanted)
    elif not ahead:
        note(f"there is no forecast: {found.reason}")
    if ahead:
        show_ahead(found, level, wanted)


def _placed(
    name: str, checkpoints: list[Checkpoint], prints: list[Fingerprint]
) -> tuple[list[Checkpoint], list[Fingerprint]]:
    """Leave out checkpoints with NaN weights, which have no place on the map, and say how many the run has of them.

    Raises:
        EpsoptError: the run has no others.
    """
    from epsopt.cli.output import note
    from epsopt.cli.run_labels import RunLabels
    from epsopt.zoo.errors import EpsoptError
    from epsopt.zoo.formatting import count

    whole = [found for c, found in zip(checkpoints, prints, strict=True) if c.run == name]
    broken = [found for found in whole if found.nan_weights]
    if broken:
        called = RunLabels.of(checkpoints)(name)
        if len(broken) == len(whole):
            where = "its only checkpoint" if len(broken) == 1 else f"each of its {len(broken)} checkpoints"
            raise EpsoptError(f"no path of {called} is shown: in {where} weights are NaN")
        note(f"{count(len(broken), 'checkpoint')} of {called} left out of its path: weights are NaN")
    kept = [(c, found) for c, found in zip(checkpoints, prints, strict=True) if not found.nan_weights]
    return [c for c, _ in kept], [found for _, found in kept]


def _document(found: RunTrajectory, level: float) -> dict[str, Any]:
    path, whole, moved, end, forecast = found.path, found.whole, found.moved, found.end, found.forecast
    names = found.metric_names
    out: dict[str, Any] = {
        "run": path.name,
        "epochs": path.epochs.tolist(),
        "n_left_out": len(whole) - len(path),
        "level": level,
        "motion": None,
        "measured": None,
        "forecast": None,
        "no_forecast_reason": found.reason,
        "ahead": None if found.ahead is None else ahead_document(found.ahead, names),
        "no_ahead_reason": found.no_ahead,
    }
    if moved is not None:
        out["motion"] = {
            "length": moved.length,
            "displacement": moved.displacement,
            "straightness": moved.straightness,
            "direction": moved.direction.tolist(),
            "speed": moved.speed.tolist(),
            "turning": moved.turning.tolist(),
            "curvature": moved.curvature.tolist(),
            "relative_speed": moved.relative_speed,
            "stagnant_since": moved.stagnant_since,
        }
    if end is not None:
        out["measured"] = [
            {"name": n, "value": float(end.values[j]), "epoch": float(end.epochs[j])} for j, n in enumerate(names)
        ]
    if forecast is not None:
        out["forecast"] = {
            "epochs": forecast.total,
            "progress": forecast.progress,
            "longest": forecast.longest,
            "metrics": [
                {
                    "name": name,
                    "value": forecast.point[j],
                    "low": forecast.low[j],
                    "high": forecast.high[j],
                    "forecaster": forecast.answered_by[name],
                    "weights": forecast.weights[name],
                    "errors": forecast.stage.errors[name],
                    "measured": whole.metrics[-1, j] if len(whole) > len(path) else None,
                }
                for j, name in enumerate(names)
            ],
        }
    return out


def _show(found: RunTrajectory, called: str) -> None:
    from math import isnan

    from epsopt.cli.output import print_wrapped
    from epsopt.zoo.formatting import count

    path, moved = found.path, found.moved
    if moved is None:
        print_wrapped(f"{called}, not begun: its hyperparameters alone.")
        return
    after = f"epoch {path.epochs[0]:g}" if len(path) == 1 else f"epochs {path.epochs[0]:g} to {path.epochs[-1]:g}"
    print_wrapped(
        f"{called}: {count(len(path), 'checkpoint')}, {after}"
        + (" (here epochs count from 1; its files count from 0)" if found.counted_from_0 else "")
    )
    if len(path) < 2:
        return
    print_wrapped()
    straight = "" if isnan(moved.straightness) else f" (straightness {moved.straightness:.2f}, 1 is a straight line)"
    relative = "" if isnan(moved.relative_speed) else f", {moved.relative_speed:.2g} times the other runs' median speed"
    print_wrapped(
        f"Path on the map: length {moved.length:.2f}, from end to end {moved.displacement:.2f}{straight}; latest speed "
        f"{moved.speed[-1]:.3f} an epoch{relative}."
    )
    if len(moved.turning) and moved.turning[-1] == moved.turning[-1]:
        print_wrapped(
            f"It last turned by {moved.turning[-1] * 57.2958:.0f} degrees (curvature {moved.curvature[-1]:.2g})."
        )
    if moved.stagnant_since is not None:
        print_wrapped(f"It stands still: since epoch {moved.stagnant_since:g} it has hardly moved.")


def _show_end(end: MeasuredEnd, names: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    from math import isnan

    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters

    texts = formatters(names, [dict(zip(names, end.values.tolist(), strict=True))])
    rows = [
        Rows([[n, texts[n](v), "-" if isnan(e) else f"{e:g}"]])
        for n, v, e in zip(names, end.values.tolist(), end.epochs.tolist(), strict=True)
        if n in wanted
    ]
    print_wrapped()
    print_wrapped(f"At epoch {end.total:g}, all of which are done (measured, not forecast):")
    print_wrapped()
    print_table([Head("metric", "left"), Head("measured"), Head("at epoch")], rows)


def _show_forecast(found: RunTrajectory, forecast: RunForecast, level: float, wanted: tuple[str, ...]) -> None:
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters

    names, path, whole = found.metric_names, found.path, found.whole
    now = path.metrics[-1].tolist() if len(path) else [float("nan")] * len(names)
    truth = whole.metrics[-1] if len(whole) > len(path) else None
    shown = [
        dict(zip(names, map(float, v), strict=True))
        for v in (forecast.low.tolist(), forecast.point.tolist(), forecast.high.tolist(), now)
    ]
    texts = formatters(names, shown)
    heads = [Head("metric", "left"), Head("now"), Head("forecast"), Head(f"{level:.0%} interval".replace("%", " %"))]
    if truth is not None:
        heads.append(Head("measured\nlater"))
    heads += [Head("error on\nruns left out"), Head("answered by", "left")]
    rows = []
    for j, name in enumerate(names):
        if name not in wanted:
            continue
        text = texts[name]
        row = [
            name,
            text(float(now[j])),
            text(forecast.point[j]),
            f"[{text(forecast.low[j])}, {text(forecast.high[j])}]",
        ]
        if truth is not None:
            row.append(text(float(truth[j])))
        by = forecast.answered_by[name]
        row += [text(forecast.stage.errors[name][by]), FORECASTS.get(by, (by,))[0]]
        rows.append(Rows([row]))
    print_wrapped()
    print_wrapped(f"At epoch {forecast.total:g}, {forecast.progress:.0%} of which are done (forecast, not measured):")
    print_wrapped()
    print_table(heads, rows)
    print_wrapped()
    warn_beyond(forecast.longest)
    used = []
    for name in wanted:
        parts = [(forecast.answered_by[name], 1.0)]
        if parts[0][0] == "stack":
            parts = sorted(forecast.weights[name].items(), key=lambda w: -w[1])
            shares = (f"{FORECASTS.get(part, (part,))[0]} {weight:.0%}".replace("%", " %") for part, weight in parts)
            print_wrapped(f"{name}, weighted mean: " + ", ".join(shares))
        used += [part for part, _ in parts if part in FORECASTS]
    print_wrapped(
        "Forecasts are weighted by their errors on runs left out. "
        + " ".join(f"{FORECASTS[part][0].capitalize()}: {FORECASTS[part][1]}." for part in dict.fromkeys(used))
    )
