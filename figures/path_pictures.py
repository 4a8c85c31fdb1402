"""A run's path over the map as a small SVG, drawn without a browser: where pictures are shown and no script runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from epsopt.figures.style import FONT, FRONT, LIGHT, MEASURED, QUIET, Floats
from epsopt.zoo.html_text import escaped

WIDTH, HEIGHT = 720, 400
_TOP, _BOTTOM = 44, 44  # pixels above and below all plots: title, axis titles
_MAP, _CURVES = (46, 400), (478, 706)  # left and right edges of the map, and of the curves
_MOST_CURVES, _MOST_POINTS = 3, 2000


@dataclass(frozen=True, eq=False)
class Curve:
    """What the checkpoints of a run measured.

    Attributes:
        name: of the metric.
        epochs: ``(e,)``.
        values: ``(e,)``; NaN where nothing was measured.
    """

    name: str
    epochs: Floats
    values: Floats


@dataclass(frozen=True)
class _Frame:
    """A plot's place in pixels, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, points: Floats) -> Floats:
        """Return ``(n, 2)`` pixels of points."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = self.left + (points[:, 0] - x0) / (x1 - x0) * (self.right - self.left)
        up = self.bottom - (points[:, 1] - y0) / (y1 - y0) * (self.bottom - self.top)
        return np.column_stack([across, up])


def path_picture(
    background: Floats, path: Floats, chosen: int, titles: tuple[str, str], curves: Sequence[Curve], title: str
) -> str:
    """Draw a run's path over the map beside what it measured.

    Args:
        background: ``(n, 2)`` all checkpoints in the plane of the map; of more than 2,000 every n-th is drawn.
        path: ``(e, 2)`` the run's own, in the order of training, finite; at least one.
        chosen: row of ``path`` that is ringed.
        titles: of the map's two axes.
        curves: one a metric, over the same ``e`` checkpoints; the first three are drawn.
        title: of the picture.

    Returns:
        An SVG document; texts in it are text.
    """
    finite = background[np.isfinite(background).all(axis=1)]
    finite = finite[:: max(1, -(-len(finite) // _MOST_POINTS))]
    frame = _Frame(*_MAP, _TOP, HEIGHT - _BOTTOM, *_ends(np.concatenate([finite, path])))
    parts = [_text(14, 24, title, size=15), _box(frame), *(_disc(p, 2, QUIET, 0.7) for p in frame.at(finite))]
    at = frame.at(path)
    parts += [_line(at), *(_disc(p, 3.2, FRONT) for p in at), _arrow(at), _ring(at[chosen])]
    parts.append(_text((frame.left + frame.right) / 2, HEIGHT - 14, titles[0], anchor="middle"))
    parts.append(_text(20, (_TOP + HEIGHT - _BOTTOM) / 2, titles[1], anchor="middle", upright=True))
    parts += _curves([c for c in curves if np.isfinite(c.values).any()][:_MOST_CURVES], chosen)
    return _document(parts)


def notice_picture(text: str) -> str:
    """Say in a picture's place why there is none.

    Args:
        text: one sentence.

    Returns:
        An SVG document.
    """
    lines = textwrap.wrap(text, 90)[:8]
    return _document([_text(30, 60 + 20 * i, line, size=14) for i, line in enumerate(lines)])


def _document(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{escaped(FONT)}" font-size="11" fill="{LIGHT["text"]}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{LIGHT["paper"]}"/>\n{"".join(parts)}</svg>\n'
    )


def _curves(curves: Sequence[Curve], chosen: int) -> list[str]:
    parts = []
    each = (HEIGHT - _TOP - _BOTTOM) / max(len(curves), 1)
    for k, curve in enumerate(curves):
        points = np.column_stack([curve.epochs, curve.values])
        known = points[np.isfinite(points).all(axis=1)]
        top = _TOP + k * each + (16 if k else 0)
        frame = _Frame(*_CURVES, top, _TOP + (k + 1) * each - 6, *_ends(known))
        at = frame.at(known)
        parts += [_box(frame), _line(at), *(_disc(p, 3, MEASURED) for p in at)]
        if np.isfinite(curve.values[chosen]):
            parts.append(_ring(frame.at(points[chosen : chosen + 1])[0]))
        parts.append(_text(frame.left + 4, frame.top - 4, curve.name))
        low, high = (float(v) for v in (known[:, 1].min(), known[:, 1].max()))
        ends = [(low, frame.at(np.array([[0.0, low]]))[0, 1]), (high, frame.at(np.array([[0.0, high]]))[0, 1])]
        parts += [_text(frame.left - 5, y + 4, f"{v:.3g}", anchor="end") for v, y in ends[: 1 + (high > low)]]
    if curves:
        first, last = curves[0].epochs.min(), curves[0].epochs.max()
        across = f"epoch {first:g}" if first == last else f"epochs {first:g} to {last:g}"
        parts.append(_text(sum(_CURVES) / 2, HEIGHT - 14, across, anchor="middle"))
    return parts


def _ends(points: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lowest and highest value of both axes, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.08 * (high - low), np.maximum(np.abs(low) * 0.1, 1e-9))
    return (
        (float(low[0] - margin[0]), float(high[0] + margin[0])),
        (float(low[1] - margin[1]), float(high[1] + margin[1])),
    )


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", upright: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{turned}>{escaped(text)}</text>\n'


def _box(frame: _Frame) -> str:
    return (
        f'<rect x="{frame.left}" y="{frame.top:.1f}" width="{frame.right - frame.left}" '
        f'height="{frame.bottom - frame.top:.1f}" fill="none" stroke="{LIGHT["line"]}"/>\n'
    )


def _disc(at: Floats, radius: float, colour: str, opacity: float = 1.0) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{colour}" fill-opacity="{opacity}"/>\n'


def _ring(at: Floats) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="8" fill="none" stroke="{LIGHT["text"]}" stroke-width="2"/>\n'


def _line(at: Floats) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    return f'<polyline points="{points}" fill="none" stroke="{FRONT}" stroke-width="1.6"/>\n'


def _arrow(at: Floats) -> str:
    """A head at the end of a path, where it moves at all."""
    move = at[-1] - at[-2] if len(at) > 1 else np.zeros(2)
    length = float(np.hypot(*move))
    if length < 1.0:
        return ""
    along = move / length
    across = np.array([-along[1], along[0]])
    corners = (at[-1] + 4 * along, at[-1] - 7 * along + 5 * across, at[-1] - 7 * along - 5 * across)
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}" fill="{FRONT}"/>\n'
