"""Predicted against measured: whether intervals hold what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from epsopt.figures.style import FRONT, PREDICTED, QUIET, dressed, short
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.surrogate.validation import Validation

_MOST = 400  # points a panel, drawn evenly: whiskers of more are a blot
_COLUMNS = 3
_FEW = 60  # points a panel that are drawn large


@dataclass(frozen=True)
class Comparison:
    """What was predicted of a metric, and what was measured afterwards.

    Attributes:
        metric: its name.
        label: what was measured, such as ``"proposal 3"``.
        point: predicted median.
        low: lower end of the interval.
        high: upper end.
        measured: the measurement.
    """

    metric: str
    label: str
    point: float
    low: float
    high: float
    measured: float

    @property
    def inside(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.low <= self.measured <= self.high


def held_out(surrogate: Surrogate, validation: Validation) -> list[Comparison]:
    """Return every checkpoint as a fit predicted it while its run was held out.

    Args:
        surrogate: the map of the fit.
        validation: of the same fit; one that was kept and read again no longer has these predictions.

    Returns:
        One comparison per checkpoint that the map was learned from, and metric; what is far out or not measured is left
        out.

    Raises:
        UsageError: the validation has no predictions, or those of another map.
    """
    found, memory = validation.held_out, surrogate.memory.learned_only
    if found is None or len(found.point) != len(memory.keys):
        raise UsageError(
            "predictions of held-out runs are known right after a fit from scratch: run 'epsopt fit --from-scratch'"
        )
    values = surrogate.to_metrics(memory.metrics.double()).numpy()
    far = memory.far_out.numpy()
    out = []
    for j, name in enumerate(surrogate.metric_names):
        for i, key in enumerate(memory.keys):
            row = found.point[i, j], found.low[i, j], found.high[i, j], values[i, j]
            if not far[i, j] and np.isfinite(row).all():
                out.append(Comparison(name, f"checkpoint {key[:12]}", *map(float, row)))
    return out


def calibration(
    comparisons: Sequence[Comparison], level: float, *, title: str = "Predicted before, and measured"
) -> go.Figure:
    """Draw predictions against measurements, one panel a metric, with the share of them inside their intervals.

    Args:
        comparisons: predictions and measurements; of more than 400 a metric, evenly chosen ones are drawn, and all
            count.
        level: coverage that the intervals are meant to have.
        title: of the figure.

    Returns:
        The figure: a point on the diagonal was predicted exactly, a whisker that reaches it held.

    Raises:
        UsageError: nothing to compare.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(c.metric for c in comparisons))
    if not names:
        raise UsageError("no prediction has been measured yet, so there is nothing to compare")
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    titles = []
    for name in names:
        mine = [c for c in comparisons if c.metric == name]
        inside = sum(c.inside for c in mine)
        titles.append(f"{escaped(name)}: {inside} of {len(mine)} inside ({inside / len(mine):.0%})")
    figure = make_subplots(
        rows, columns, subplot_titles=titles, vertical_spacing=0.3 / rows, horizontal_spacing=0.2 / columns
    )
    labelled: set[str] = set()
    for k, name in enumerate(names):
        row, column = k // columns + 1, k % columns + 1
        mine = [c for c in comparisons if c.metric == name]
        ends = [v for c in mine for v in (c.measured, c.point)]
        span = [min(ends), max(ends)]
        shown = mine[:: -(-len(mine) // _MOST)]
        figure.add_trace(
            go.Scatter(x=span, y=span, mode="lines", line={"color": QUIET, "dash": "dash", "width": 1.5},
                       showlegend=False, hoverinfo="skip"), row, column,
        )  # fmt: skip
        for held, label, hue, symbol in (
            (True, "inside its interval", FRONT, "circle-open"), (False, "outside", PREDICTED, "diamond-open"),
        ):  # fmt: skip
            some = [c for c in shown if c.inside == held]
            if not some:
                continue
            few = len(shown) <= _FEW
            size, thick = (9, 2) if few else (6, 1)
            figure.add_trace(
                go.Scatter(
                    x=short([c.measured for c in some]), y=short([c.point for c in some]), mode="markers", name=label,
                    legendgroup=label, showlegend=label not in labelled, opacity=1.0 if few else 0.7,
                    marker={"color": hue, "symbol": symbol, "size": size, "line": {"width": thick}},
                    error_y={"type": "data", "symmetric": False, "thickness": 0.6 * thick, "width": 3 if few else 0,
                             "array": short([max(c.high - c.point, 0.0) for c in some]),
                             "arrayminus": short([max(c.point - c.low, 0.0) for c in some])},
                    hoverinfo="text",
                    hovertext=[f"{escaped(c.label)}<br>measured {c.measured:.4g}, predicted {c.point:.4g} "
                               f"({c.low:.4g} to {c.high:.4g})" for c in some],
                ), row, column,
            )  # fmt: skip
            labelled.add(label)
        figure.update_xaxes(title_text="measured", row=row, col=column)
        figure.update_yaxes(title_text="predicted before" if column == 1 else None, row=row, col=column)
    dressed(figure, 130 + 320 * rows, escaped(f"{title}: {level:.0%} of the intervals should hold"))
    figure.update_layout(margin={"t": 90})
    figure.update_annotations(font_size=13)
    return figure
