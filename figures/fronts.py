"""The front: what was measured, what is predicted with its intervals, the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epsopt.figures.axis_scale import AxisScale, choose_scale
from epsopt.figures.protocols import Interval, Measured, Predicted
from epsopt.figures.style import FRONT, HOLLOW, LIGHT, MEASURED, MERGED, TARGET, WHISKER, dressed, place, short
from epsopt.optimize.measured_front import measured_front
from epsopt.optimize.objectives import Objective, Target
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FRONT, _BEFORE = "measured front", "front without merges"
_UPRIGHT = 34  # characters of a title that all planes of a column have room for
MOST_POINTS = 1500  # besides the front: more makes the dashboard slow and the picture no clearer


@dataclass(frozen=True)
class _Group:
    """Points that are drawn alike."""

    name: str
    columns: list[list[float]]
    text: list[str]
    style: dict[str, Any]


def front(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Predicted] = (),
    targets: Sequence[Target] = (),
    *,
    merged: Sequence[Measured] = (),
    title: str = "Measured and predicted front",
) -> go.Figure:
    """Draw measured checkpoints, their front and predicted points.

    Two objectives are a plane, more of them a matrix of planes; one is its value over training. A metric whose front
    crowds at a bound is drawn by its distance from that bound, where that tells points apart.

    Args:
        objectives: at least one.
        checkpoints: measured ones; those that lack an objective are not drawn.
        answers: predicted points with intervals, drawn hollow with whiskers.
        targets: drawn as dashed lines.
        merged: merges of checkpoints that were measured, too; they are squares beside the others, and all are drawn,
            with the front as it is without them.
        title: of the figure.

    Returns:
        The figure. Of more than 1,500 points beside the front, over all planes, every n-th one is drawn.

    Raises:
        UsageError: no objective.
    """
    if not objectives:
        raise UsageError("there is no objective to draw a front of: name one in epsopt.toml, as [objectives.NAME]")
    before = measured_front(objectives, checkpoints)[0] if merged else []
    checkpoints = [*checkpoints, *merged]
    best, others = measured_front(objectives, checkpoints)
    mixed = [c for c in merged if any(c is one for one in (*best, *others))]
    others = [c for c in others if not any(c is one for one in mixed)]
    panels = len(objectives) * (len(objectives) - 1) // 2
    others = others[:: max(1, math.ceil(len(others) * max(panels, 1) / MOST_POINTS))]
    if len(objectives) == 1:
        return _over_training(objectives[0], best, [*others, *mixed], targets, title)
    # The order of drawing: what matters most is drawn last.
    groups = [
        _measured("measured", objectives, others, {"color": MEASURED, "size": 5, "opacity": 0.6}),
        _measured(_BEFORE, objectives, before, {"color": FRONT, "size": 6, "opacity": 0.5}),
        _measured(_FRONT, objectives, best, {"color": FRONT, "size": 8}),
        _measured(
            "merges, measured",
            objectives,
            mixed,
            {"color": MERGED, "size": 8, "symbol": "square", "line": {"color": LIGHT["paper"], "width": 1}},
        ),
        _predicted(objectives, answers),
    ]
    groups = [g for g in groups if g.text]
    scales = axis_scales(objectives, checkpoints, best, answers)
    if len(objectives) > 2:
        return _matrix(objectives, groups, answers, targets, scales, title)
    figure = _plane(objectives, groups, answers, scales)
    draw_targets(figure, objectives, targets, scales)
    return dressed(figure, 450, escaped(title))  # the dashboard's frame cuts off what is higher


def axis_scales(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    best: Sequence[Measured],
    answers: Sequence[Interval] = (),
) -> list[AxisScale]:
    """Choose a scale for each objective from what is drawn.

    Args:
        objectives: what is drawn.
        checkpoints: measured ones.
        best: those of them that must be distinguishable.
        answers: predicted points.
    """
    out = []
    for o in objectives:
        drawn = [*(c.metrics.get(o.name) for c in checkpoints), *(a.point.get(o.name) for a in answers)]
        important = [v for c in best if (v := c.metrics.get(o.name)) is not None]
        out.append(choose_scale(o.name, o.maximize, drawn, important))
    return out


def axis_title(objective: Objective, scale: AxisScale | None = None) -> str:
    """Return an axis' title with the direction and the scale, as HTML."""
    words = "" if scale is None or not scale.words else f"<br>scale {scale.words}"
    return f"{escaped(objective.name)} ({'higher' if objective.maximize else 'lower'} is better){words}"


def whiskers(name: str, predicted: Sequence[Interval], scale: AxisScale, colour: str = WHISKER) -> dict[str, Any]:
    """Return Plotly's error bars from intervals, on an axis' scale."""
    low, point, high = (scale([getattr(a, end)[name] for a in predicted]) for end in ("low", "point", "high"))
    return {
        "type": "data",
        "symmetric": False,
        "array": short([max(h - p, 0.0) for h, p in zip(high, point, strict=True)]),
        "arrayminus": short([max(p - w, 0.0) for w, p in zip(low, point, strict=True)]),
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _measured(
    name: str, objectives: Sequence[Objective], checkpoints: Sequence[Measured], style: dict[str, Any]
) -> _Group:
    rows = [[float(c.metrics[o.name] or 0.0) for o in objectives] for c in checkpoints]
    text = [
        "<br>".join([f"<b>{place(c.run, c.epoch)}</b>", *_lines(objectives, c.metrics), "measured"])
        for c in checkpoints
    ]
    return _Group(name, _columns(objectives, rows), text, style)


def _predicted(objectives: Sequence[Objective], answers: Sequence[Predicted]) -> _Group:
    rows = [[float(a.point[o.name]) for o in objectives] for a in answers]
    text = []
    for number, answer in enumerate(answers, 1):
        lines = [f"<b>{escaped(getattr(answer, 'label', f'answer {number}'))}</b>, predicted"]
        for o in objectives:
            span = f"{answer.low[o.name]:.4g} to {answer.high[o.name]:.4g}"
            lines.append(f"{escaped(o.name)}: {answer.point[o.name]:.4g} ({span})")
        if answer.probability is not None:
            lines.append(f"meets the targets with probability {answer.probability:.2f}")
        if nearest := getattr(answer, "nearest", ()):  # a proposal has none
            near = nearest[0]
            lines.append(f"nearest: {place(near.run, near.epoch)}, latent distance {near.distance:.3g}")
        text.append("<br>".join(lines))
    return _Group("predicted, not evaluated", _columns(objectives, rows), text, HOLLOW)


def _columns(objectives: Sequence[Objective], rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[row[i] for row in rows] for i in range(len(objectives))]


def _lines(objectives: Sequence[Objective], metrics: Mapping[str, float | None]) -> list[str]:
    return [f"{escaped(o.name)}: {metrics[o.name]:.4g}" for o in objectives]


def _plane(
    objectives: Sequence[Objective],
    groups: Sequence[_Group],
    answers: Sequence[Predicted],
    scales: Sequence[AxisScale],
) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    ends: list[list[float]] = [[], []]
    for group in groups:
        x, y = (short(scale(column)) for scale, column in zip(scales, group.columns, strict=True))
        text, extra = group.text, {}
        if group.name in {_FRONT, _BEFORE}:
            order = sorted(range(len(x)), key=x.__getitem__)
            x, y, text = [x[i] for i in order], [y[i] for i in order], [text[i] for i in order]
            # The border of what the front dominates is a staircase.
            shape = "vh" if objectives[0].maximize else "hv"
            dash = "solid" if group.name == _FRONT else "dot"
            extra = {"line": {"color": FRONT, "width": 1.5, "shape": shape, "dash": dash}}
        elif group.style is HOLLOW:
            extra = {
                f"error_{axis}": whiskers(o.name, answers, scale)
                for axis, o, scale in zip("xy", objectives, scales, strict=True)
            }
        ends[0] += x
        ends[1] += y
        mode = "markers+lines" if group.name in {_FRONT, _BEFORE} else "markers"
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode=mode, name=f"{group.name} ({len(x)})", marker=group.style,
                hovertext=text, hoverinfo="text", **extra,
            )
        )  # fmt: skip
    for update, o, scale, drawn in zip(
        (figure.update_xaxes, figure.update_yaxes), objectives, scales, ends, strict=True
    ):
        update(title_text=axis_title(o, scale), **scaled_axis(scale, drawn))
    return figure


def scaled_axis(scale: AxisScale, drawn: Sequence[float]) -> dict[str, Any]:
    """Return ticks and range of an axis whose scale is not plain; empty for a plain one."""
    if not scale.words or not drawn:
        return {}
    low, high = min(drawn), max(drawn)
    margin = 0.04 * (high - low) + 1e-9
    return {**scale.ticks(low - margin, high + margin), "range": [low - margin, high + margin]}


def _ending(name: str, room: int) -> str:
    """Keep the end of a name that is too long: metrics differ there."""
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _matrix(
    objectives: Sequence[Objective],
    groups: Sequence[_Group],
    answers: Sequence[Predicted],
    targets: Sequence[Target],
    scales: Sequence[AxisScale],
    title: str,
) -> go.Figure:
    """The lower left half of a matrix of planes; drawn as SVG, which every browser and printer can."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    size = len(objectives) - 1
    # Where better is; there is no room for more. Upright titles have the height of a plane and a line for the scale.
    arrows = ["↑" if o.maximize else "↓" for o in objectives]
    across_titles = [
        f"{escaped(o.name)} {arrow}{', ' + at.words if at.words else ''}"
        for o, arrow, at in zip(objectives, arrows, scales, strict=True)
    ]
    room = _UPRIGHT // size
    upright_titles = [
        f"{escaped(_ending(o.name, room))} {arrow}{'<br>' + at.words if at.words else ''}"
        for o, arrow, at in zip(objectives, arrows, scales, strict=True)
    ]
    specs: list[list[dict[str, Any] | None]] = [
        [{} if column <= row else None for column in range(size)] for row in range(size)
    ]
    figure = make_subplots(
        size, size, specs=specs, horizontal_spacing=0.12 / size, vertical_spacing=0.12 / size,
        shared_xaxes=True, shared_yaxes=True,
    )  # fmt: skip
    for row in range(size):
        for column in range(row + 1):
            down, across = row + 1, column  # the objectives of the two axes
            for group in groups:
                x, y = (short(scales[k](group.columns[k])) for k in (across, down))
                bars = {
                    f"error_{a}": {**whiskers(objectives[k].name, answers, scales[k]), "width": 0}
                    for a, k in (("x", across), ("y", down))
                } if group.style is HOLLOW else {}  # fmt: skip
                figure.add_trace(
                    go.Scatter(
                        x=x, y=y, mode="markers", name=f"{group.name} ({len(x)})", legendgroup=group.name,
                        showlegend=row == column == 0, marker={**group.style, "size": max(4, group.style["size"] - 2)},
                        hovertext=group.text, hoverinfo="text", **bars,
                    ), row + 1, column + 1,
                )  # fmt: skip
            for target in targets:
                for k, draw in ((across, figure.add_vline), (down, figure.add_hline)):
                    if objectives[k].name == target.name:
                        draw(float(scales[k]([target.value])[0]), row=row + 1, col=column + 1,
                             line={"color": TARGET, "dash": "dash", "width": 1.2})  # fmt: skip
            if row == size - 1:
                figure.update_xaxes(title_text=across_titles[across], row=size, col=column + 1)
            if column == 0:
                figure.update_yaxes(title_text=upright_titles[down], row=row + 1, col=1)
    for k, o in enumerate(objectives):
        drawn = [v for g in groups for v in short(scales[k](g.columns[k]))]
        drawn += [v for end in ("low", "high") for v in short(scales[k]([getattr(a, end)[o.name] for a in answers]))]
        # Said, not left to Plotly, which forgets the points of matched axes where another axis has a range.
        margin = 0.04 * (max(drawn) - min(drawn)) + 1e-9
        ends = {"range": [min(drawn) - margin, max(drawn) + margin], **scaled_axis(scales[k], drawn)}
        if k < size:
            figure.update_xaxes(col=k + 1, **ends)
        if k > 0:
            figure.update_yaxes(row=k, **ends)
    dressed(figure, 450 if size == 2 else 180 * size + 60, escaped(title))
    # The upper right half of the matrix is free.
    figure.update_layout(
        legend={"orientation": "v", "x": 1, "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top"},
        margin={"b": 60},
    )
    return figure


def _over_training(
    objective: Objective, best: Sequence[Measured], others: Sequence[Measured], targets: Sequence[Target], title: str
) -> go.Figure:
    """One objective has no trade-off: its value over training, the best one marked."""
    import plotly.graph_objects as go

    figure = go.Figure()
    scale = axis_scales([objective], [*others, *best], best)[0]
    drawn: list[float] = []
    for name, group, style in (
        ("measured", others, {"color": MEASURED, "size": 5, "opacity": 0.6}),
        ("best", best, {"color": FRONT, "size": 9}),
    ):
        known = [c for c in group if c.epoch is not None]
        y = short(scale([c.metrics[objective.name] for c in known]))
        drawn += y
        if known:
            figure.add_trace(
                go.Scatter(
                    x=[c.epoch for c in known], y=y, mode="markers", name=f"{name} ({len(known)})", marker=style,
                    hovertext=["<br>".join([f"<b>{place(c.run, c.epoch)}</b>", *_lines([objective], c.metrics)])
                               for c in known],
                    hoverinfo="text",
                )
            )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text=axis_title(objective, scale), **scaled_axis(scale, drawn))
    for target in targets:
        if target.name == objective.name:
            figure.add_hline(float(scale([target.value])[0]), line={"color": TARGET, "dash": "dash", "width": 1.5})
    return dressed(figure, 450, escaped(title))


def draw_targets(
    figure: go.Figure, objectives: Sequence[Objective], targets: Sequence[Target], scales: Sequence[AxisScale]
) -> None:
    """Draw targets of a plane's two objectives as dashed lines with their values."""
    names = [o.name for o in objectives]
    for target in targets:
        if target.name not in names:
            continue
        axis = names.index(target.name)
        sign = "≥" if objectives[axis].maximize else "≤"
        draw = figure.add_vline if axis == 0 else figure.add_hline
        draw(
            float(scales[axis]([target.value])[0]),
            line={"color": TARGET, "dash": "dash", "width": 1.5},
            annotation={
                "text": f"{escaped(target.name)} {sign} {target.value:g}",
                "font": {"color": TARGET, "size": 12},
                "bgcolor": LIGHT["paper"],
                "opacity": 0.9,
            },
            annotation_position="top left" if axis == 0 else "bottom right",
        )
