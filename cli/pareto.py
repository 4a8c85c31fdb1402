"""`epsopt pareto`: the measured checkpoints that no other one beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, details_option, overwrite_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import Checkpoint

_MOST_RUNS = 8  # whose files are listed below the table


@click.command("pareto")
@click.option("--objective", "chosen", multiple=True, metavar="NAME", help="Only these objectives; may be repeated.")
@click.option("--all-metrics", is_flag=True, help="Every metric of the catalogue, directions guessed where undeclared.")
@details_option
@picture_option
@overwrite_option
@common
def command(
    options: Options, chosen: tuple[str, ...], all_metrics: bool, details: bool, picture: Path | None, overwrite: bool
) -> None:
    """Show the measured checkpoints that no other one beats in every objective."""
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.render import checkpoint_json, objective_json
    from epsopt.cli.workspace import check_objectives, measured, open_workspace

    if chosen and all_metrics:
        raise UsageError("--objective and --all-metrics exclude each other")
    with working("loading the catalogue"):
        workspace = open_workspace(options)
        project = workspace.require_project()
        import numpy as np

        from epsopt.optimize.objectives import Objectives, measured_table
        from epsopt.optimize.pareto import non_dominated

        with workspace.catalogue() as catalogue:
            checkpoints, metrics = measured(catalogue), catalogue.metric_names()
            file = picture_file(picture, catalogue, overwrite=overwrite)
        objectives = _choose(check_objectives(project, metrics), chosen, metrics if all_metrics else (), project)
        table = measured_table([c.metrics for c in checkpoints], objectives)
        measured_ones = measured_table([c.metrics for c in checkpoints], [replace(o, limit=None) for o in objectives])
        found = non_dominated(table, Objectives(objectives).maximize)
        n_missing = int(np.isnan(measured_ones).any(axis=1).sum())
        n_beyond = found.n_nan - n_missing
        order = sorted(found.indices.tolist(), key=lambda i: -table[i, 0] if objectives[0].maximize else table[i, 0])
        front = [checkpoints[i] for i in order]
        if file is not None:
            from epsopt.figures import front as front_figure

            save_picture(front_figure(objectives, checkpoints, title="Measured front"), file)
    if options.json:
        print_json(
            {
                "objectives": objective_json(objectives),
                "front": [checkpoint_json(c) for c in front],
                "n_checkpoints": len(checkpoints),
                "n_left_out": n_missing,
                "n_beyond_limits": n_beyond,
            }
        )
    else:
        whole = [c.sha256 for c, row in zip(checkpoints, measured_ones, strict=True) if not np.isnan(row).any()]
        on_front = set(map(tuple, table[found.indices].tolist()))
        alike = {c.sha256 for c, row in zip(checkpoints, table.tolist(), strict=True) if tuple(row) in on_front}
        n_alike = len(alike - {c.sha256 for c in front})
        _show(front, checkpoints, objectives, whole, n_beyond, n_alike, details=details)
        tell_picture(picture)


def _show(
    front: list[Checkpoint],
    checkpoints: list[Checkpoint],
    objectives: list[Objective],
    measured: list[str],
    n_beyond: int,
    n_alike: int,
    *,
    details: bool,
) -> None:
    from epsopt.cli.output import print_wrapped
    from epsopt.cli.render import checkpoint_table, list_runs, varying
    from epsopt.cli.run_labels import RunLabels
    from epsopt.studies.diagnosis import by_run
    from epsopt.studies.project.metric_doubts import metric_doubts

    if front:
        labels = RunLabels.of(checkpoints)
        checkpoint_table(front, [o.name for o in objectives], objectives, labels)
        print_wrapped()
    are = "is" if len(front) == 1 else "are"
    print_wrapped(
        f"{len(front)} of {len(measured)} measured checkpoints {are} beaten by no other in all objectives at once."
    )
    if copies := len(measured) - len(set(measured)):
        held = "holds what another of them holds, and is" if copies == 1 else "hold what others of them hold, and are"
        print_wrapped(f"{copies} of them {held} counted in each run.")
    if n_alike:
        print_wrapped(
            f"{n_alike} more measured exactly the same as {'it' if len(front) == 1 else 'one of them'}, and "
            f"{'is' if n_alike == 1 else 'are'} not shown."
        )
    if n_missing := len(checkpoints) - len(measured):
        more = "other lacks" if n_missing == 1 else "others lack"
        left = "is" if n_missing == 1 else "are"
        print_wrapped(f"{n_missing} {more} an objective (not measured, or NaN) and {left} left out.")
    for text in metric_doubts([o.name for o in objectives], by_run(checkpoints)):
        print_wrapped(f"{text}.")
    if n_beyond:
        limits = [
            f"{o.name} {'at least' if o.maximize else 'at most'} {o.limit:g}" for o in objectives if o.limit is not None
        ]
        print_wrapped(f"{n_beyond} miss a limit ({', '.join(limits)}) and are left out.")
    if not front:
        return
    if len({c.run_id for c in front}) > _MOST_RUNS and not details:
        labels.print_legend([c.run for c in front])
        print_wrapped("--details prints their files and hyperparameters.")
        return
    print_wrapped()
    list_runs(front, varying(checkpoints), labels, details=details)


def _choose(
    objectives: tuple[Objective, ...], chosen: tuple[str, ...], metrics: tuple[str, ...] | list[str], project: Project
) -> list[Objective]:
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.project.metric_direction import guess_maximize

    known = {o.name: o for o in objectives}
    for name in chosen:
        if name not in known:
            raise UsageError(f"--objective {name}: {project.file} names no such objective, known: {', '.join(known)}")
    if chosen:
        return [known[name] for name in dict.fromkeys(chosen)]
    for name in metrics:
        if name not in known:
            better = guess_maximize(name)
            if better is None:
                raise UsageError(
                    f"which way is {name} better? Add [objectives.{name}] with direction = "
                    f'"maximize" or "minimize" to {project.file}'
                )
            known[name] = Objective(name, better)
    return list(known.values())
