"""Figures in the plane of a map: all of it, a run's path, groups of runs. The same coordinates in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from epsopt.figures.protocols import Measured
from epsopt.figures.style import (
    FRONT,
    GROUPS,
    HOLLOW,
    LIGHT,
    MEASURED,
    PREDICTED,
    QUIET,
    RINGS,
    SCALE,
    SYMBOLS,
    Floats,
    dressed,
    note,
    place,
    short,
)
from epsopt.optimize.latent.search import Answer, known_latents
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.optimize.forecast.run_trajectory import RunTrajectory
    from epsopt.optimize.forecast.temporal_model import PredictedPath
    from epsopt.optimize.latent.clusters import Clustering
    from epsopt.surrogate.surrogate import Surrogate

_MANY = 20_000  # points that SVG draws in seconds; a page that forbids code from texts draws no WebGL
_PATHS = 60  # runs whose paths can be distinguished at all


def map(  # noqa: A001 - epsopt.figures.map
    surrogate: Surrogate,
    checkpoints: Sequence[Checkpoint],
    *,
    colour: str | None = None,
    answers: Sequence[Answer] = (),
    ringed: Sequence[tuple[str, Floats]] = (),
    most: int = _MANY,
    title: str = "The checkpoint map",
) -> go.Figure:
    """Draw the checkpoints of a map in its plane, with the paths of up to sixty runs.

    Args:
        surrogate: the map; checkpoints that it does not know are left out, and counted in the figure.
        checkpoints: of all runs.
        colour: metric or hyperparameter that colours the points, or ``"epoch"``; a checkpoint without it is grey.
        answers: predicted points, drawn hollow.
        ringed: places that a ring marks: what they are called, and ``(k, latent)`` points.
        most: of more checkpoints than that, every n-th one is drawn, and the figure says how many.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        UsageError: no checkpoint has what should colour it, or the map knows none of them.
    """
    import plotly.graph_objects as go

    latents, known = known_latents(surrogate, checkpoints, of_runs=True)
    at = surrogate.plane_coordinates(latents)
    figure = go.Figure()
    runs: dict[int, list[int]] = {}
    for i, c in enumerate(known):
        runs.setdefault(c.run_id, []).append(i)
    if len(runs) <= _PATHS:
        steps = [(*at[rows], (np.nan, np.nan)) for rows in runs.values() if len(rows) > 1]
        line = np.array([p for run in steps for p in run]).reshape(-1, 2)
        figure.add_trace(
            go.Scatter(x=_gaps(line[:, 0]), y=_gaps(line[:, 1]), mode="lines", name=f"paths of {len(steps)} runs",
                       line={"color": QUIET, "width": 1}, hoverinfo="skip")
        )  # fmt: skip
    values = None if colour is None else [_value(c, colour) for c in known]
    if values is not None and all(v is None for v in values):
        raise UsageError(f"no checkpoint of the map has {colour}, neither as a metric nor as a hyperparameter")
    drawn = range(0, len(known), -(-len(known) // max(most, 1)))
    coloured = [i for i in drawn if values is None or values[i] is not None]
    without = sorted(set(drawn) - set(coloured))
    marker: dict[str, Any] = {"color": MEASURED, "size": 6}
    if values is not None:
        marker = {
            "color": short([float(values[i] or 0.0) for i in coloured]), "colorscale": list(SCALE), "size": 6,
            "colorbar": {"title": {"text": escaped(str(colour)), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        }  # fmt: skip
    for rows, name, style in ((without, f"without {colour}", {"color": QUIET, "size": 5}), (coloured, "", marker)):
        if not rows:
            continue
        figure.add_trace(
            go.Scatter(
                x=short(at[rows, 0]), y=short(at[rows, 1]), mode="markers", marker=style,
                name=f"{escaped(name) or 'measured'} ({len(rows)})", hoverinfo="text",
                hovertext=[_hover(known[i]) for i in rows],
            )
        )  # fmt: skip
    shown = at
    if answers:
        z = np.stack([a.z.detach().double().cpu().numpy() for a in answers])
        found = surrogate.plane.coordinates(z)
        figure.add_trace(
            go.Scatter(x=short(found[:, 0]), y=short(found[:, 1]), mode="markers", marker=HOLLOW,
                       name=f"predicted, not evaluated ({len(answers)})", hoverinfo="text",
                       hovertext=[f"<b>answer {i}</b>, predicted" for i in range(1, len(answers) + 1)])
        )  # fmt: skip
        shown = np.concatenate([at, found])
    for (name, points), hue in zip(ringed, RINGS, strict=False):
        spots = surrogate.plane.coordinates(points)
        figure.add_trace(
            go.Scatter(x=short(spots[:, 0]), y=short(spots[:, 1]), mode="markers", hoverinfo="skip",
                       name=escaped(name),
                       marker={"symbol": "circle-open", "size": 15, "color": hue, "line": {"width": 2.5}})
        )  # fmt: skip
        shown = np.concatenate([shown, spots])
    dressed(figure, 560, escaped(title))
    unknown = len(checkpoints) - len(known)
    more = [f"{unknown} not on the map"] if unknown else []
    more += [f"{len(drawn)} of {len(known)} are drawn"] if len(drawn) < len(known) else []
    _framed(figure, surrogate, shown, shown[len(at) :], "; ".join(more))
    return figure


def trajectory(
    surrogate: Surrogate, background: Floats, found: RunTrajectory, *, title: str | None = None
) -> go.Figure:
    """Draw a run's path over the map, and its metrics with where they are forecast to end.

    Args:
        surrogate: the map.
        background: ``(n, latent)`` all checkpoints, as the map encodes them.
        found: of :func:`epsopt.optimize.forecast.run_trajectory.run_trajectory`.
        title: of the figure; by default the run's name.

    Returns:
        The figure.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    path, names, forecast = found.path, found.metric_names, found.forecast
    walked = path if len(path) else found.whole.first(1)
    epochs = walked.epochs.tolist()
    at, others = surrogate.plane_coordinates(walked.z), surrogate.plane.coordinates(background)
    rows = max(len(names), 1)
    specs: list[list[Any]] = [[{"rowspan": rows}, {}], *([None, {}] for _ in range(rows - 1))]
    figure = make_subplots(
        rows, 2, specs=specs, column_widths=[0.56, 0.44], vertical_spacing=0.12 / rows, horizontal_spacing=0.11,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=short(others[:, 0]), y=short(others[:, 1]), mode="markers", name="other checkpoints",
                   marker={"color": QUIET, "size": 4}, hoverinfo="skip"), 1, 1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=short(at[:, 0]), y=short(at[:, 1]), mode="markers+lines", name="the run", hoverinfo="text",
            marker={"color": FRONT, "size": [8] * (len(at) - 1) + [10],
                    "symbol": ["circle"] * (len(at) - 1) + ["arrow"], "angleref": "previous"},
            line={"color": FRONT, "width": 1.6}, text=[f"epoch {e:g}" for e in epochs],
        ), 1, 1,
    )  # fmt: skip
    needed, drawn = at, others
    if found.ahead is not None:
        way, spots = _ahead(figure, surrogate, found.ahead, at[-1])
        needed, drawn = np.concatenate([at, way]), np.concatenate([others, spots])
    for where, epoch, shift in ((at[0], epochs[0], -16), (at[-1], epochs[-1], 16))[: min(len(at), 2)]:
        figure.add_annotation(
            x=where[0], y=where[1], text=f"epoch {epoch:g}", showarrow=False, yshift=shift, row=1, col=1,
            bgcolor=LIGHT["paper"], opacity=0.85,
        )  # fmt: skip
    for j in range(len(names)):
        figure.add_trace(
            go.Scatter(x=short(path.epochs), y=_gaps(path.metrics[:, j]),
                       mode="markers+lines", line={"color": FRONT, "width": 1.5}, marker={"size": 6},
                       name="measured", showlegend=j == 0), j + 1, 2,
        )  # fmt: skip
        if found.ahead is not None:
            _ahead_metric(figure, found.ahead, j)
        if forecast is not None:
            low, middle, high = (float(v[j]) for v in (forecast.low, forecast.point, forecast.high))
            figure.add_trace(
                go.Scatter(
                    x=[forecast.total], y=[middle], mode="markers", name="forecast, not measured", marker=HOLLOW,
                    showlegend=j == 0, error_y={"type": "data", "symmetric": False, "array": [high - middle],
                                                "arrayminus": [middle - low], "color": PREDICTED},
                ), j + 1, 2,
            )  # fmt: skip
    for j, name in enumerate(names):
        figure.update_xaxes(matches="x2" if j else None, showticklabels=j == rows - 1, row=j + 1, col=2)
        figure.update_yaxes(title_text=escaped(name), row=j + 1, col=2)
    figure.update_xaxes(title_text="epoch", row=rows, col=2)
    dressed(figure, max(480, 40 + 150 * rows), escaped(title or f"{path.name} on the map"))
    _framed(figure, surrogate, drawn, needed, "", row=1, col=1)
    return figure


def _ahead(figure: go.Figure, surrogate: Surrogate, ahead: PredictedPath, last: Floats) -> tuple[Floats, Floats]:
    """Draw where the next checkpoints are predicted to lie, with samples of the last of them; return both."""
    import plotly.graph_objects as go

    spots = surrogate.plane_coordinates(ahead.z_samples[:, -1])
    figure.add_trace(
        go.Scatter(x=short(spots[:, 0]), y=short(spots[:, 1]), mode="markers", hoverinfo="skip",
                   name=f"where epoch {ahead.epochs[-1]:g} could lie",
                   marker={"color": PREDICTED, "size": 4, "opacity": 0.35}), 1, 1,
    )  # fmt: skip
    way = np.concatenate([last[None], surrogate.plane_coordinates(ahead.z)])
    figure.add_trace(
        go.Scatter(
            x=short(way[:, 0]), y=short(way[:, 1]), mode="markers+lines", name="predicted path",
            line={"color": PREDICTED, "width": 1.6, "dash": "dot"}, marker=HOLLOW, hoverinfo="text",
            text=["", *(f"epoch {e:g}, predicted" for e in ahead.epochs.tolist())],
        ), 1, 1,
    )  # fmt: skip
    return way, spots


def _ahead_metric(figure: go.Figure, ahead: PredictedPath, metric: int) -> None:
    """Draw the predicted course of one metric with its intervals."""
    import plotly.graph_objects as go

    low, middle, high = (v[:, metric] for v in (ahead.low, ahead.point, ahead.high))
    figure.add_trace(
        go.Scatter(
            x=short(ahead.epochs), y=short(middle), mode="markers+lines", name="predicted", showlegend=metric == 0,
            line={"color": PREDICTED, "width": 1.2, "dash": "dot"}, marker=HOLLOW,
            error_y={"type": "data", "symmetric": False, "array": short(high - middle),
                     "arrayminus": short(middle - low), "color": PREDICTED},
        ), metric + 1, 2,
    )  # fmt: skip


def groups(
    surrogate: Surrogate,
    found: Clustering,
    runs: Sequence[Checkpoint],
    points: Floats,
    *,
    title: str = "Where runs end on the map; the large point of a group is its medoid",
) -> go.Figure:
    """Draw groups of runs where their last checkpoints lie on the map.

    Args:
        surrogate: the map.
        found: the groups, of :func:`epsopt.optimize.latent.clusters.cluster_runs`, as the next two.
        runs: last checkpoint of each run.
        points: ``(n, latent)`` their places.
        title: of the figure.

    Returns:
        The figure.
    """
    import plotly.graph_objects as go

    at = surrogate.plane.coordinates(points)
    figure = go.Figure()
    sets: list[tuple[str, Sequence[int], str, str]] = []
    if found.unclustered:
        sets.append(("in no group", found.unclustered, QUIET, "x"))
    for k, g in enumerate(found.groups):
        label = f"group {k + 1}: {len(g.members)} runs, stability {g.stability:.2f}"
        sets.append((label, g.members, GROUPS[k % len(GROUPS)], SYMBOLS[k % len(SYMBOLS)]))
    medoids = {g.medoid for g in found.groups}
    for label, rows, hue, symbol in sets:
        mine = list(rows)
        figure.add_trace(
            go.Scatter(
                x=short(at[mine, 0]), y=short(at[mine, 1]), mode="markers", name=label, hoverinfo="text",
                marker={"color": hue, "symbol": symbol, "size": [17 if i in medoids else 9 for i in mine],
                        "line": {"color": LIGHT["paper"], "width": 1}},
                text=[_hover(runs[i]) for i in mine],
            )
        )  # fmt: skip
    dressed(figure, 500, escaped(title), legend_below=18.0 * ((len(sets) - 1) // 3))
    grouped = at[[i for g in found.groups for i in g.members]]
    _framed(figure, surrogate, at, grouped, "")
    return figure


def _framed(figure: go.Figure, surrogate: Surrogate, drawn: Floats, needed: Floats, more: str, **where: int) -> None:
    """Give axes the map's frame, widened to what must be shown, their titles, and the number of points beyond it."""
    plane = surrogate.plane
    low, high = np.array(plane.low), np.array(plane.high)
    if len(needed):
        least, most = needed.min(axis=0), needed.max(axis=0)
        margin = 0.04 * (np.maximum(high, most) - np.minimum(low, least))
        low, high = np.where(least < low, least - margin, low), np.where(most > high, most + margin, high)
    beyond = int((~((drawn >= low) & (drawn <= high)).all(axis=1)).sum())
    first, second = plane.titles
    figure.update_xaxes(title_text=first, range=short(np.array([low[0], high[0]])), **where)
    figure.update_yaxes(title_text=second, range=short(np.array([low[1], high[1]])), **where)
    notes = [f"{beyond} of {len(drawn)} lie outside the frame"] if beyond else []
    if text := "; ".join([*notes, *([more] if more else [])]):
        note(figure, text)


def _hover(c: Measured) -> str:
    lines = [f"<b>{place(c.run, c.epoch)}</b>"]
    lines += [f"{escaped(n)}: {v:.4g}" for n, v in list(c.metrics.items())[:8] if v is not None]
    return "<br>".join(lines)


def _value(c: Checkpoint, name: str) -> float | None:
    value: Any = c.epoch if name == "epoch" else c.metrics.get(name, c.hyperparameters.get(name))
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if usable else None


def _gaps(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(f"{v:.6g}") for v in values]
