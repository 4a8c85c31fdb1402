"""Draw the pictures of the pages on the checkpoint map from a project with a fitted map.

    python docs/make_map_images.py PROJECT_FOLDER

PROJECT_FOLDER holds epsopt.toml, with objectives coverage and dist_corr. Needs Debian's chromium. `refining.png` is
drawn from the maps that benchmarks/refine.py left in benchmarks/out/refine, without which it is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from scipy.linalg import orthogonal_procrustes
from screenshot import draw, shoot

from epsopt import figures
from epsopt.optimize import Objective, Target
from epsopt.surrogate import Surrogate

IMAGES = Path(__file__).resolve().parent / "images"
REFINED = Path(__file__).resolve().parents[1] / "benchmarks" / "out" / "refine"
PICTURES = {
    "trajectory.png": (["trajectory", "run_045", "--first", "8"], 1000, 480),
    "groups.png": (["cluster"], 1000, 480),
    "embeddings.png": (["embed", "run_007:20"], 1000, 460),
}
ENDS = {"point": "value", "low": "low", "high": "high"}
TARGETS = {"coverage": 0.9, "dist_corr": 0.85}
BLUE, ORANGE, GREY = "#1f5fa8", "#d9730d", "#b4b8be"
Floats = NDArray[np.float64]


def main() -> None:
    project = Path(sys.argv[1])
    epsopt = str(Path(sys.executable).parent / "epsopt")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        for name, (arguments, width, height) in PICTURES.items():
            subprocess.run([epsopt, *arguments, "--picture", str(page)], check=True, cwd=project)
            shoot(page, IMAGES / name, width, height)
            page.unlink()
    targets = [part for name, value in TARGETS.items() for part in (f"--target-{name.replace('_', '-')}", str(value))]
    told = _json([epsopt, "sample", *targets, "-n", "12", "--evaluate", "--json"], project)
    front = _json([epsopt, "pareto", "--json"], project)
    draw(sampling(told, front), IMAGES / "sampling.png", 760, 520)
    if REFINED.is_dir():
        draw(refining(), IMAGES / "refining.png", 1000, 520)


def sampling(found: dict[str, Any], front: dict[str, Any]) -> go.Figure:
    """Draw samples as predicted, what their weights measured, the measured front and the targets."""
    objectives = [Objective(o["name"], o["direction"] == "maximize") for o in found["objectives"]]
    points = [s for s in found["samples"] if s["decoded"] is not None]
    samples = [
        SimpleNamespace(
            **{e: {n: v[k] for n, v in s["predicted"].items()} for e, k in ENDS.items()}, probability=s["probability"]
        )
        for s in points
    ]
    measured = [SimpleNamespace(hyperparameters={}, **{k: c[k] for k in ("run", "epoch", "metrics")})
                for c in front["front"]]  # fmt: skip
    targets = [Target(name, value) for name, value in TARGETS.items()]
    return figures.sampling(
        [next(o for o in objectives if o.name == name) for name in TARGETS],
        measured, samples, targets, [s["decoded"]["measured"] for s in points],
    )  # fmt: skip


def refining() -> go.Figure:
    """Draw where checkpoints lay in the first map, and where they lie after the zoo has grown."""
    first, refined, anew = (_latents(name) for name in ("scratch-60", "refined-100", "scratch-100"))
    old = list(first)
    before = np.stack([first[k] for k in old])
    centre = before.mean(axis=0)
    _, _, axes = np.linalg.svd(before - centre, full_matrices=False)
    after = np.stack([anew[k] for k in old])
    rotation, _ = orthogonal_procrustes(after - after.mean(axis=0), before - centre)

    def plain(z: Floats) -> Floats:
        return (z - centre) @ axes[:2].T

    def rotated(z: Floats) -> Floats:
        return (z - after.mean(axis=0)) @ rotation @ axes[:2].T

    figure = make_subplots(
        rows=1, cols=2, shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.04,
        subplot_titles=["refined four times, as it is", "fitted anew, after the best rotation"],
    )  # fmt: skip
    for column, (later, place) in enumerate([(refined, plain), (anew, rotated)], 1):
        new = np.stack([z for k, z in later.items() if k not in first])
        a, b = plain(before), place(np.stack([later[k] for k in old]))
        lines = np.full((3 * len(old), 2), np.nan)
        lines[0::3], lines[1::3] = a, b
        for points, name, look in (
            (lines, "moved", {"mode": "lines", "line": {"color": GREY, "width": 1}}),
            (a, "31 runs, first map", {"mode": "markers", "marker": {"color": GREY, "size": 4}}),
            (b, "the same checkpoints, later", {"mode": "markers", "marker": {"color": BLUE, "size": 4}}),
            (place(new), "21 new runs", {"mode": "markers", "marker": {"color": ORANGE, "size": 4}}),
        ):
            figure.add_trace(
                go.Scatter(x=points[:, 0], y=points[:, 1], name=name, showlegend=column == 1, **look), row=1, col=column
            )
        figure.update_xaxes(title_text="first principal component of z", row=1, col=column)
    figure.update_xaxes(matches="x")
    figure.update_yaxes(title_text="second", row=1, col=1)
    figure.update_layout(
        template="simple_white", legend={"orientation": "h", "y": -0.16, "x": 0.5, "xanchor": "center"},
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
    )  # fmt: skip
    return figure


def _latents(name: str) -> dict[str, Floats]:
    """Checkpoints of a map by their content, and where they lie."""
    file = REFINED / f"ternary-100-{name}.safetensors"
    memory = Surrogate.from_bytes(file.read_bytes(), json.loads(file.with_suffix(".json").read_text())[0]).memory
    return dict(zip(memory.keys, memory.latents.double().numpy(), strict=True))


def _json(command: list[str], project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, cwd=project, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
