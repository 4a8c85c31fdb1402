"""Draw the picture of docs/concepts/size.md: processor time and memory of commands by the size of the catalogue.

    python docs/make_growth_image.py [--table ../benchmarks/results/scale.txt] [--out images/growth.png]

From the last table that `python benchmarks/scale.py --table` printed. Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from screenshot import draw

from epsopt.figures.style import GROUPS, SYMBOLS, dressed

HERE = Path(__file__).resolve().parent
COMMANDS = ("fit", "propose", "search", "ingest", "runs", "nearest")

_CELL = re.compile(r"([\d.]+) s ([\d.]+) GB|-|ended with \d+")


def table(text: str) -> dict[str, dict[tuple[int, int], tuple[float, float]]]:
    """Read the last table: of each command, by checkpoints and tensors, processor seconds and gigabytes."""
    lines = text.rsplit("processor seconds and peak memory", maxsplit=1)[-1].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("command"))
    sizes = [(int(n), int(t)) for n, t in re.findall(r"(\d+)x(\d+)", lines[head])]
    found = {}
    for line in lines[head + 1 :]:
        name, _, rest = line.partition(" ")
        if name in COMMANDS:
            cells = [c for c, _ in zip(_CELL.finditer(rest), sizes, strict=False)]
            found[name] = {
                size: (float(c[1]), float(c[2])) for size, c in zip(sizes, cells, strict=True) if c[1] is not None
            }
    return found


def picture(found: dict[str, dict[tuple[int, int], tuple[float, float]]]) -> go.Figure:
    """Draw time above and memory below, networks of few tensors on the left, of many on the right."""
    tensors = sorted({t for cells in found.values() for _, t in cells})
    figure = make_subplots(
        2, len(tensors), shared_xaxes=True, shared_yaxes=True, vertical_spacing=0.06, horizontal_spacing=0.03,
        column_titles=[f"{t} tensors a checkpoint" for t in tensors],
    )  # fmt: skip
    for k, name in enumerate(n for n in COMMANDS if n in found):
        for column, count in enumerate(tensors, 1):
            cells = sorted((n, c) for (n, t), c in found[name].items() if t == count)
            for row, place in ((1, 0), (2, 1)):
                figure.add_scatter(
                    x=[n for n, _ in cells], y=[c[place] for _, c in cells], name=name, mode="lines+markers",
                    line={"color": GROUPS[k]}, marker={"symbol": SYMBOLS[k], "size": 8}, legendgroup=name,
                    showlegend=(row, column) == (1, 1), row=row, col=column,
                )  # fmt: skip
    sizes = [1_000, 10_000, 100_000]
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{n:,}" for n in sizes])
    figure.update_xaxes(title_text="checkpoints", row=2)
    figure.update_yaxes(type="log")
    figure.update_yaxes(dtick=1, row=1)
    figure.update_yaxes(tickvals=[0.25, 0.5, 1, 2, 4], row=2)
    figure.update_yaxes(title_text="processor seconds", row=1, col=1)
    figure.update_yaxes(title_text="peak memory, GB", row=2, col=1)
    return dressed(figure, 560)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw how commands grow with the catalogue.")
    parser.add_argument("--table", type=Path, default=HERE.parent / "benchmarks" / "results" / "scale.txt")
    parser.add_argument("--out", type=Path, default=HERE / "images" / "growth.png")
    options = parser.parse_args()
    found = table(options.table.read_text())
    if not found:
        sys.exit(f"{options.table} has no table of 'python benchmarks/scale.py --table'")
    draw(picture(found), options.out, 900, 560)


if __name__ == "__main__":
    main()
