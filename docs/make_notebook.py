"""Write docs/notebook.ipynb, and with a project run it there, so that it shows the project's figures.

    python docs/make_notebook.py [PROJECT_FOLDER]

PROJECT_FOLDER holds epsopt.toml and a database with a fitted map. Figures are kept as PNG files inside the notebook,
which needs a Chrome or Chromium.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

CELLS = [
    """# epsopt in a notebook

Which checkpoint has the trade-off that you want, can the predictions be trusted, and what to train next. It begins
where `epsopt init`, `epsopt ingest` and `epsopt fit` ended, in the folder of `epsopt.toml`. What was measured is drawn
filled, what is predicted is drawn hollow with its interval.""",
    """import numpy as np

from epsopt import figures
from epsopt.optimize import Target, cluster_runs, hypervolume, run_trajectory, sample_region, search
from epsopt.studies import load_map, load_project, preview_embeddings, propose_next, training_set
from epsopt.surrogate import fit
from epsopt.zoo import Catalogue

project = load_project(".")
with Catalogue.existing(project.storage) as catalogue:
    checkpoints = catalogue.checkpoints()
    surrogate, validation = load_map(catalogue)
    fingerprints = catalogue.fingerprints([c.id for c in checkpoints])
    embeddings = catalogue.embeddings([c.id for c in checkpoints])
objectives = project.objectives
validation""",
    """## What was measured

The front is what no other checkpoint beats in every objective.""",
    "figures.front(objectives, checkpoints)",
    "figures.parallel(objectives, checkpoints)",
    """How the front grew, run by run: the space between it and the worst that was measured.""",
    """measured = [c for c in checkpoints if all(c.metrics[o.name] is not None for o in objectives)]
values = np.array([[c.metrics[o.name] for o in objectives] for c in measured])
better = [o.maximize for o in objectives]
worst = np.where(better, values.min(axis=0), values.max(axis=0))
of_run = np.array([c.run_id for c in measured])
order = np.unique(of_run)
grown = [hypervolume(values[np.isin(of_run, order[:n])], worst, better) for n in range(len(order) + 1)]
figures.hypervolume({"measured": grown}, x="runs")""",
    """## The checkpoint map

One plane of the latent space, the same in every figure: points near each other behave alike, and a line is a run.""",
    "figures.map(surrogate, checkpoints, colour=objectives[0].name)",
    """## Can the predictions be trusted?

A map that learns from some runs only, held against the others: `epsopt fit --from-scratch --picture FILE` draws the
same of the project's own map.""",
    """with Catalogue.existing(project.storage) as catalogue:
    again, tested = fit(training_set(catalogue, surrogate.metric_names), folds=3)
figures.calibration(figures.held_out(again, tested), tested.level)""",
    """## Search

At least this good in the first objective, and the others as far as they go. Each answer names the real checkpoint that
is nearest to it.""",
    """values = sorted(c.metrics[objectives[0].name] for c in checkpoints if c.metrics[objectives[0].name] is not None)
wanted = values[3 * len(values) // 4 if objectives[0].maximize else len(values) // 4]
targets = [Target(objectives[0].name, wanted)]
result = search(surrogate, checkpoints, objectives, targets, limit=5)
result""",
    "result.answers[0]",
    "figures.front(objectives, checkpoints, result.answers, targets)",
    "figures.map(surrogate, checkpoints, colour=objectives[0].name, answers=result.answers)",
    """Hypothetical checkpoints that meet the target; `epsopt sample --decode` turns them into weights.""",
    """sample = sample_region(surrogate, checkpoints, objectives, targets, n=10, probability=0.2)
figures.sampling(objectives, checkpoints, sample.points, targets)""",
    """## Runs

Where a run has been and where it is forecast to end, from its first checkpoints; and runs that behave alike.""",
    """latents = surrogate.encode(fingerprints)
run = max(checkpoints, key=lambda c: c.epoch or 0).run
found = run_trajectory(surrogate, checkpoints, latents, run, fingerprints=fingerprints, first=2)
figures.trajectory(surrogate, latents.double().numpy(), found)""",
    "found.forecast",
    """clusters, runs, points = cluster_runs(surrogate, checkpoints, groups=2)
figures.groups(surrogate, clusters, runs, points)""",
    """## Between two checkpoints

Dots at the ends are measured; the band between them is predicted, and shaded where it lies beyond the data.""",
    """way = figures.Way.between(surrogate, checkpoints, runs[0].sha256, runs[-1].sha256)
figures.interpolation([way], [o.name for o in objectives])""",
    """## Embeddings

Of models with an `embed` hook: what the map predicts from weights alone.""",
    """if surrogate.embedding_scale is None:
    preview = "no checkpoint has anchor embeddings"
else:
    shown = preview_embeddings(surrogate, fingerprints[-1], embeddings[-1], ball=False, seed=0)
    preview = figures.embedding(shown, title=f"Anchor embeddings of {checkpoints[-1].run}")
preview""",
    """## What to train next

Proposals for the next runs, with what they are predicted to reach. `epsopt propose` queues them and `epsopt work`
trains them; `epsopt report --html report.html` says afterwards whether they helped.""",
    """batch = propose_next(project, None, checkpoints, objectives, n=3, record=False)
figures.front(objectives, checkpoints, batch.proposals, title="Proposals, as predicted")""",
]
"""Cells in turn; what parses as Python is code."""


def is_code(text: str) -> bool:
    """Whether a cell is code."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def run(code: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last expression, as notebooks show it; None without one."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - cells of this file
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def shown(value: Any) -> dict[str, Any]:
    """Return a value as a notebook keeps it."""
    import plotly.graph_objects as go

    from epsopt.studies.pictures import drawn_image

    if isinstance(value, go.Figure):
        return {"image/png": base64.b64encode(drawn_image(value, "png", "notebook", scale=1.0)).decode()}
    if hasattr(value, "_repr_html_"):
        return {"text/html": value._repr_html_(), "text/plain": type(value).__name__}
    return {"text/plain": repr(value)}


def main() -> None:
    cells, names = [], dict[str, Any]()
    if len(sys.argv) > 1:
        os.chdir(sys.argv[1])
    for number, text in enumerate(CELLS):
        lines = text.splitlines(keepends=True)
        cell: dict[str, Any] = {"id": f"cell-{number}", "cell_type": "markdown", "metadata": {}, "source": lines}
        if is_code(text):
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
            value = run(text, names) if len(sys.argv) > 1 else None
            if value is not None:
                cell["outputs"] = [
                    {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": shown(value)}
                ]
        cells.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (HERE / "notebook.ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
