"""What `epsopt trajectory --ahead N` prints of the next checkpoints of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.optimize.forecast.run_trajectory import RunTrajectory
    from epsopt.optimize.forecast.temporal_model import PredictedPath

_ROWS = 12  # epochs that a table shows at most; --json has all


def _called(forecast: str) -> str:
    """How output calls a forecast."""
    return "weighted mean" if forecast == "stack" else forecast


def ahead_document(ahead: PredictedPath, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the predicted checkpoints as JSON values."""
    return {
        "epochs": ahead.epochs.tolist(),
        "z": ahead.z.tolist(),
        "longest": ahead.longest,
        "z_errors": dict(ahead.z_errors),
        "metrics": [
            {
                "name": name,
                "value": ahead.point[:, j].tolist(),
                "low": ahead.low[:, j].tolist(),
                "high": ahead.high[:, j].tolist(),
                "forecaster": ahead.answered_by[name],
                "errors": dict(ahead.errors[name]),
            }
            for j, name in enumerate(names)
        ],
    }


def show_ahead(found: RunTrajectory, level: float, wanted: tuple[str, ...]) -> None:
    """Print the predicted checkpoints, and how far off such predictions were."""
    from epsopt.cli.output import note, print_wrapped

    if found.ahead is None:
        note(f"the next checkpoints are not predicted: {found.no_ahead}")
        return
    print_wrapped()
    print_wrapped(f"The next checkpoints (predicted, {f'{level:.0%}'.replace('%', ' %')} intervals):")
    print_wrapped()
    _show_epochs(found, found.ahead, wanted)
    print_wrapped()
    _show_errors(found, found.ahead, wanted)


def _show_epochs(found: RunTrajectory, ahead: PredictedPath, wanted: tuple[str, ...]) -> None:
    import numpy as np

    from epsopt.cli.output import Head, Rows, print_table
    from epsopt.cli.render import formatters
    from epsopt.surrogate.thinning import evenly_spaced

    names, whole = found.metric_names, found.whole
    ends = [
        dict(zip(names, values, strict=True))
        for part in (ahead.low, ahead.point, ahead.high)
        for values in part.tolist()
    ]
    texts = formatters(names, ends)
    later = {float(e): whole.metrics[i] for i, e in enumerate(whole.epochs.tolist())}
    shown = [j for j, name in enumerate(names) if name in wanted]
    measured = any(float(e) in later for e in ahead.epochs)
    heads = [Head("epoch")]
    for j in shown:
        heads += [Head(names[j]), Head("interval", "left")]
        if measured:
            heads.append(Head("measured\nlater"))
    rows = []
    for h in evenly_spaced(len(ahead.epochs), _ROWS, np.rint).tolist():
        row = [f"{ahead.epochs[h]:g}"]
        for j in shown:
            text = texts[names[j]]
            row += [text(ahead.point[h, j]), f"[{text(ahead.low[h, j])}, {text(ahead.high[h, j])}]"]
            if measured:
                truth = later.get(float(ahead.epochs[h]))
                row.append("-" if truth is None or not np.isfinite(truth[j]) else text(float(truth[j])))
        rows.append(Rows([row]))
    print_table(heads, rows)


def _show_errors(found: RunTrajectory, ahead: PredictedPath, wanted: tuple[str, ...]) -> None:
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters

    names = [n for n in found.metric_names if n in wanted]
    options = list(next(iter(ahead.errors.values())))
    texts = formatters(names, [{n: ahead.errors[n][o] for n in names} for o in options])
    heads = [Head("forecast", "left"), *(Head(n) for n in names), Head("distance\non the map")]
    rows = [
        Rows([[_called(o), *(texts[n](ahead.errors[n][o]) for n in names),
               f"{ahead.z_errors[o]:.2f}" if o in ahead.z_errors else "-"]])
        for o in options
    ]  # fmt: skip
    print_wrapped("Mean errors of such forecasts, about as far ahead as the last row, on past runs left out:")
    print_wrapped()
    print_table(heads, rows)
    print_wrapped()
    answered = {_called(ahead.answered_by[n]) for n in names}
    by_metric = ", ".join(f"{n} by {_called(ahead.answered_by[n])}" for n in names)
    print_wrapped(f"Answered by {answered.pop()}." if len(answered) == 1 else f"Answered: {by_metric}.")
    print_wrapped(
        "Weighted mean: of those above it, by their errors. Curves: trees on the metrics so far and hyperparameters; "
        "curves and path: on the path over the map too; map: what the map says of where the run is predicted to be."
    )
    warn_beyond(ahead.longest)


def warn_beyond(longest: float | None) -> None:
    """Say that what is predicted lies beyond every past run, whose longest had so many epochs; None: it does not."""
    from epsopt.cli.output import print_wrapped

    if longest is not None:
        print_wrapped(
            f"Careful: no past run went beyond epoch {longest:g}. From there on this is extrapolated, and the "
            "intervals know nothing of it."
        )
