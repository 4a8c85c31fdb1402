"""Pictures of the map for a person to look at: a run's path, groups of runs, and a checkpoint's embeddings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epsopt.studies.optuna_io.study_figure import FONT, FRONT, MEASURED, PREDICTED
from epsopt.studies.output_files import OutputFile
from epsopt.studies.pages import escaped, html_page
from epsopt.zoo.child_processes import safe_children
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.optimize.latent.embedding_projection import Preview
    from epsopt.surrogate.plane import Plane

Floats = NDArray[np.float64]

_GROUPS = ("#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#f2a900", "#72b7b2", "#9d755d", "#ff9da6")
_QUIET = "#c9d1d9"


def save_picture(figure: go.Figure, file: OutputFile) -> None:
    """Write a picture as ``.html`` (by itself, works offline) or as ``.png`` or ``.svg`` (needs kaleido and a browser).

    Args:
        figure: the picture.
        file: as :func:`epsopt.studies.output_files.output_file` checked it.

    Raises:
        UsageError: a file that is not epsopt's has come to be there.
        EpsoptError: kaleido or its browser is missing, or the file cannot be written.
    """
    ending = file.path.suffix.lower()
    if ending == ".html":
        title = html.unescape(str(figure.layout.title.text or "")) or "epsopt"
        file.write(html_page(title, figure=figure, bar=False).encode())
        return
    try:
        with safe_children():
            drawn = figure.to_image(ending[1:], width=1000, height=int(figure.layout.height or 480), scale=1.5)
    except (OSError, ValueError, RuntimeError) as error:
        raise EpsoptError(
            f"{file.named}: plotly could not draw it ({str(error).strip().splitlines()[0]}): install kaleido with "
            "pip install 'epsopt[images]' and a Chrome or Chromium, or save it as .html"
        ) from error
    file.write(drawn)


def path_figure(
    name: str,
    background: Floats,
    path: Floats,
    epochs: Sequence[float],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    ends: Mapping[str, tuple[float, float, float, float]],
    plane: Plane,
) -> go.Figure:
    """Draw a run's path on the map, and its metrics with where they are forecast to end.

    Args:
        name: of the run.
        background: ``(n, 2)`` all checkpoints of the map.
        path: ``(e, 2)`` the run's.
        epochs: ``e`` of them.
        curves: measured metrics by name: epochs and values.
        ends: by the same names: last epoch, lower end, median and upper end of the forecast.
        plane: the map's, of which these are coordinates.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = max(len(curves), 1)
    specs: list[list[Any]] = [[{"rowspan": rows}, {}], *([None, {}] for _ in range(rows - 1))]
    titles = [f"{escaped(name)} on the map", *(escaped(m) for m in curves)]
    figure = make_subplots(
        rows, 2, specs=specs, column_widths=[0.55, 0.45], subplot_titles=titles, vertical_spacing=0.12
    )
    figure.add_trace(
        go.Scatter(
            x=_short(background[:, 0]), y=_short(background[:, 1]), mode="markers", name="other checkpoints",
            marker={"color": _QUIET, "size": 4}, hoverinfo="skip",
        ),
        1, 1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=_short(path[:, 0]), y=_short(path[:, 1]), mode="markers+lines", name="the run",
            marker={"color": list(epochs), "colorscale": "Viridis", "size": 8, "showscale": False},
            line={"color": MEASURED, "width": 1.5}, text=[f"epoch {e:g}" for e in epochs], hoverinfo="text",
        ),
        1, 1,
    )  # fmt: skip
    for place, epoch, shift in ((path[0], epochs[0], -16), (path[-1], epochs[-1], 16)):
        figure.add_annotation(
            x=place[0], y=place[1], text=f"epoch {epoch:g}", showarrow=False, yshift=shift, row=1, col=1,
            bgcolor="rgba(255, 255, 255, 0.7)",
        )  # fmt: skip
    _framed(figure, plane, background, path, row=1, col=1)
    for row, (metric, (at, values)) in enumerate(curves.items(), 1):
        style = {"color": MEASURED, "width": 1.5}
        figure.add_trace(
            go.Scatter(
                x=list(at), y=list(values), mode="markers+lines", line=style, marker={"size": 5},
                name="measured", showlegend=row == 1,
            ),
            row, 2,
        )  # fmt: skip
        if metric in ends:
            end, low, middle, high = ends[metric]
            figure.add_trace(
                go.Scatter(
                    x=[end], y=[middle], mode="markers", name="forecast, not measured", showlegend=row == 1,
                    marker={"color": PREDICTED, "size": 10, "symbol": "diamond"},
                    error_y={"type": "data", "symmetric": False, "array": [high - middle],
                             "arrayminus": [middle - low], "color": PREDICTED},
                ),
                row, 2,
            )  # fmt: skip
    figure.update_xaxes(title_text="epoch", row=rows, col=2)
    return _dressed(figure, 480)


def groups_figure(
    places: Floats,
    groups: Sequence[int],
    medoids: Sequence[int],
    texts: Sequence[str],
    labels: Sequence[str],
    plane: Plane,
) -> go.Figure:
    """Draw groups of runs on the map.

    Args:
        places: ``(n, 2)`` where each run ends.
        groups: ``n`` numbers from 0; -1 for a run in no group.
        medoids: row of each group's medoid.
        texts: shown on hovering over a run.
        labels: names of the groups.
        plane: the map's, of which these are coordinates.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    if alone := [i for i, g in enumerate(groups) if g < 0]:
        figure.add_trace(
            go.Scatter(
                x=_short(places[alone, 0]), y=_short(places[alone, 1]), mode="markers", name="in no group",
                marker={"color": _QUIET, "size": 8, "symbol": "x"}, text=[escaped(texts[i]) for i in alone],
                hoverinfo="text",
            )
        )  # fmt: skip
    for k, label in enumerate(labels):
        rows = [i for i, g in enumerate(groups) if g == k]
        sizes = [16 if i == medoids[k] else 8 for i in rows]
        figure.add_trace(
            go.Scatter(
                x=_short(places[rows, 0]), y=_short(places[rows, 1]), mode="markers", name=escaped(label),
                marker={"color": _GROUPS[k % len(_GROUPS)], "size": sizes, "line": {"color": "white", "width": 1}},
                text=[escaped(texts[i]) for i in rows], hoverinfo="text",
            )
        )  # fmt: skip
    grouped = places[[i for i, g in enumerate(groups) if g >= 0]]
    _framed(figure, plane, places, grouped)
    figure.update_layout(title={"text": "Where runs end on the map; the large point of a group is its medoid"})
    return _dressed(figure, 480)


def preview_figure(title: str, shown: Preview) -> go.Figure:
    """Draw a checkpoint's embeddings: principal components, t-SNE and, in a ball, the Poincare disc."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = [(f"principal components ({shown.explained:.0%} of the variance)", shown.pca), ("t-SNE", shown.tsne)]
    if shown.disc is not None:
        panels.append(("Poincaré disc", shown.disc))
    figure = make_subplots(1, len(panels), subplot_titles=[name for name, _ in panels], horizontal_spacing=0.06)
    styles = {"real": {"color": FRONT, "size": 6}, "predicted": {"color": PREDICTED, "size": 5, "symbol": "diamond"}}
    for column, (_, sets) in enumerate(panels, 1):
        if len(sets) == 2:
            x, y = ([v for pair in zip(_short(sets["real"][:, i]), _short(sets["predicted"][:, i]), strict=True)
                     for v in (*pair, None)] for i in (0, 1))  # fmt: skip
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="lines", line={"color": _QUIET, "width": 1}, hoverinfo="skip",
                           name="the same anchor", showlegend=column == 1), 1, column,
            )  # fmt: skip
        for name, points in sets.items():
            figure.add_trace(
                go.Scatter(
                    x=_short(points[:, 0]), y=_short(points[:, 1]), mode="markers", marker=styles[name],
                    name=name, showlegend=column == 1, text=[f"anchor {i}, {name}" for i in range(len(points))],
                    hoverinfo="text",
                ),
                1, column,
            )  # fmt: skip
        figure.update_xaxes(showticklabels=False, zeroline=False, row=1, col=column)
        figure.update_yaxes(
            showticklabels=False, zeroline=False, scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column
        )
    if shown.disc is not None:
        last = len(panels)
        figure.add_shape(
            type="circle", x0=-1, y0=-1, x1=1, y1=1, line={"color": "#8a96a3", "width": 1}, row=1, col=last
        )
        figure.update_xaxes(range=[-1.05, 1.05], row=1, col=last)
        figure.update_yaxes(range=[-1.05, 1.05], row=1, col=last)
    figure.update_layout(title={"text": escaped(title)})
    return _dressed(figure, 460)


def _framed(figure: go.Figure, plane: Plane, places: Floats, shown: Floats, **where: int) -> None:
    """Give axes the map's frame, widened to what must be shown, their titles, and the number of points beyond it."""
    low, high = np.minimum(plane.low, shown.min(axis=0)), np.maximum(plane.high, shown.max(axis=0))
    wider = np.where((shown.min(axis=0) < plane.low) | (shown.max(axis=0) > plane.high), 0.04 * (high - low), 0.0)
    low, high = low - wider, high + wider
    beyond = int((~((places >= low) & (places <= high)).all(axis=1)).sum())
    first, second = plane.titles
    first += f"; {beyond} of {len(places)} lie outside the frame" if beyond else ""
    figure.update_xaxes(title_text=first, range=[low[0], high[0]], **where)
    figure.update_yaxes(title_text=second, range=[low[1], high[1]], **where)


def _dressed(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 12, "color": "#24313f"},
        title={"x": 0.02, "xanchor": "left"},
        legend={"orientation": "h", "x": 0, "y": -0.15, "xanchor": "left", "yanchor": "top"},
        margin={"l": 60, "r": 25, "t": 70, "b": 80},
        height=height,
    )
    figure.update_annotations(font_size=13)
    return figure


def _short(values: Floats) -> list[float]:
    return [float(f"{v:.5g}") for v in values]
