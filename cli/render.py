"""Checkpoints, predictions and objectives as rows of a table and as JSON: what several commands show alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsopt.cli.output import (
    Head,
    Rows,
    formatter,
    metric_head,
    one_line,
    print_line,
    print_list,
    print_table,
    print_wrapped,
    value,
)

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.figures.protocols import Interval
    from epsopt.optimize.latent.neighbours import Neighbour
    from epsopt.optimize.objectives import Objective, Target
    from epsopt.studies.protocols import Measured
    from epsopt.zoo.catalogue.types import Checkpoint

HIDDEN = "--details prints their hyperparameters."

Texts = dict[str, Callable[[float | None], str]]


def formatters(
    names: Sequence[str],
    shown: Iterable[Mapping[str, float | None]],
    checkpoints: Sequence[Checkpoint] | None = None,
) -> Texts:
    """Return how to write each metric, chosen from all values that will be shown of it.

    Args:
        names: of the metrics.
        shown: values by name.
        checkpoints: whose measurements say how large the metrics usually are; by default what is shown does.
    """
    rows = list(shown)
    usual = [c.metrics for c in checkpoints or ()] or rows
    return {name: formatter((row.get(name) for row in rows), (u.get(name) for u in usual)) for name in names}


def metric_heads(names: Sequence[str], objectives: Sequence[Objective], targets: Sequence[Target] = ()) -> list[Head]:
    """Return the columns of metrics, each with its target or direction below its name."""
    wanted = {t.name: t.value for t in targets}
    directions = {o.name: o.maximize for o in objectives}

    def second(name: str) -> str:
        if name not in directions:
            return ""
        if name in wanted:
            return f"{'≥' if directions[name] else '≤'} {wanted[name]:g}"
        return "max" if directions[name] else "min"

    return [metric_head(name, second(name)) for name in names]


def predicted_rows(predicted: Interval, names: Sequence[str], texts: Texts, title: str, level: float) -> Rows:
    """Return a row of points and a row of intervals, each beginning with its label."""

    def interval(name: str) -> str:
        return f"[{texts[name](predicted.low[name])}, {texts[name](predicted.high[name])}]"

    points = [title, *(texts[n](predicted.point[n]) for n in names)]
    return Rows([points, [f"{level:.0%} interval".replace("%", " %"), *map(interval, names)]], frozenset({1}))


def measured_row(title: str, metrics: Mapping[str, float | None], names: Sequence[str], texts: Texts) -> list[str]:
    """Return a row of measured values."""
    return [title, *(texts[n](metrics.get(n)) for n in names)]


def near_label(neighbour: Neighbour, labels: RunLabels) -> str:
    """Name a neighbour with its latent distance: ``run_012:7 (0.41)``."""
    return f"{labels(neighbour.run, neighbour.epoch)} ({neighbour.distance:.2f})"


def varying(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return the hyperparameters that differ between runs; seeds and paths are none."""
    from epsopt.optimize.space_inference import infer_space
    from epsopt.zoo.errors import UsageError

    try:
        space = infer_space(list({c.run_id: c.hyperparameters for c in checkpoints}.values()))
    except UsageError:
        return []
    return [p.name for p in space.parameters]


def list_runs(checkpoints: Iterable[Measured], names: Sequence[str], labels: RunLabels, *, details: bool) -> None:
    """Print the checkpoints' files run by run, nothing twice, and with `details` what sets each run apart.

    What runs are called comes first, so that this is the legend of the table above, too.

    Args:
        checkpoints: in the order in which they are listed.
        names: hyperparameters that differ between runs.
        labels: what runs are called.
        details: whether hyperparameters are printed; otherwise a last line says how to have them.
    """
    runs: dict[tuple[str, str], list[Measured]] = {}
    for c in {c.sha256: c for c in checkpoints}.values():
        runs.setdefault((c.run, repr(sorted(c.hyperparameters.items()))), []).append(c)
    for members in runs.values():
        known = [f"{n} {value(v)}" for n in names if details and (v := members[0].hyperparameters.get(n)) is not None]
        print_line(labels(members[0].run) + (":" if known else ""))
        if known:
            print_list(", ".join(known))
        for c in members:
            print_line(f"  {short_path(c.path)}")
    if names and runs and not details:
        print_wrapped(HIDDEN)


def short_path(path: str | Path) -> str:
    """Return a path from the current folder, when it lies below it; of a checkpoint in several files its folder."""
    from epsopt.zoo.reading.shards import shards

    path = Path(path)
    path = path.parent if len(shards(path)) > 1 else path
    try:
        return one_line(str(path.relative_to(Path.cwd())))
    except ValueError:
        return one_line(str(path))


def checkpoint_table(
    checkpoints: Sequence[Measured],
    names: Sequence[str],
    objectives: Sequence[Objective],
    labels: RunLabels,
    extra: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Print checkpoints with their measured metrics, one a row, and one more column if there is one."""
    texts = formatters(names, (c.metrics for c in checkpoints))
    heads = [Head("checkpoint", "left"), *([Head(extra[0])] if extra else []), *metric_heads(names, objectives)]
    rows = []
    for i, c in enumerate(checkpoints):
        cells = [labels(c.run, c.epoch), *([extra[1][i]] if extra else [])]
        rows.append(Rows([[*cells, *(texts[n](c.metrics.get(n)) for n in names)]]))
    print_table(heads, rows, keep=1)


def objective_json(objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Return objectives as JSON values."""
    return [{"name": o.name, "direction": "maximize" if o.maximize else "minimize"} for o in objectives]


def target_json(targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Return targets as JSON values."""
    return [{"name": t.name, "value": t.value} for t in targets]


def predicted_json(predicted: Interval) -> dict[str, Any]:
    """Return predicted metrics as JSON values."""
    return {n: {"value": v, "low": predicted.low[n], "high": predicted.high[n]} for n, v in predicted.point.items()}


def checkpoint_json(checkpoint: Measured) -> dict[str, Any]:
    """Return a checkpoint as JSON values."""
    return {
        "run": checkpoint.run,
        "epoch": checkpoint.epoch,
        "path": checkpoint.path,
        "sha256": checkpoint.sha256,
        "metrics": dict(checkpoint.metrics),
        "hyperparameters": dict(checkpoint.hyperparameters),
    }


def neighbour_json(neighbour: Neighbour) -> dict[str, Any]:
    """Return a neighbour as JSON values."""
    return {**checkpoint_json(neighbour), "distance": neighbour.distance}


def failure_json(failed: Sequence[Any]) -> list[dict[str, Any]]:
    """Return unreadable files as JSON values."""
    return [{"path": f.path, "reason": f.reason} for f in failed]
