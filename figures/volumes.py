"""Hypervolume of the front as training goes on, of one loop or of several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from epsopt.figures.style import FRONT, GROUPS, LIGHT, Floats, dressed, short
from epsopt.zoo.errors import UsageError
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

_APART = 0.058  # of the height, between two labels
_BANDS = 3  # methods whose bands can still be distinguished


def hypervolume(
    curves: Mapping[str, Sequence[float] | Floats],
    *,
    ours: str | None = None,
    x: str = "proposed runs",
    start: int = 0,
    title: str = "Hypervolume of the measured front",
) -> go.Figure:
    """Draw how the hypervolume of the measured front grew.

    Args:
        curves: by name, ``(n,)`` values after each step, or ``(seeds, n)``, drawn as their mean with quartiles as a
            band; of more than three only our method and the best other have a band.
        ours: the name that is drawn strongest; by default the last one.
        x: title of the axis of steps.
        start: step of the first value.
        title: of the figure.

    Returns:
        The figure; a single curve is a staircase.

    Raises:
        UsageError: no curve, or an empty one.
    """
    import plotly.graph_objects as go

    tables = {name: np.atleast_2d(np.asarray(c, dtype=np.float64)) for name, c in curves.items()}
    if not tables or any(t.shape[1] == 0 for t in tables.values()):
        raise UsageError("there is no hypervolume to draw: nothing was measured with every objective")
    ours = next(reversed(tables)) if ours is None else ours
    figure = go.Figure()
    if len(tables) == 1:
        (values,) = (t.mean(axis=0) for t in tables.values())
        stairs = [*range(start, start + len(values)), start + len(values) - 0.5]  # the last step shows, too
        figure.add_trace(
            go.Scatter(x=stairs, y=short([*values, values[-1]]), mode="lines", name="hypervolume", showlegend=False,
                       line={"color": FRONT, "width": 2.5, "shape": "hv"})
        )  # fmt: skip
        figure.update_xaxes(title_text=escaped(x), **({"dtick": 1} if len(values) <= 10 else {}))
        figure.update_yaxes(title_text="hypervolume")
        return dressed(figure, 340, escaped(title)).update_layout(margin={"b": 60})
    ends = {name: float(t[:, -1].mean()) for name, t in tables.items()}
    peers = sorted((n for n in tables if n != ours), key=lambda n: -ends[n])
    colours = dict(zip(peers, [g for g in GROUPS if g != FRONT], strict=False)) | {ours: FRONT}
    longest = max(t.shape[1] for t in tables.values())
    top = max(float(np.quantile(t, 0.75, axis=0).max()) for t in tables.values())
    # What everybody has after a twentieth of the steps is not what methods differ by.
    bottom = 0.9 * min(float(t[:, t.shape[1] // 20].mean()) for t in tables.values())
    top += 0.03 * (top - bottom)
    drawn = [*(n for n in tables if n != ours), ours]
    for name in drawn:
        table, hue = tables[name], colours.get(name, LIGHT["line"])
        steps = np.arange(start, start + table.shape[1])
        if len(table) > 1 and (len(tables) <= _BANDS or name == ours or name == peers[0]):
            low, high = np.quantile(table, [0.25, 0.75], axis=0)
            figure.add_trace(
                go.Scatter(x=short(np.concatenate([steps, steps[::-1]])), y=short(np.concatenate([high, low[::-1]])),
                           fill="toself", fillcolor=_faint(hue, 0.2 if name == ours else 0.1), mode="lines",
                           line={"width": 0}, hoverinfo="skip", showlegend=False)
            )  # fmt: skip
    for name in drawn:
        table, hue = tables[name], colours.get(name, LIGHT["line"])
        steps = np.arange(start, start + table.shape[1])
        figure.add_trace(
            go.Scatter(x=short(steps), y=short(table.mean(axis=0)), mode="lines", name=escaped(name), showlegend=False,
                       line={"color": hue, "width": 3.5 if name == ours else 2})
        )  # fmt: skip
    for name, at in _spread(ends, _APART * (top - bottom), top).items():
        figure.add_annotation(
            x=start + longest - 1, y=at, xanchor="left", yanchor="middle", xshift=8, showarrow=False,
            text=f"<b>{escaped(name)}</b>" if name == ours else escaped(name),
            font={"color": colours.get(name, LIGHT["line"]), "size": 15},
        )  # fmt: skip
    dressed(figure, 480, escaped(title))
    figure.update_layout(margin={"r": 140, "b": 60})
    figure.update_xaxes(title_text=escaped(x), range=[start - 1, start + longest - 1])
    figure.update_yaxes(title_text="hypervolume", range=[bottom, top])
    return figure


def _spread(ends: Mapping[str, float], apart: float, top: float) -> dict[str, float]:
    """Places of labels beside the ends of lines, in the same order, never closer than `apart` nor above `top`."""
    order = sorted(ends, key=lambda n: ends[n])
    places = np.array([ends[n] for n in order])
    for _ in range(200):
        for i in np.flatnonzero(np.diff(places) < apart - 1e-9):
            middle = places[i : i + 2].mean()
            places[i : i + 2] = middle - apart / 2, middle + apart / 2
        places[-1] = min(places[-1], top - apart / 4)  # beyond the axis a label is not drawn
    return dict(zip(order, places.tolist(), strict=True))


def _faint(colour: str, share: float) -> str:
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{share})"
