"""`epsopt demo`: every step on real training runs, with the commands that a user would type."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from epsopt.zoo.child_processes import environment, python_command
from epsopt.zoo.errors import EpsoptError, UsageError

TARGET = 0.95
FURTHER = 50.0
MERGES = 12
EPOCHS = 12
PRUNE_BELOW = 0.1
_MARK = (
    ".epsopt-demo"  # tells a folder that the demo may start over in from one that it must not touch; holds its options
)


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True,
    help="Folder for everything that the demo makes.",
)  # fmt: skip
@click.option("--runs", type=click.IntRange(min=10), default=36, show_default=True, help="Runs of the random sweep.")
@click.option(
    "--proposals", type=click.IntRange(min=1), default=6, show_default=True, help="Runs to propose and train."
)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="At a time.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sweep, the map and the search."
)
@click.option("--fresh", is_flag=True, help="Start over if the folder holds a demo already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/schemas); the story on stderr.")
def command(out: Path, runs: int, proposals: int, jobs: int, seed: int, fresh: bool, as_json: bool) -> None:
    """Run every step on a small zoo that is trained for real: about nine minutes on two cores.

    Trains a base and a random sweep of fine-tuning runs, reads their checkpoints, learns the map, searches it for
    coverage >= 0.95 with the most structure, proposes the next runs, trains those, measures merges of all that was
    trained, spends a few epochs more step by step, and says what came of it.
    """
    from epsopt.cli.output import print_wrapped

    options = {"runs": runs, "proposals": proposals, "seed": seed}
    source = click.get_current_context().get_parameter_source
    given = {n: v for n, v in options.items() if source(n) is click.core.ParameterSource.COMMANDLINE}
    options = prepare_folder(out, fresh, options, given)
    with contextlib.chdir(out):
        if Path("done").exists():
            if not as_json:
                print_wrapped(f"{out} holds a finished demo (--fresh starts over); this is what it found:")
        else:
            with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
                study = _story(jobs=jobs, **options)
            Path("done").write_text(study)
        _summary(as_json=as_json)


def _story(*, runs: int, proposals: int, jobs: int, seed: int) -> str:
    """Tell it, and return the name of the search's study."""
    from epsopt.cli.output import print_line, print_wrapped

    print_wrapped(
        "A training program with a real trade-off: the more a run unfreezes its encoder, the better the structure "
        "of its embeddings (dist_corr) and the worse its coverage. Nobody gets both for nothing."
    )
    _stage(1, "train a zoo", f"python -m epsopt.demo.sweep --out runs --runs {runs} --jobs {jobs} --seed {seed}")
    sweep = [*python_command("epsopt.demo.sweep"), "--out", "runs", "--runs", str(runs), "--jobs", str(jobs)]
    if subprocess.run([*sweep, "--seed", str(seed)], check=False, stdout=2, env=environment()).returncode:
        raise EpsoptError("the sweep failed, see above; a second 'epsopt demo' resumes it")
    _write_project()
    print_line("")
    print_wrapped("epsopt.toml says what is better, what may be searched, and how a run is launched.")
    _epsopt(2, "read every checkpoint", "ingest")
    _epsopt(3, "learn the map", "fit", "--seed", str(seed))
    before = recorded_searches()
    _epsopt(4, "search it for a target", "search", "--target-coverage", str(TARGET), "-n", "4", "--seed", str(seed))
    study = searched_study(before, recorded_searches())
    asked = ["propose", "-n", str(proposals), "--reuse", "--seed", str(seed)]
    _epsopt(5, "propose runs that widen the front, from the base or from a checkpoint", *asked)
    _train(jobs)
    _merge(seed)
    _spend()
    return study


def searched_study(before: Sequence[str], after: Sequence[str]) -> str:
    """Name the study of a search: the new one, or else the newest: it was made before, and is found again.

    Args:
        before: names of studies before the search.
        after: names after it.

    Raises:
        EpsoptError: there is none after it either.
    """
    new = [name for name in after if name not in before]
    if not after:
        raise EpsoptError("the search recorded no study, see above; a second 'epsopt demo' resumes")
    return (new or list(after))[-1]


def recorded_searches() -> list[str]:
    """Return names of the studies of searches so far, the newest last; version 0.1 named them by a digest.

    Returns:
        One name a study of the project in the current folder.
    """
    import optuna

    from epsopt.studies import load_project, open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = optuna.get_all_study_names(open_storage(load_project(Path("epsopt.toml")).storage))
    return [name for name in names if name.startswith(("demo/search ", "demo/search/"))]


def prepare_folder(out: Path, fresh: bool, options: dict[str, int], given: dict[str, int]) -> dict[str, int]:
    """Make the demo's folder; one that holds anything else, or a demo of other options, is left alone.

    Args:
        out: the folder.
        fresh: whether a demo in it gives way.
        options: what the demo is to be made with.
        given: those of them that were asked for; a demo that has begun keeps its own where nothing was.

    Returns:
        The options of the demo in the folder.
    """
    mark = out / _MARK
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise UsageError(f"{out} holds files that are not a demo's, so it is left alone: name another --out")
    if fresh and out.exists():
        shutil.rmtree(out)
    if mark.exists():
        begun = {**options, **json.loads(mark.read_text() or "{}")}
        for name, value in given.items():
            if begun[name] != value:
                raise UsageError(
                    f"{out} holds a demo with --{name} {begun[name]}, not {value}: ask for the same, "
                    "start over with --fresh, or name another --out"
                )
        options = begun
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(options))
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{out}: the demo's folder cannot be made: {why}: name another --out") from error
    return options


def _write_project() -> None:
    from epsopt.demo.space import SPACE
    from epsopt.optimize.objectives import Objective
    from epsopt.optimize.space import Parameter, Space
    from epsopt.studies import write_project

    parameters: list[Parameter] = []
    arguments: list[str | tuple[str, ...]] = []
    for p in SPACE:
        condition = next(((parent, tuple(values)) for parent, values in p.active_when.items()), None)
        parameters.append(Parameter(p.name, p.kind, p.low, p.high, p.log, p.choices, condition))
        pair = (f"--{p.name.replace('_', '-')}", f"{{{p.name}}}")
        arguments += [pair] if condition else list(pair)
    write_project(
        Path("epsopt.toml"),
        name="demo",
        runs="runs",
        objectives=[Objective("coverage", maximize=True), Objective("dist_corr", maximize=True)],
        bounds={"coverage": (0.0, 1.0)},
        space=Space(tuple(parameters)),
        command=(
            "{python}",
            "-P",
            "-m",
            "epsopt.demo.train",
            "--out",
            "{out}",
            ("--init-from", "{init_from}"),
            ("--epochs", "{epochs}"),
            *arguments,
        ),
        evaluate="epsopt.demo.hooks:evaluate",
        embed="epsopt.demo.hooks:embed",
        overwrite=True,
    )


def _stage(number: int, title: str, shown: str | None = None) -> None:
    from epsopt.cli.output import print_line

    print_line("")
    print_line(f"── {number}. {title} " + "─" * max(0, 72 - len(title)))
    if shown is not None:
        print_line(f"$ {shown}")


def _epsopt(number: int, title: str, *arguments: str) -> None:
    from epsopt.cli.main import group

    _stage(number, title, " ".join(["epsopt", *arguments]))
    group.main(args=list(arguments), prog_name="epsopt", standalone_mode=False)


def _train(jobs: int) -> None:
    from epsopt.cli.main import group
    from epsopt.cli.output import print_wrapped

    asked = ["work", "--jobs", str(jobs), "--learn-after", "3", "--prune-below", str(PRUNE_BELOW)]
    _stage(6, "train them", " ".join(["epsopt", *asked]))
    print_wrapped(
        "The train command of epsopt.toml, once for each; their output is in runs/proposal_*/stdout.txt. A run that "
        "will hardly widen the front is stopped, and the map learns from what comes back while others train."
    )
    group.main(args=asked, prog_name="epsopt", standalone_mode=False)


def _merge(seed: int) -> None:
    from epsopt.cli.main import group
    from epsopt.cli.output import print_line, print_wrapped

    asked = ["merge", "--budget", str(MERGES), "--seed", str(seed)]
    _stage(7, "merge what was trained", " ".join(["epsopt", *asked]))
    print_wrapped("Every run left a direction in weight space; no training is needed to try how far to go along which.")
    print_line("")
    group.main(args=asked, prog_name="epsopt", standalone_mode=False)
    print_line("")
    print_line("$ epsopt ingest")
    group.main(args=["ingest"], prog_name="epsopt", standalone_mode=False)


def _spend() -> None:
    from epsopt.cli.main import group
    from epsopt.cli.output import print_wrapped

    asked = ["work", "--budget", str(EPOCHS)]
    _stage(8, "spend some epochs one step after another", " ".join(["epsopt", *asked]))
    print_wrapped(
        "A run from the base, a branch of a few epochs from a checkpoint of the front, or one more merge: whatever "
        "is worth most for each epoch, chosen anew after each step. A run that is worth too little is stopped."
    )
    group.main(args=asked, prog_name="epsopt", standalone_mode=False)


def _summary(*, as_json: bool) -> None:
    from epsopt.cli.loop_tables import (
        outcome_json,
        show_accuracy,
        show_answers,
        show_gain,
        show_proposals,
        show_steps,
    )
    from epsopt.cli.output import print_json, print_line, print_wrapped
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import Workspace
    from epsopt.optimize.objectives import Target
    from epsopt.studies import load_project, record_runs
    from epsopt.studies.report.report import loop_report
    from epsopt.studies.schedule.budget import measured_merges
    from epsopt.studies.schedule.remaining import project_remaining_gain, remaining_sentence
    from epsopt.zoo.catalogue.catalogue import Catalogue

    project = load_project(Path("epsopt.toml"))
    storage = Workspace(project, project.storage).studies()
    with Catalogue(project.storage) as catalogue:
        checkpoints, merges = catalogue.checkpoints(), measured_merges(catalogue, project.name)
    record_runs(storage, project.name, project.objectives, checkpoints)
    report = loop_report(project, storage, checkpoints, merges)
    target = Target("coverage", TARGET)
    if as_json:
        print_json(outcome_json(report, target))
        return
    _stage(9, "what came of it")
    print_line(f"Target: coverage >= {TARGET:g}, then as much dist_corr as it goes.")
    print_line("")
    show_answers(Path("done").read_text(), project.objectives, storage, RunLabels.of(checkpoints))
    print_line("")
    show_proposals(report, project.objectives)
    show_steps(report)
    show_accuracy(report)
    show_gain(report, project.objectives, target)
    with Catalogue(project.storage) as catalogue:
        print_wrapped(remaining_sentence(project_remaining_gain(project, storage, catalogue, FURTHER), FURTHER))
    print_line("")
    print_wrapped(f"The Optuna studies of all this are in {Path.cwd().name}/epsopt.db. See them with")
    print_line(f"  cd {Path.cwd().name} && epsopt dashboard")
