"""`epsopt trajectory`: the path of a run over the map, and where it will end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, level_option, overwrite_option, seed_option
from epsopt.zoo.errors import EmptyCatalogue, UsageError

if TYPE_CHECKING:
    from epsopt.optimize.forecast.run_forecaster import RunForecast, RunForecaster
    from epsopt.optimize.latent.trajectory import MeasuredEnd, PathStatistics, RunPath
    from epsopt.studies.output_files import OutputFile


FORECASTS = {
    "stack": ("weighted mean", "the mean of several forecasts"),
    "hyperparameters": ("hyperparameters", "what they promise for the end"),
    "late average": ("late average", "what hyperparameters promise for the last quarter"),
    "h, then g": (
        "place on the map",
        "the end on the map that hyperparameters promise, and what the map predicts there",
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
@click.option("--save", type=click.Path(path_type=Path), help="Picture to write: .html, .png or .svg.")
@overwrite_option
@level_option
@seed_option
@common
def command(
    options: Options,
    run: str,
    first: int | None,
    epochs: float | None,
    save: Path | None,
    overwrite: bool,
    level: float,
    seed: int,
) -> None:
    """Show a run's path over the map, and forecast its final metrics from its checkpoints so far.

    Of a run that is over, what it measured is shown instead.

    With --first 0 its hyperparameters alone are asked. The forecast learns from the other finished runs; where a plain
    baseline was clearly better on runs left out, that one answers, and the output says which.
    """
    from epsopt.cli.output import note, print_json, print_wrapped
    from epsopt.cli.pictures import picture_file
    from epsopt.cli.progress import working
    from epsopt.cli.resolve_checkpoint import require_run
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            picture = picture_file(save, catalogue, overwrite=overwrite)
            from epsopt.optimize.forecast.run_forecaster import fit_run_forecaster
            from epsopt.optimize.latent.trajectory import (
                measured_end,
                median_speed,
                path_statistics,
                planned_total,
                run_paths,
            )
            from epsopt.optimize.space_inference import infer_space
            from epsopt.studies.surrogate_store import load_map

            surrogate, _ = load_map(catalogue)
            latents = surrogate.encode(catalogue.fingerprints([c.id for c in checkpoints]))
        paths = run_paths(surrogate, checkpoints, latents)
        name = require_run(run, checkpoints)
        whole = next((path for path in paths if path.name == name), None)
        if whole is None:
            raise UsageError(f"the run {name} has no checkpoint with a known epoch, so it has no path")
        so_far = whole if first is None else whole.first(first)
        others = [p for p in paths if p is not whole]
        moved = path_statistics(so_far, median_speed(others)) if len(so_far) else None
        outlook = forecast = None
        members = [c for c in checkpoints if c.run_id == whole.run_id]
        signatures = {c.signature for c in members}
        reason = next((text for s in sorted(signatures) if (text := surrogate.refusal(s, level)) is not None), None)
        end = measured_end(so_far, planned_total(so_far, others) if epochs is None else epochs)
        if end is not None:
            reason = f"the run is over: what it measured up to epoch {end.total:g} is known"
        elif reason is None:
            progress("learning from the other runs", None)
            try:
                space = workspace.project.space if workspace.project and workspace.project.space else None
                space = space or infer_space([p.config for p in others if len(p) > 1])
                outlook = fit_run_forecaster(surrogate, space, others, seed)
            except (EmptyCatalogue, UsageError) as error:
                reason = str(error)
        if outlook is not None:
            forecast = outlook.forecast(so_far, total=epochs, level=level, seed=seed)
        if picture is not None:
            _draw(picture, so_far, whole, latents, surrogate.metric_names, forecast)
    if options.json:
        print_json(_document(so_far, whole, moved, end, forecast, outlook, surrogate.metric_names, level, reason))
        return
    wanted = workspace.shown_metrics(surrogate.metric_names)
    _show(so_far, moved, RunLabels.of(checkpoints)(whole.name), any(c.trained != c.epoch for c in members))
    if end is not None:
        _show_end(end, surrogate.metric_names, wanted)
    elif forecast is None or outlook is None:
        note(f"there is no forecast: {reason}")
    else:
        _show_forecast(forecast, outlook, so_far, whole, level, wanted)
    if save is not None:
        print_wrapped()
        print_wrapped(f"The picture is in {save}.")


def _document(
    path: RunPath,
    whole: RunPath,
    moved: PathStatistics | None,
    end: MeasuredEnd | None,
    forecast: RunForecast | None,
    outlook: RunForecaster | None,
    names: tuple[str, ...],
    level: float,
    reason: str | None,
) -> dict[str, Any]:
    out: dict[str, Any] = {
        "run": path.name,
        "epochs": path.epochs.tolist(),
        "n_left_out": len(whole) - len(path),
        "level": level,
        "motion": None,
        "measured": None,
        "forecast": None,
        "no_forecast_reason": reason,
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
    if forecast is not None and outlook is not None:
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


def _show(path: RunPath, moved: PathStatistics | None, called: str, counted_from_0: bool) -> None:
    from math import isnan

    from epsopt.cli.output import print_wrapped
    from epsopt.zoo.formatting import count

    if moved is None:
        print_wrapped(f"{called}, not begun: its hyperparameters alone.")
        return
    after = f"epoch {path.epochs[0]:g}" if len(path) == 1 else f"epochs {path.epochs[0]:g} to {path.epochs[-1]:g}"
    print_wrapped(
        f"{called}: {count(len(path), 'checkpoint')}, {after}"
        + (" (here epochs count from 1; its files count from 0)" if counted_from_0 else "")
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


def _show_forecast(
    forecast: RunForecast, outlook: RunForecaster, path: RunPath, whole: RunPath, level: float, wanted: tuple[str, ...]
) -> None:
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters

    names = outlook.metric_names
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
    if forecast.longest is not None:
        print_wrapped(
            f"Careful: no past run went beyond epoch {forecast.longest:g}. From there on this is extrapolated, and the "
            "intervals know nothing of it."
        )
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


def _draw(
    file: OutputFile,
    path: RunPath,
    whole: RunPath,
    latents: Any,
    names: tuple[str, ...],
    forecast: RunForecast | None,
) -> None:
    from sklearn.decomposition import PCA

    from epsopt.studies.report.plots import path_figure, save_picture

    plane = PCA(2).fit(latents.numpy())
    places = plane.transform((path if len(path) else whole.first(1)).z.numpy())
    curves = {n: (path.epochs.tolist(), path.metrics[:, j].tolist()) for j, n in enumerate(names)}
    ends = {} if forecast is None else {
        n: (forecast.total, float(forecast.low[j]), float(forecast.point[j]), float(forecast.high[j]))
        for j, n in enumerate(names)
    }  # fmt: skip
    figure = path_figure(
        path.name, plane.transform(latents.numpy()), places, path.epochs.tolist() or [0.0], curves, ends
    )
    save_picture(figure, file)
