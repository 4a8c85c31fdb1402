"""Samples of the region that meets the targets, and what their weights measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from epsopt.figures.fronts import axis_scales, axis_title, draw_targets, scaled_axis, whiskers
from epsopt.figures.protocols import Measured, Predicted
from epsopt.figures.style import FRONT, HOLLOW, MEASURED, QUIET, dressed, note, short
from epsopt.optimize.measured_front import measured_front
from epsopt.optimize.objectives import Objective, Target
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go


def sampling(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    samples: Sequence[Predicted],
    targets: Sequence[Target],
    measured: Sequence[Mapping[str, float | None] | None] = (),
    *,
    title: str = "Hypothetical checkpoints that meet the targets",
) -> go.Figure:
    """Draw samples as predicted, and joined to them what their decoded weights measured.

    Args:
        objectives: at least two; the first two are the axes.
        checkpoints: measured ones, whose front is drawn.
        samples: predicted points with intervals.
        targets: drawn as dashed lines.
        measured: for each sample what its decoded weights measured, ``None`` where they were not; empty: none were.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        UsageError: fewer than two objectives.
    """
    import plotly.graph_objects as go

    if len(objectives) < 2:
        raise UsageError("samples are drawn over two objectives, and there is one")
    axes = objectives[:2]
    best, _ = measured_front(axes, checkpoints)
    names = [o.name for o in axes]
    scales = axis_scales(axes, checkpoints, best, samples)
    made = [
        (s, [m.get(n) for n in names])
        for s, m in zip(samples, measured, strict=False)
        if m is not None and all(m.get(n) is not None for n in names)
    ]
    figure = go.Figure()
    lines: list[list[float | None]] = [[], []]
    for s, values in made:
        for axis, (name, scale) in enumerate(zip(names, scales, strict=True)):
            lines[axis] += [*short(scale([s.point[name], values[axis]])), None]
    if made:
        figure.add_trace(go.Scatter(x=lines[0], y=lines[1], mode="lines", showlegend=False, hoverinfo="skip",
                                    line={"color": QUIET, "width": 1, "dash": "dot"}))  # fmt: skip
    sets = (
        ("front of trained checkpoints", [[c.metrics[n] for n in names] for c in best], {"color": MEASURED, "size": 7}),
        ("sampled, predicted", [[s.point[n] for n in names] for s in samples], HOLLOW),
        ("decoded into weights, measured", [v for _, v in made], {"color": FRONT, "size": 9}),
    )
    drawn: list[list[float]] = [[], []]
    for name, rows, marker in sets:
        if not rows:
            continue
        x, y = (short(scale([row[axis] for row in rows])) for axis, scale in enumerate(scales))
        bars = {
            f"error_{a}": whiskers(n, samples, s) for a, n, s in zip("xy", names, scales, strict=True)
        } if marker is HOLLOW else {}  # fmt: skip
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=f"{name} ({len(rows)})", marker=marker, **bars))
        drawn[0] += x
        drawn[1] += y
    for update, o, scale, ends in zip((figure.update_xaxes, figure.update_yaxes), axes, scales, drawn, strict=True):
        update(title_text=axis_title(o, scale), **scaled_axis(scale, ends))
    draw_targets(figure, axes, targets, scales)
    dressed(figure, 520, escaped(title))
    if len(objectives) > 2:
        note(figure, f"{len(objectives) - 2} more objectives are not drawn")
    return figure
