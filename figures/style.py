"""How figures look: colours that the colour-blind tell apart, dress for light and dark, short numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]

FONT = "Inter, Roboto, Helvetica, Arial, sans-serif"
# Of Okabe and Ito (2008), which people with any kind of colour blindness tell apart.
FRONT, PREDICTED, TARGET = "#0072B2", "#D55E00", "#009E73"
MEASURED = "#8fa3b8"
MERGED = "#CC79A7"  # of Okabe and Ito, too
QUIET = "#b4bfca"
GROUPS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c6d1f", "#7f7f7f")
RINGS = ("#D55E00", "#0072B2")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star", "hexagon")
# Viridis without its ends, which are lost on dark and on white.
SCALE = ("#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151")
WHISKER = "rgba(213, 94, 0, 0.5)"
LIGHT = {"paper": "#ffffff", "text": "#24313f", "grid": "#e3e8ee", "line": "#aab6c2"}
DARK = {"paper": "#10171f", "text": "#d7dee6", "grid": "#27323e", "line": "#52606e"}
# Measured is filled, predicted is hollow, everywhere.
HOLLOW = {"color": PREDICTED, "size": 10, "symbol": "diamond-open", "line": {"width": 2}}


def dressed(figure: go.Figure, height: int, title: str | None = None, *, legend_below: float = 0.0) -> go.Figure:
    """Give a figure the common dress.

    Args:
        figure: it is changed in place.
        height: in pixels.
        title: as HTML; None leaves it without.
        legend_below: pixels more than usual between the plot and its legend.

    Returns:
        The figure.
    """
    top = 40 if title is None else 64
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": LIGHT["text"]},
        paper_bgcolor=LIGHT["paper"],
        plot_bgcolor=LIGHT["paper"],
        hoverlabel={"align": "left", "bgcolor": "#ffffff", "bordercolor": LIGHT["line"],
                    "font": {"size": 12, "color": "#24313e"}},  # not the ink: a dark page leaves it
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0.01, "yanchor": "bottom"},
        margin={"l": 70, "r": 25, "t": top, "b": 92 + legend_below},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": LIGHT["line"], "activecolor": FRONT},
        height=height,
    )  # fmt: skip
    if title is not None:
        figure.update_layout(
            title={"text": title, "x": 0.01, "xanchor": "left", "y": 1.0, "yanchor": "top", "pad": {"t": 16, "l": 8},
                   "yref": "container", "font": {"size": 15}}
        )  # fmt: skip
    figure.update_xaxes(gridcolor=LIGHT["grid"], zeroline=False, linecolor=LIGHT["line"], automargin=True)
    figure.update_yaxes(gridcolor=LIGHT["grid"], zeroline=False, linecolor=LIGHT["line"], automargin=True)
    return figure


def dark(figure: go.Figure) -> go.Figure:
    """Return a copy of a figure for a dark page; a page of epsopt turns figures dark by itself.

    Args:
        figure: one of this room's.

    Returns:
        The copy.
    """
    out = copy.deepcopy(figure)
    out.update_layout(
        paper_bgcolor=DARK["paper"],
        plot_bgcolor=DARK["paper"],
        font={"color": DARK["text"]},
        hoverlabel={"bgcolor": DARK["paper"], "bordercolor": DARK["line"], "font": {"color": DARK["text"]}},
    )
    out.update_xaxes(gridcolor=DARK["grid"], linecolor=DARK["line"])
    out.update_yaxes(gridcolor=DARK["grid"], linecolor=DARK["line"])
    for note in out.layout.annotations:
        if note.bgcolor is not None:
            note.bgcolor = DARK["paper"]
    return out


def note(figure: go.Figure, text: str, **where: Any) -> None:
    """Write a small sentence into the upper right corner of a plot; as HTML."""
    figure.add_annotation(
        text=text, x=1, y=1, xref="x domain", yref="y domain", xanchor="right", yanchor="bottom", showarrow=False,
        font={"size": 11}, opacity=0.75, **where,
    )  # fmt: skip


def short(values: Floats | Sequence[float]) -> list[float]:
    """Plain lists of short numbers: Plotly writes arrays as binary, which older copies of it do not read."""
    return [float(f"{v:.6g}") for v in np.asarray(values, dtype=np.float64)]


def place(run: str, epoch: float | None) -> str:
    """Name a checkpoint, as HTML."""
    return escaped(run) + (f", epoch {epoch:g}" if epoch is not None else "")
