"""Hyperparameters of runs beside what the runs reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from epsopt.figures.style import LIGHT, SCALE, Floats, dressed, place, short
from epsopt.optimize.measured_front import measured_front
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space
from epsopt.optimize.space_inference import infer_space
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped
from epsopt.zoo.layouts.parsed import RECOMBINED

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST = 9  # axes that stay legible next to each other
_LABEL = 18  # characters of an axis' name
_LINES = 400  # runs beside the front: more are a blot
_LISTED = 12  # hyperparameters that hovering over a run shows


@dataclass(frozen=True)
class _Axis:
    """One axis: each run's place on it, 0 to 1, and its ticks."""

    name: str
    places: Floats
    ticks: list[tuple[float, str]]


def parallel(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Checkpoint],
    *,
    space: Space | None = None,
    title: str = "Hyperparameters of runs, and what they reached",
) -> go.Figure:
    """Draw parallel coordinates: a line is a run, from its hyperparameters to the metrics of its last checkpoint.

    Args:
        objectives: at least one; the first one colours the lines. Runs on the front of all of them are drawn strong.
        checkpoints: of all runs. Runs whose last measured checkpoint lacks an objective are left out, and merges, which
            nobody trained.
        space: hyperparameters that are drawn; by default those that vary among the runs, nine at most.
        title: of the figure.

    Returns:
        The figure. It is drawn as SVG, because pages whose policy forbids code from texts draw no WebGL lines. Of more
        than 400 runs beside the front, every n-th one is drawn.

    Raises:
        UsageError: no objective, or fewer than two runs have all of them.
    """
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    last: dict[int, Checkpoint] = {}
    for c in checkpoints:
        trained = RECOMBINED not in c.hyperparameters
        if objectives and trained and all(c.metrics.get(o.name) is not None for o in objectives):
            last[c.run_id] = c
    if len(last) < 2:
        raise UsageError("parallel coordinates need an objective, and two runs that measured all of them")
    best, others = measured_front(objectives, list(last.values()))
    others = others[:: -(-len(others) // _LINES) or 1]
    runs = [*others, *best]  # what matters most is drawn last
    configs = [c.hyperparameters for c in runs]
    known = infer_space(configs) if space is None else space
    axes = [axis for p in known.parameters if (axis := _axis(p, configs)) is not None][:_MOST]
    reached = [[float(c.metrics[o.name] or 0.0) for c in runs] for o in objectives]
    axes += [
        _numbers(f"{o.name} {'↑' if o.maximize else '↓'}", np.array(values), log=False)
        for o, values in zip(objectives, reached, strict=True)
    ]
    low, high = min(reached[0]), max(reached[0])
    figure = go.Figure()
    hues = sample_colorscale(list(SCALE), [(v - low) / max(high - low, 1e-12) for v in reached[0]])
    for i, c in enumerate(runs):
        strong = i >= len(others)
        figure.add_trace(
            go.Scatter(
                x=list(range(len(axes))), y=short([a.places[i] for a in axes]), mode="lines+markers",
                line={"color": hues[i], "width": 2.6 if strong else 1.1}, opacity=1.0 if strong else 0.55,
                marker={"size": 5 if strong else 3, "color": hues[i]}, showlegend=False, hoverinfo="text",
                hovertext=_hover_text(c, objectives),
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[None], y=[None], mode="markers", showlegend=False,
            marker={"color": [low], "cmin": low, "cmax": high if high > low else low + 1.0, "colorscale": list(SCALE),
                    "showscale": True,
                    "colorbar": {"title": {"text": escaped(objectives[0].name), "side": "right"}, "thickness": 12,
                                 "outlinewidth": 0}},
        )
    )  # fmt: skip
    for k, axis in enumerate(axes):
        figure.add_shape(type="line", x0=k, x1=k, y0=0, y1=1, line={"color": LIGHT["line"], "width": 1}, layer="below")
        for at, text in axis.ticks:
            figure.add_annotation(x=k, y=at, text=text, xanchor="right", xshift=-5, showarrow=False,
                                  font={"size": 11}, bgcolor=LIGHT["paper"], opacity=0.85)  # fmt: skip
    dressed(figure, 460, escaped(title))
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=[a.name for a in axes], side="top", showgrid=False, showline=False,
        range=[-0.45, len(axes) - 0.9], tickangle=-15 if len(axes) > 6 else 0,
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    figure.update_layout(margin={"t": 112, "b": 30, "l": 30, "r": 60}, hovermode="closest")
    return figure


def _hover_text(c: Checkpoint, objectives: Sequence[Objective]) -> str:
    lines = [f"<b>{place(c.run, c.epoch)}</b>"]
    lines += [f"{escaped(o.name)}: {c.metrics[o.name]:.4g}" for o in objectives]
    lines += [f"{escaped(n)} {escaped(str(v))[:40]}" for n, v in list(c.hyperparameters.items())[:_LISTED]]
    return "<br>".join(lines)


def _axis(parameter: Parameter, configs: Sequence[Mapping[str, Any]]) -> _Axis | None:
    values = [c.get(parameter.name) for c in configs]
    if parameter.kind == "categorical":
        given = sorted({_hashable(v) for v in values if v is not None}, key=_order)
        names = [*(["none"] if None in values else []), *dict.fromkeys(map(str, given))]
        if len(names) < 2:
            return None
        at = {name: i / (len(names) - 1) for i, name in enumerate(names)}
        ticks = [(place_, escaped(name[:_LABEL])) for name, place_ in at.items()]
        return _Axis(_label(parameter.name), np.array([at["none" if v is None else str(v)] for v in values]), ticks)
    numbers = np.array([_number(v) for v in values])
    finite = numbers[np.isfinite(numbers)]
    if not len(finite) or finite.min() == finite.max():
        return None
    return _numbers(parameter.name, numbers, log=parameter.log and finite.min() > 0.0)


def _numbers(name: str, values: Floats, *, log: bool) -> _Axis:
    """Numbers on an axis; a run without one lies below all others."""
    shown = np.log10(values) if log else values
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    span = max(high - low, 1e-12)
    missing = bool(np.isnan(shown).any())
    floor = 0.15 if missing else 0.0
    places = np.where(np.isnan(shown), 0.0, floor + (1.0 - floor) * (shown - low) / span)
    marks = np.linspace(low, high, 5) if high > low else np.array([low])
    ticks = [(floor + (1.0 - floor) * float((t - low) / span), f"{10**t if log else t:.3g}") for t in marks]
    return _Axis(_label(name), places, [*([(0.0, "none")] if missing else []), *ticks])


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return not _is_number(value), float(value) if _is_number(value) else 0.0, str(value)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else float("nan")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _label(name: str) -> str:
    return escaped(name if len(name) <= _LABEL else "…" + name[-_LABEL:])
