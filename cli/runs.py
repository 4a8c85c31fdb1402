"""`epsopt runs`: every run, how far it has come, what it measured last, and what of it is on the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, overwrite_option
from epsopt.cli.pictures import picture_option

if TYPE_CHECKING:
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.report.run_list import ListedRun
    from epsopt.zoo.catalogue.types import Checkpoint

_MOST_EPOCHS = 3  # on the front that are named; of more their number says as much


@click.command("runs")
@click.option("--front", "only_front", is_flag=True, help="Only runs with a checkpoint on the measured front.")
@click.option("--state", metavar="STATE", help="Only runs of this state, such as past, waiting or failed.")
@picture_option
@overwrite_option
@common
def command(options: Options, only_front: bool, state: str | None, picture: Path | None, overwrite: bool) -> None:
    """List every run: its state, its epochs, what it measured last, and its checkpoints on the measured front.

    Runs that epsopt did not launch are "past"; of a proposal the state is what became of it. --picture draws a line
    for each run that is listed, from its hyperparameters to what it measured last.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.render import objective_json
    from epsopt.cli.workspace import check_objectives, open_workspace

    with working("loading the catalogue"):
        workspace = open_workspace(options)
        project = workspace.require_project()
        from epsopt.studies.optuna_io.stored_trials import proposed_trials
        from epsopt.studies.report.run_list import list_runs

        with workspace.catalogue() as catalogue:
            checkpoints, metrics = catalogue.checkpoints(), catalogue.metric_names()
            file = picture_file(picture, catalogue, overwrite=overwrite)
        objectives = check_objectives(project, metrics) if checkpoints else project.objectives
        everything = list_runs(project, objectives, checkpoints, proposed_trials(workspace.proposals(), project.name))
        shown = _chosen(everything, only_front=only_front, state=state)
        if file is not None:
            from epsopt.figures import parallel

            listed = {r.run for r in shown}
            save_picture(parallel(objectives, [c for c in checkpoints if c.run in listed]), file)
    if options.json:
        print_json({
            "objectives": objective_json(objectives),
            "runs": [{**asdict(run), "on_front": list(run.on_front)} for run in shown],
            "n_runs": len(everything),
        })  # fmt: skip
    else:
        _show(shown, len(everything), checkpoints, objectives)
        tell_picture(picture)


def _word(state: str) -> str:
    from epsopt.studies.report.report import WORDS

    return WORDS.get(state, state)


def _chosen(runs: Sequence[ListedRun], *, only_front: bool, state: str | None) -> list[ListedRun]:
    from epsopt.studies.report.report import WORDS
    from epsopt.studies.report.run_list import MERGED, PAST
    from epsopt.zoo.errors import UsageError

    known = [PAST, "waiting", "running", *WORDS.values(), MERGED]
    if state is not None and state not in known and state not in WORDS:
        raise UsageError(f"--state {state}: there is no such state, known: {', '.join(known)}")
    wanted = (r for r in runs if state is None or state in (r.state, _word(r.state)))
    return [r for r in wanted if r.on_front or not only_front]


def _show(
    shown: Sequence[ListedRun], total: int, checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]
) -> None:
    from epsopt.cli.output import Head, Rows, print_table, print_wrapped
    from epsopt.cli.render import formatters, metric_heads
    from epsopt.cli.run_labels import RunLabels
    from epsopt.zoo.formatting import count

    labels = RunLabels.of(checkpoints)
    names = [o.name for o in objectives]
    texts = formatters(names, (r.metrics for r in shown))
    # A Trainer of transformers numbers its checkpoints by steps.
    unit = "step" if checkpoints and all("hugging-face" in c.layout for c in checkpoints) else "epoch"
    heads = [Head("run", "left"), Head("state", "left"), Head(f"last\n{unit}"), *metric_heads(names, objectives)]
    rows = [
        Rows([[
            labels(r.run), _word(r.state), "-" if r.epoch is None else str(r.epoch),
            *(texts[n](r.metrics.get(n)) for n in names), _on_front(r),
        ]])
        for r in shown
    ]  # fmt: skip
    if rows:
        print_table([*heads, Head(f"{unit}s on\nthe front")], rows, keep=1)
        print_wrapped()
    some = f"{len(shown)} of {count(total, 'run')}" if len(shown) != total else count(total, "run")
    if not total:
        print_wrapped("No run yet: read your runs with 'epsopt ingest RUNS', or queue some with 'epsopt propose'.")
        return
    counts: dict[str, int] = {}
    for r in shown:
        counts[_word(r.state)] = counts.get(_word(r.state), 0) + 1
    counted = ", ".join(f"{n} {word}" for word, n in counts.items())
    print_wrapped(
        f"{some}{': ' if counted else ''}{counted}. Metrics are those of each run's last measured checkpoint."
    )
    labels.print_legend([r.run for r in shown])


def _on_front(run: ListedRun) -> str:
    known = [str(e) for e in run.on_front if e is not None]
    if len(known) == len(run.on_front) <= _MOST_EPOCHS:
        return ", ".join(known)
    return f"{len(run.on_front)} of them"
