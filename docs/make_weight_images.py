"""Draw the pictures of interpolation, merging and guided initialisation.

    python docs/make_weight_images.py

From what benchmarks/interpolation.py, merging.py and initialisation.py left in benchmarks/out/weights; all of it is
measured, or predicted for runs that the map had never seen. Needs Debian's chromium.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from screenshot import draw

from epsopt.optimize import non_dominated

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "benchmarks" / "out" / "weights"
BLUE, ORANGE, GREY, LIGHT = "#1f5fa8", "#d9730d", "#8a8f98", "rgba(31,95,168,0.16)"
PAIRS = 3


def interpolation(data: list[dict[str, Any]]) -> go.Figure:
    names = data[0]["names"]
    # Of twenty pairs, the one with the median error of a straight line, and two that lie evenly to its sides.
    off = [_line_error(pair) for pair in data]
    shown = [data[i] for i in np.argsort(off)[[len(data) // 4, len(data) // 2, 3 * len(data) // 4]]]
    titles = [f"{p['ends'][0]} to {p['ends'][1]}" if r == 0 else "" for r in range(len(names)) for p in shown]
    figure = make_subplots(
        rows=len(names), cols=PAIRS, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.05,
        horizontal_spacing=0.055,
    )  # fmt: skip
    for column, pair in enumerate(shown, 1):
        x = pair["shares"]
        for row, name in enumerate(names, 1):
            j = row - 1
            first = row == column == 1
            ends = [e[j] for e in pair["end_metrics"]]
            band = [r[j] for r in pair["high"]] + [r[j] for r in reversed(pair["low"])]
            traces = [
                go.Scatter(x=[*x, *reversed(x)], y=band, mode="lines", fill="toself", fillcolor=LIGHT, line_width=0,
                           name="predicted, 90 % interval", showlegend=first, legendrank=2),
                go.Scatter(x=[0, 1], y=ends, mode="lines", line={"color": ORANGE, "dash": "dash", "width": 1.5},
                           name="straight line between the ends", showlegend=first, legendrank=4),
                go.Scatter(x=x, y=[r[j] for r in pair["point"]], mode="lines", line={"color": BLUE, "width": 2},
                           name="predicted from the merged weights", showlegend=first, legendrank=1),
                go.Scatter(x=[0, *x, 1], y=[ends[0], *(r[j] for r in pair["measured"]), ends[1]], mode="markers",
                           marker={"color": "black", "size": 5}, name="measured", showlegend=first, legendrank=3),
            ]  # fmt: skip
            for trace in traces:
                figure.add_trace(trace, row=row, col=column)
            if column == 1:
                figure.update_yaxes(title_text=name, row=row, col=column)
        figure.update_xaxes(title_text="share of B", row=len(names), col=column)
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "x": 0.5, "xanchor": "center"})
    return figure


def _line_error(pair: dict[str, Any]) -> float:
    a, b = np.array(pair["end_metrics"])
    t = np.array(pair["shares"])[:, None]
    return float(np.abs((1 - t) * a + t * b - np.array(pair["measured"])).mean())


def merging(data: dict[str, Any]) -> go.Figure:
    trained, grid, merged = (np.array(data[k]) for k in ("trained", "grid", "merged"))
    front = trained[non_dominated(trained, [True, True]).indices]
    front = front[np.argsort(front[:, 0])]
    parents, merges = merged[:3], merged[3:]
    figure = go.Figure()
    figure.add_scatter(x=trained[:, 0], y=trained[:, 1], mode="markers", name="trained checkpoints",
                       marker={"color": "#c9ccd1", "size": 5})  # fmt: skip
    figure.add_scatter(
        x=front[:, 0], y=front[:, 1], mode="lines", name="their front", line={"color": GREY, "shape": "vh"}
    )
    figure.add_scatter(x=grid[:, 0], y=grid[:, 1], mode="markers", name=f"grid of {len(grid)} merges",
                       marker={"color": ORANGE, "size": 4, "opacity": 0.6})  # fmt: skip
    figure.add_scatter(x=merges[:, 0], y=merges[:, 1], mode="markers", name="epsopt merge: 27 merges",
                       marker={"color": BLUE, "size": 8})  # fmt: skip
    figure.add_scatter(x=parents[:, 0], y=parents[:, 1], mode="markers", name="the three parents",
                       marker={"color": "black", "size": 11, "symbol": "diamond-open", "line_width": 2})  # fmt: skip
    low = np.minimum(merged.min(axis=0), grid.min(axis=0))
    figure.update_xaxes(title_text="coverage (measured)", range=[low[0] - 0.03, 1.02])
    figure.update_yaxes(title_text="dist_corr (measured)", range=[min(low[1], 0.85) - 0.02, merged[:, 1].max() + 0.015])
    figure.update_layout(legend={"x": 0.02, "y": 0.03, "bgcolor": "rgba(255,255,255,0.8)"})
    return figure


def initialisation(data: dict[str, Any]) -> go.Figure:
    front = np.array(data["front"])
    front = front[np.argsort(front[:, 0])]
    named, of_base = np.array(data["named"]), np.array(data["of_base"])
    guided, plain = (np.array(rows) for rows in data["random"] or [[], []])
    coverage, structure = data["targets"]
    figure = go.Figure()
    figure.add_shape(
        type="rect", x0=coverage, x1=1.02, y0=structure, y1=1.0, fillcolor="rgba(80,160,80,0.13)", line_width=0
    )
    figure.add_scatter(x=front[:, 0], y=front[:, 1], mode="lines", name="front of the trained checkpoints",
                       line={"color": GREY, "shape": "vh"})  # fmt: skip
    for rows, name, colour, symbol in (
        (plain, f"base, {len(plain)} random configurations", ORANGE, "circle-open"),
        (guided, f"named start, the same {len(guided)}", BLUE, "circle-open"),
        (np.array(data["same"]), "base, the named plan, 8 seeds", ORANGE, "diamond"),
        (of_base, "base, the best plan for it, 8 seeds", ORANGE, "circle"),
        (named, "named start and plan, 8 seeds", BLUE, "circle"),
    ):
        if not len(rows):
            continue
        figure.add_scatter(x=rows[:, 0], y=rows[:, 1], mode="markers", name=name,
                           marker={"color": colour, "size": 9, "symbol": symbol, "line_width": 1.5})  # fmt: skip
    base = f"the base ({data['base'][0]:.3f}, {data['base'][1]:.3f})"
    for point, name, colour in ((data["base"], base, ORANGE), (data["start"], "the named start", BLUE)):
        star = {"color": colour, "size": 13, "symbol": "star", "line": {"color": "black", "width": 1}}
        figure.add_scatter(x=[point[0]], y=[point[1]], mode="markers", name=name, marker=star)
    wide = len(guided) > 0  # random configurations end anywhere; plans end near the targets
    highest = max(rows[:, 1].max() for rows in (named, of_base, front))
    figure.update_xaxes(title_text="coverage after ten epochs (measured)",
                        range=[-0.03, 1.03] if wide else [coverage - 0.02, 1.004])  # fmt: skip
    figure.update_yaxes(title_text="dist_corr after ten epochs (measured)",
                        range=None if wide else [structure - 0.02, min(highest, named[:, 1].max() + 0.01)])  # fmt: skip
    figure.update_layout(legend={"x": 0.02, "y": 0.02, "bgcolor": "rgba(255,255,255,0.8)"})
    return figure


def main() -> None:
    for name, make, width, height in (
        ("interpolation", interpolation, 980, 720),
        ("merging", merging, 900, 560),
        ("initialisation", initialisation, 900, 560),
    ):
        kept = DATA / f"{name}.picture.json"
        if kept.exists():
            figure = make(json.loads(kept.read_text()))
            figure.update_layout(template="plotly_white", font_size=13, margin={"l": 60, "r": 20, "t": 40, "b": 50})
            figure.update_annotations(font_size=13)
            draw(figure, HERE / "images" / f"{name}.png", width, height)
        else:
            print(f"no {kept.name}: run 'python benchmarks/{name}.py' first")


if __name__ == "__main__":
    main()
