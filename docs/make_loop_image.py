"""Draw the picture of docs/evaluation/scheduler.md: hypervolume by training epochs, ours beside the peers.

    python docs/make_loop_image.py [--workload ternary] [--methods random gp epsopt] [--out images/loop.png]

From the lines of benchmarks/results/loop.jsonl: the reported seeds that every one of the methods has finished. Needs
Debian's chromium.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from screenshot import draw

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from loop import REPORTED, RESULTS  # noqa: E402
from loop_table import read, volumes  # noqa: E402
from loop_workloads import WORKLOADS  # noqa: E402

NAMES = {"random": "random search", "tpe": "TPE", "nsga2": "NSGA-II", "gp": "GPSampler", "nehvi": "qLogNEHVI"}
COLOURS = {"random": "#8a8f98", "tpe": "#2a9d8f", "nsga2": "#9467bd", "gp": "#d9730d", "nehvi": "#b5485d"}
OURS = "#1f5fa8"
APART = 0.058  # of the height, between two labels
FEW = 3  # methods whose bands can still be told apart
Floats = NDArray[np.float64]


def picture(curves: dict[str, Floats], seeds: Sequence[int], objectives: Sequence[str]) -> go.Figure:
    """Draw the mean over seeds of each method, quartiles as a band.

    Args:
        curves: ``(seeds, epochs)`` by method, ours last. Of many methods only ours and the best peer have a band.
        seeds: of the curves.
        objectives: their names.
    """
    figure = go.Figure()
    epochs = np.arange(1, next(iter(curves.values())).shape[1] + 1)
    top = max(float(np.quantile(c, 0.75, axis=0).max()) for c in curves.values())
    # What everybody has after a twentieth of the epochs is not what methods differ by.
    bottom = 0.9 * min(float(c[:, len(epochs) // 20].mean()) for c in curves.values())
    top += 0.03 * (top - bottom)
    ends = {name: float(curve[:, -1].mean()) for name, curve in curves.items()}
    peers = sorted((n for n in curves if not _is_ours(n)), key=lambda n: -ends[n])
    for name, curve in curves.items():
        if len(curves) > FEW and name in peers[1:]:
            continue
        low, high = np.quantile(curve, [0.25, 0.75], axis=0)
        figure.add_scatter(
            x=np.concatenate([epochs, epochs[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
            fillcolor=_faint(_colour(name), 0.2 if _is_ours(name) else 0.1), line_width=0, hoverinfo="skip",
        )  # fmt: skip
    for name, curve in curves.items():
        line = {"color": _colour(name), "width": 3.5 if _is_ours(name) else 2}
        figure.add_scatter(x=epochs, y=curve.mean(axis=0), mode="lines", line=line)
    for name, place in _spread(ends, APART * (top - bottom), top).items():
        label = NAMES.get(name, name)
        figure.add_annotation(
            x=epochs[-1], y=place, xanchor="left", yanchor="middle", xshift=8, showarrow=False,
            text=f"<b>{label}</b>" if _is_ours(name) else label, font={"color": _colour(name), "size": 15},
        )  # fmt: skip
    figure.update_layout(
        template="simple_white", showlegend=False, margin={"l": 65, "r": 125, "t": 50, "b": 55}, font_size=14,
        title={"text": f"Hypervolume of {' and '.join(objectives)}: mean of {len(seeds)} seeds, quartiles as a band",
               "font_size": 16, "x": 0.0, "xref": "paper"},
    )  # fmt: skip
    figure.update_xaxes(title="training epochs paid for, of all runs together", range=[0, epochs[-1]])
    figure.update_yaxes(title="hypervolume", range=[bottom, top], showgrid=True, gridcolor="#eceef1")
    return figure


def _spread(ends: dict[str, float], apart: float, top: float) -> dict[str, float]:
    """Places of labels beside the ends of lines, in the same order, never closer than `apart` nor above `top`."""
    order = sorted(ends, key=lambda n: ends[n])
    places = np.array([ends[n] for n in order])
    for _ in range(200):
        for i in np.flatnonzero(np.diff(places) < apart - 1e-9):
            middle = places[i : i + 2].mean()
            places[i : i + 2] = middle - apart / 2, middle + apart / 2
        places[-1] = min(places[-1], top - apart / 4)  # beyond the axis a label is not drawn
    return dict(zip(order, places.tolist(), strict=True))


def _is_ours(name: str) -> bool:
    return name.startswith("epsopt")


def _colour(name: str) -> str:
    return COLOURS.get(name, OURS)


def _faint(colour: str, share: float) -> str:
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{share})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw hypervolume by training epochs.")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="ternary")
    parser.add_argument("--methods", nargs="+", default=["random", "gp", "epsopt"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE / "images" / "loop.png")
    options = parser.parse_args()
    found = {
        (r["method"], r["seed"]): volumes(r)
        for r in read(options.results)
        if (r["workload"], r["epochs"], r["zoo"]) == (options.workload, options.epochs, False) and r["seed"] in REPORTED
    }
    seeds = sorted(s for s in {s for _, s in found} if all((m, s) in found for m in options.methods))
    if not seeds:
        sys.exit(f"{options.results} has no seed that all of {', '.join(options.methods)} have finished")
    methods = sorted(options.methods, key=_is_ours)
    curves = {m: np.stack([found[m, s] for s in seeds]) for m in methods}
    objectives = [o.name for o in WORKLOADS[options.workload].objectives]
    draw(picture(curves, seeds, objectives), options.out, 900, 480)


if __name__ == "__main__":
    main()
