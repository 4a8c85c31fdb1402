"""A checkpoint's anchor embeddings, real ones and those that the map predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.figures.style import FRONT, PREDICTED, QUIET, dressed, short
from epsopt.zoo.html_text import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.optimize.latent.embedding_projection import Preview


def embedding(shown: Preview, *, title: str = "Anchor embeddings") -> go.Figure:
    """Draw a checkpoint's embeddings: principal components, t-SNE and, in a ball, the Poincaré disc.

    Args:
        shown: of :func:`epsopt.studies.embedding_preview.preview_embeddings`.
        title: of the figure.

    Returns:
        The figure; real anchors are filled, predicted ones hollow, and a line joins those of the same anchor.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = [(f"principal components ({shown.explained:.0%} of the variance)", shown.pca), ("t-SNE", shown.tsne)]
    if shown.disc is not None:
        panels.append(("Poincaré disc", shown.disc))
    figure = make_subplots(1, len(panels), subplot_titles=[name for name, _ in panels], horizontal_spacing=0.05)
    styles = {
        "real": {"color": FRONT, "size": 6},
        "predicted": {"color": PREDICTED, "size": 6, "symbol": "diamond-open", "line": {"width": 1.5}},
    }
    for column, (_, sets) in enumerate(panels, 1):
        if len(sets) == 2:
            x, y = ([v for pair in zip(short(sets["real"][:, i]), short(sets["predicted"][:, i]), strict=True)
                     for v in (*pair, None)] for i in (0, 1))  # fmt: skip
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="lines", line={"color": QUIET, "width": 1}, hoverinfo="skip",
                           name="the same anchor", showlegend=column == 1), 1, column,
            )  # fmt: skip
        for name, points in sets.items():
            figure.add_trace(
                go.Scatter(
                    x=short(points[:, 0]), y=short(points[:, 1]), mode="markers", marker=styles[name],
                    name=name, showlegend=column == 1, text=[f"anchor {i}, {name}" for i in range(len(points))],
                    hoverinfo="text",
                ),
                1, column,
            )  # fmt: skip
        figure.update_xaxes(showticklabels=False, row=1, col=column)
        figure.update_yaxes(showticklabels=False, scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    if shown.disc is not None:
        last = len(panels)
        figure.add_shape(
            type="circle", x0=-1, y0=-1, x1=1, y1=1, line={"color": "#8a96a3", "width": 1}, row=1, col=last
        )
        figure.update_xaxes(range=[-1.05, 1.05], row=1, col=last)
        figure.update_yaxes(range=[-1.05, 1.05], row=1, col=last)
    dressed(figure, 460, escaped(title))
    figure.update_layout(margin={"l": 20, "t": 84, "b": 50})
    return figure
