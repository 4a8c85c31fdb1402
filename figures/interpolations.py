"""Ways from one checkpoint to another: what is predicted along them, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epsopt.figures.protocols import Interval
from epsopt.figures.style import FRONT, PREDICTED, QUIET, dressed, short
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.zoo.catalogue.types import Checkpoint

_BAND = "rgba(213, 94, 0, 0.16)"
_BEYOND = "rgba(127, 127, 127, 0.16)"


@dataclass(frozen=True)
class Way:
    """The way from a checkpoint A to a checkpoint B.

    Attributes:
        title: names both.
        shares: ``n`` shares of the way, 0 at A and 1 at B, ascending.
        predicted: ``n`` predictions with intervals.
        measured: ``n`` measurements by metric; ``None`` where nothing was measured.
        trusted: whether each point lies where the map was trained.
    """

    title: str
    shares: Sequence[float]
    predicted: Sequence[Interval]
    measured: Sequence[Mapping[str, float | None] | None]
    trusted: Sequence[bool]

    @classmethod
    def between(cls, surrogate: Surrogate, checkpoints: Sequence[Checkpoint], a: str, b: str, steps: int = 11) -> Way:
        """Predict the straight way through the latent space from one checkpoint to another.

        Args:
            surrogate: the map.
            checkpoints: the catalogue's.
            a: SHA-256 of the checkpoint where it begins, or the beginning of it.
            b: of the one where it ends.
            steps: points, both ends included.

        Returns:
            The way, measured at its ends alone.

        Raises:
            UsageError: fewer than two steps, or the map knows no checkpoint, or several, that begin so.
        """
        from epsopt.optimize.latent.interpolation import along, straight
        from epsopt.optimize.latent.search import known_latents

        latents, known = known_latents(surrogate, checkpoints)
        rows = []
        for digest in (a, b):
            found = [i for i, c in enumerate(known) if c.sha256.startswith(digest)]
            if len(found) != 1:
                raise UsageError(f"the map knows {len(found)} checkpoints whose SHA-256 begins with {digest}, not one")
            rows.append(found[0])
        points = along(surrogate, checkpoints, straight(latents[rows[0]], latents[rows[1]], steps))
        ends = [known[i] for i in rows]
        names = [c.run if c.epoch is None else f"{c.run}, epoch {c.epoch}" for c in ends]
        measured = [ends[0].metrics, *[None] * (steps - 2), ends[1].metrics]
        return cls(
            f"A: {names[0]}, B: {names[1]}", [p.share for p in points], points, measured, [p.trusted for p in points]
        )


def interpolation(ways: Sequence[Way], names: Sequence[str]) -> go.Figure:
    """Draw ways between checkpoints, one column a way and one row a metric.

    Args:
        ways: at least one.
        names: of the metrics that are drawn, at least one.

    Returns:
        The figure: the predicted band, what was measured as filled points, the straight line between measured ends,
        and shaded what lies beyond the data.

    Raises:
        UsageError: no way or no metric.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if not ways or not names:
        raise UsageError("there is nothing to draw: name at least one way and one metric")
    rows, columns = len(names), len(ways)
    titles = [escaped(w.title) if r == 0 else "" for r in range(rows) for w in ways]
    figure = make_subplots(
        rows, columns, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.12 / rows,
        horizontal_spacing=0.16 / columns,
    )  # fmt: skip
    seen: set[str] = set()

    def first(name: str) -> bool:
        new = name not in seen
        seen.add(name)
        return new

    for column, way in enumerate(ways, 1):
        x = list(way.shares)
        for row, name in enumerate(names, 1):
            low, point, high = (short([getattr(p, e)[name] for p in way.predicted]) for e in ("low", "point", "high"))
            ends = [_known(way.measured[0], name), _known(way.measured[-1], name)]
            measured = [(s, v) for s, m in zip(x, way.measured, strict=True) if (v := _known(m, name)) is not None]
            traces: list[tuple[str, dict[str, Any]]] = [
                ("predicted interval", {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "mode": "lines",
                                        "fill": "toself", "fillcolor": _BAND, "line": {"width": 0},
                                        "hoverinfo": "skip"}),
                ("predicted", {"x": x, "y": point, "mode": "lines+markers",
                               "line": {"color": PREDICTED, "width": 1.5},
                               "marker": {"symbol": "diamond-open", "size": 7}}),
            ]  # fmt: skip
            if None not in ends:
                line = {"x": [x[0], x[-1]], "y": ends, "mode": "lines", "hoverinfo": "skip",
                        "line": {"color": QUIET, "dash": "dash", "width": 1.5}}  # fmt: skip
                traces.insert(1, ("straight line between the measured ends", line))
            if measured:
                traces.append(("measured", {"x": [s for s, _ in measured], "y": short([v for _, v in measured]),
                                            "mode": "markers", "marker": {"color": FRONT, "size": 8}}))  # fmt: skip
            for label, trace in traces:
                figure.add_trace(
                    go.Scatter(name=label, legendgroup=label, showlegend=first(label), **trace), row, column
                )
            for start, end in _stretches(x, way.trusted):
                figure.add_vrect(start, end, fillcolor=_BEYOND, line_width=0, layer="below", row=row, col=column)
            if column == 1:
                figure.update_yaxes(title_text=escaped(name), row=row, col=1)
        if not all(way.trusted):
            figure.add_trace(
                go.Scatter(x=[None], y=[None], mode="markers", name="beyond the data", legendgroup="beyond",
                           showlegend=first("beyond"), marker={"symbol": "square", "size": 12, "color": _BEYOND}),
                1, column,
            )  # fmt: skip
        figure.update_xaxes(title_text="share of B", row=rows, col=column)
    return dressed(figure, 130 + 190 * rows)


def _known(values: Mapping[str, float | None] | None, name: str) -> float | None:
    return None if values is None else values.get(name)


def _stretches(shares: Sequence[float], trusted: Sequence[bool]) -> list[tuple[float, float]]:
    """Intervals around the points that are not trusted, half-way to their neighbours."""
    out: list[tuple[float, float]] = []
    for i, (share, inside) in enumerate(zip(shares, trusted, strict=True)):
        if inside:
            continue
        start = share if i == 0 else (shares[i - 1] + share) / 2
        end = share if i + 1 == len(shares) else (share + shares[i + 1]) / 2
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out
