"""One picture of a front: what was measured, what is predicted with its intervals, the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from epsopt.optimize.objectives import Objective, Objectives, Target, within_limits
from epsopt.studies.pages import escaped
from epsopt.studies.protocols import Answer, Measured

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS = 1500  # besides the front: more makes the dashboard slow and the picture no clearer
MEASURED, FRONT, PREDICTED, TARGET = "#9fb3c8", "#1f4e79", "#e4572e", "#2e8b57"
FONT = "Inter, Roboto, Helvetica, Arial, sans-serif"


def measured_front(
    objectives: Sequence[Objective], checkpoints: Sequence[Measured]
) -> tuple[list[Measured], list[Measured]]:
    """Split checkpoints that have all objectives into those on the measured front and the others."""
    complete = [c for c in checkpoints if complete_values(objectives, c.metrics) is not None]
    import numpy as np

    values = [complete_values(objectives, c.metrics) or [] for c in complete]
    table = np.array(values, dtype=np.float64).reshape(len(complete), len(objectives))
    best = set(Objectives(objectives).front(within_limits(table, objectives)).tolist())
    return (
        [c for i, c in enumerate(complete) if i in best],
        [c for i, c in enumerate(complete) if i not in best],
    )


def complete_values(objectives: Sequence[Objective], metrics: Mapping[str, float | None]) -> list[float] | None:
    """Return the objectives' values in order, or None when one is missing or no finite number."""
    values = [metrics.get(o.name) for o in objectives]
    found = [float(v) for v in values if v is not None and math.isfinite(v)]
    return found if len(found) == len(objectives) else None


def pareto_figure(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Answer],
    targets: Sequence[Target] = (),
) -> go.Figure | None:
    """Draw measured checkpoints, their front and predicted points: a plane, or a matrix for more objectives.

    Args:
        objectives: two or more; with one there is nothing to draw and None comes back.
        checkpoints: measured ones; those that lack an objective are not drawn.
        answers: predicted points, with intervals.
        targets: drawn as dashed lines.

    Returns:
        A Plotly figure; None with fewer than two objectives.
    """
    if len(objectives) < 2:
        return None
    front, others = measured_front(objectives, checkpoints)
    others = others[:: max(1, math.ceil(len(others) / MOST_POINTS))]
    # The order of drawing: what matters most is drawn last.
    groups = [
        ("measured", _measured(objectives, others), {"color": MEASURED, "size": 5, "opacity": 0.55}),
        ("measured front", _measured(objectives, front), {"color": FRONT, "size": 8}),
        (
            "predicted, not evaluated",
            _predicted(objectives, answers),
            {"color": PREDICTED, "size": 10, "symbol": "diamond", "line": {"color": "white", "width": 1}},
        ),
    ]
    groups = [(name, group, style) for name, group, style in groups if group["text"]]
    figure = _plane(objectives, groups, answers) if len(objectives) == 2 else _matrix(objectives, groups)
    if len(objectives) == 2:
        _draw_targets(figure, objectives, targets)
    figure.update_layout(
        template="plotly_white",
        title={"text": "Measured and predicted front", "x": 0.02, "xanchor": "left"},
        font={"family": FONT, "size": 12, "color": "#24313f"},
        hoverlabel={"align": "left", "font": {"size": 12}},
        height=450,  # of the dashboard's frame, which cuts off what is higher
    )
    if len(objectives) == 2:
        legend = {"orientation": "h", "x": 0, "y": -0.2, "xanchor": "left", "yanchor": "top"}
        figure.update_layout(legend=legend, margin={"l": 65, "r": 25, "t": 60, "b": 95})
    else:  # the upper right half of the matrix is free
        legend = {"x": 1, "y": 1, "xanchor": "right", "yanchor": "top"}
        figure.update_layout(legend=legend, margin={"l": 65, "r": 25, "t": 50, "b": 55})
    return figure


def _measured(objectives: Sequence[Objective], checkpoints: Sequence[Measured]) -> dict[str, Any]:
    rows = [[float(c.metrics[o.name] or 0.0) for o in objectives] for c in checkpoints]
    text = [
        "<br>".join([f"<b>{_place(c.run, c.epoch)}</b>", *_lines(objectives, c.metrics), "measured"])
        for c in checkpoints
    ]
    return {"columns": _columns(objectives, rows), "text": text}


def _predicted(objectives: Sequence[Objective], answers: Sequence[Answer]) -> dict[str, Any]:
    rows = [[float(a.point[o.name]) for o in objectives] for a in answers]
    text = []
    for number, answer in enumerate(answers, 1):
        lines = [f"<b>answer {number}</b>, predicted"]
        for o in objectives:
            span = f"{answer.low[o.name]:.4g} to {answer.high[o.name]:.4g}"
            lines.append(f"{escaped(o.name)}: {answer.point[o.name]:.4g} ({span})")
        if answer.probability is not None:
            lines.append(f"meets the targets with probability {answer.probability:.2f}")
        if answer.nearest:
            near = answer.nearest[0]
            lines.append(f"nearest: {_place(near.run, near.epoch)}, latent distance {near.distance:.3g}")
        text.append("<br>".join(lines))
    return {"columns": _columns(objectives, rows), "text": text}


def _columns(objectives: Sequence[Objective], rows: Sequence[Sequence[float]]) -> list[list[float]]:
    # Plain lists of short numbers: plotly writes arrays as binary, and the dashboard keeps figures as
    # attributes.
    return [[float(f"{row[i]:.6g}") for row in rows] for i in range(len(objectives))]


def _lines(objectives: Sequence[Objective], metrics: Mapping[str, float | None]) -> list[str]:
    return [f"{escaped(o.name)}: {metrics[o.name]:.4g}" for o in objectives]


def _place(run: str, epoch: int | None) -> str:
    return escaped(run) + (f", epoch {epoch}" if epoch is not None else "")


def _axis(objective: Objective) -> str:
    return f"{escaped(objective.name)} ({'higher' if objective.maximize else 'lower'} is better)"


def _plane(
    objectives: Sequence[Objective], groups: Sequence[tuple[str, Any, Any]], answers: Sequence[Answer]
) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, group, style in groups:
        x, y = group["columns"]
        text, extra = group["text"], {}
        if name == "measured front":
            order = sorted(range(len(x)), key=x.__getitem__)
            x, y, text = ([column[i] for i in order] for column in (x, y, text))
            # The border of what the front dominates is a staircase.
            shape = "vh" if objectives[0].maximize else "hv"
            extra = {"line": {"color": FRONT, "width": 1.5, "shape": shape}}
        elif name.startswith("predicted"):
            extra = {
                f"error_{axis}": _whiskers(objective, answers) for axis, objective in zip("xy", objectives, strict=True)
            }
        mode = "markers+lines" if name == "measured front" else "markers"
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode=mode, name=f"{name} ({len(x)})", marker=style,
                hovertext=text, hoverinfo="text", **extra,
            )
        )  # fmt: skip
    figure.update_xaxes(title_text=_axis(objectives[0]), zeroline=False)
    figure.update_yaxes(title_text=_axis(objectives[1]), zeroline=False)
    return figure


def _whiskers(objective: Objective, answers: Sequence[Answer]) -> dict[str, Any]:
    name = objective.name
    return {
        "type": "data",
        "symmetric": False,
        "array": [float(f"{max(a.high[name] - a.point[name], 0.0):.6g}") for a in answers],
        "arrayminus": [float(f"{max(a.point[name] - a.low[name], 0.0):.6g}") for a in answers],
        "color": "rgba(228, 87, 46, 0.45)",
        "thickness": 1.2,
        "width": 3,
    }


def _matrix(objectives: Sequence[Objective], groups: Sequence[tuple[str, Any, Any]]) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    labels = [f"{escaped(o.name)} {'↑' if o.maximize else '↓'}" for o in objectives]  # where better is
    for name, group, style in groups:
        smaller = {**style, "size": max(4, style["size"] - 3)}
        figure.add_trace(
            go.Splom(
                dimensions=[
                    {"label": label, "values": column}
                    for label, column in zip(labels, group["columns"], strict=True)
                ],
                name=f"{name} ({len(group['text'])})", marker=smaller, text=group["text"], hoverinfo="text",
                diagonal={"visible": False}, showupperhalf=False,
            )
        )  # fmt: skip
    return figure


def _draw_targets(figure: go.Figure, objectives: Sequence[Objective], targets: Sequence[Target]) -> None:
    names = [o.name for o in objectives]
    for target in targets:
        if target.name not in names:
            continue
        axis = names.index(target.name)
        sign = "≥" if objectives[axis].maximize else "≤"
        draw = figure.add_vline if axis == 0 else figure.add_hline
        draw(
            target.value,
            line={"color": TARGET, "dash": "dash", "width": 1.5},
            annotation={
                "text": f"{escaped(target.name)} {sign} {target.value:g}",
                "font": {"color": TARGET, "size": 12},
                "bgcolor": "rgba(255, 255, 255, 0.8)",
            },
            annotation_position="top" if axis == 0 else "right",
        )
