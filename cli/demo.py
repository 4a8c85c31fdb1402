"""`epsopt demo`: the whole promise on real training runs, with the commands that a user would type."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.zoo.errors import EpsoptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import RDBStorage

    from epsopt.studies.project import Project
    from epsopt.studies.report import LoopReport

TARGET = 0.95


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
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sweep, the map and the search.")
@click.option("--fresh", is_flag=True, help="Start over if the folder holds a demo already.")
def command(out: Path, runs: int, proposals: int, jobs: int, seed: int, fresh: bool) -> None:
    """Run the whole promise on a small zoo that is trained for real: about four minutes on two cores.

    Trains a base and a random sweep of fine-tuning runs, reads their checkpoints, learns the map, searches it for
    coverage >= 0.95 with the most structure, proposes the next runs, trains those, and says what came of it.
    """
    from epsopt.cli.output import line, say

    _prepare(out, fresh)
    with contextlib.chdir(out):
        if Path("done").exists():
            say(f"{out} holds a finished demo (--fresh starts over); this is what it found:")
            _summary()
            return
        say(
            "A training program with a real trade-off: the more a run unfreezes its encoder, the better the structure "
            "of its embeddings (dist_corr) and the worse its coverage. Nobody gets both for nothing."
        )
        _stage(1, "train a zoo", f"python -m epsopt.demo.sweep --out runs --runs {runs} --jobs {jobs} --seed {seed}")
        sweep = [sys.executable, "-m", "epsopt.demo.sweep", "--out", "runs", "--runs", str(runs), "--jobs", str(jobs)]
        if subprocess.run([*sweep, "--seed", str(seed)], check=False).returncode:
            raise EpsoptError("the sweep failed, see above; a second 'epsopt demo' resumes it")
        _write_project()
        line("")
        line("epsopt.toml says what is better, what may be searched, and how a run is launched.")
        _epsopt(2, "read every checkpoint", "ingest")
        _epsopt(3, "learn the map", "fit", "--seed", str(seed))
        _epsopt(4, "search it for a target", "search", "--target-coverage", str(TARGET), "-n", "4", "--seed", str(seed))
        target = ["--target-coverage", str(TARGET), "--seed", str(seed)]
        _epsopt(5, "propose the next runs", "propose", "-n", str(proposals), *target)
        _train(jobs)
        Path("done").touch()
        _summary()


def _prepare(out: Path, fresh: bool) -> None:
    if fresh and out.exists():
        if not (out / "epsopt.toml").exists() and not (out / "runs").exists() and any(out.iterdir()):
            raise UsageError(
                f"{out} does not look like a demo's folder, so --fresh leaves it alone: name another --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _write_project() -> None:
    from epsopt.demo.space import SPACE
    from epsopt.optimize.space import Parameter, Space
    from epsopt.optimize.targets import Objective
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
            "-m",
            "epsopt.demo.train",
            "--out",
            "{out}",
            "--base",
            "runs/base/epoch_000.pt",
            *arguments,
        ),
        evaluate="epsopt.demo.hooks:evaluate",
        embed="epsopt.demo.hooks:embed",
        overwrite=True,
    )


def _stage(number: int, title: str, shown: str | None = None) -> None:
    from epsopt.cli.output import line

    line("")
    line(f"── {number}. {title} " + "─" * max(0, 74 - len(title)))
    if shown is not None:
        line(f"$ {shown}")


def _epsopt(number: int, title: str, *arguments: str) -> None:
    from epsopt.cli.main import group

    _stage(number, title, " ".join(["epsopt", *arguments]))
    group.main(args=list(arguments), prog_name="epsopt", standalone_mode=False)


def _train(jobs: int) -> None:
    from epsopt.cli.output import line
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import Workspace
    from epsopt.studies import load_project
    from epsopt.studies.loop import settle, train_waiting
    from epsopt.zoo.catalogue import Catalogue
    from epsopt.zoo.ingestion import ingest

    project = load_project(Path("epsopt.toml"))
    if project.space is None:
        raise UsageError(f"{project.file} declares no search space: add [space.NAME] tables")
    storage = Workspace(project, project.storage).studies()
    _stage(6, "train them")
    line("The train command of epsopt.toml, once for each proposal; their output is in logs/.")
    with working("training the proposals") as progress:
        trained = train_waiting(
            project, storage, project.space, jobs=jobs,
            progress=lambda done, total: progress("training the proposals", done / total),
        )  # fmt: skip
        with Catalogue(project.storage) as catalogue:
            ingest(catalogue, project.runs, embed=project.embed)
            settle(project, storage, project.space, trained, catalogue.checkpoints())
    for run in trained:
        line(f"{run.out.name}: {'trained' if run.failure is None else run.failure}")


def _summary() -> None:
    from epsopt.cli.output import line, say
    from epsopt.cli.workspace import Workspace
    from epsopt.studies import load_project, record_measured
    from epsopt.studies.report import loop_report
    from epsopt.zoo.catalogue import Catalogue

    project = load_project(Path("epsopt.toml"))
    storage = Workspace(project, project.storage).studies()
    with Catalogue(project.storage) as catalogue:
        checkpoints = catalogue.checkpoints()
    record_measured(storage, project.name, project.objectives, checkpoints)
    _stage(7, "what came of it")
    line(f"Target: coverage >= {TARGET:g}, then as much dist_corr as it goes.")
    line("")
    _tell_answers(project, storage)
    report = loop_report(project, storage, checkpoints)
    _tell_proposals(report)
    _tell_gain(report)
    line("")
    say(f"The Optuna studies of all this are in {Path.cwd().name}/epsopt.db. See them with")
    line(f"  cd {Path.cwd().name} && epsopt dashboard")


def _tell_answers(project: Project, storage: RDBStorage) -> None:
    """The search's answers, as its study kept them."""
    import optuna

    from epsopt.cli.describe import formatters, short_path
    from epsopt.cli.output import Head, Rows, label, line, print_table

    names = [n for n in optuna.get_all_study_names(storage) if n.startswith(f"{project.name}/search/")]
    trials = optuna.load_study(study_name=names[-1], storage=storage).get_trials(deepcopy=False)
    metrics = [o.name for o in project.objectives]
    texts = formatters(metrics, [dict(zip(metrics, t.values, strict=True)) for t in trials])
    groups, paths = [], []
    for i, trial in enumerate(trials, 1):
        near = trial.user_attrs["nearest"][0]
        predicted = [
            _with_interval(texts[name], value, *trial.user_attrs[f"interval.{name}"])
            for name, value in zip(metrics, trial.values, strict=True)
        ]
        found = f"{label(near['run'], near['epoch'], 20)} measured"
        measured = [texts[n](trial.user_attrs["nearest_metrics"].get(n)) for n in metrics]
        groups.append(Rows([[str(i), "predicted", *predicted], ["", found, *measured]]))
        paths.append(f"  {i}  {short_path(trial.user_attrs['nearest_path'])}")
    line("The map's answers, and the real checkpoint nearest to each:")
    print_table([Head("#"), Head("", "left"), *(Head(n) for n in metrics)], groups, keep=2)
    for path in paths:
        line(path)


def _with_interval(text: Callable[[float | None], str], point: float, low: float, high: float) -> str:
    return f"{text(point)} [{text(low)}, {text(high)}]"


def _tell_proposals(report: LoopReport) -> None:
    from epsopt.cli.describe import formatters
    from epsopt.cli.output import Head, Rows, line, listed, print_table, value

    names = [a.name for a in report.accuracy]
    shown = [m for p in report.proposals for m in (p.point, p.low, p.high, p.measured or {})]
    texts = formatters(names, shown)
    groups = []
    for p in report.proposals:
        predicted = [_with_interval(texts[n], p.point[n], p.low[n], p.high[n]) for n in names]
        if p.measured is None:
            measured = [p.state, *("" for _ in names[1:])]
        else:
            measured = [texts[n](p.measured.get(n)) for n in names]
        groups.append(Rows([[str(p.number), "predicted", *predicted], ["", "measured", *measured]]))
    line("")
    line("The proposed runs, predicted before they were trained and measured after:")
    print_table([Head("#"), Head("", "left"), *(Head(n) for n in names)], groups, keep=2)
    line("")
    for p in report.proposals:
        line(f"proposal_{p.number:03d}")
        listed(", ".join(f"{n} {value(v)}" for n, v in p.params.items()))
    line("")
    for a in report.accuracy:
        line(f"{a.name}: {a.inside} of {a.n} measurements inside their 90 % intervals, mean error {a.error:.3f}")


def _tell_gain(report: LoopReport) -> None:
    from epsopt.cli.output import label, say

    gain = report.gain
    runs = {report.new[i].run for i in gain.joined}
    say(
        f"Hypervolume of the measured front: {gain.before:.4f} before, {gain.after:.4f} after ({gain.relative:+.1%}); "
        f"{len(gain.joined)} new checkpoints of {len(runs)} proposed runs are on it."
    )
    for title, group in (("before", report.old), ("after", (*report.old, *report.new))):
        able = [
            c for c in group if (c.metrics.get("coverage") or 0.0) >= TARGET and c.metrics.get("dist_corr") is not None
        ]
        if able:
            best = max(able, key=lambda c: c.metrics["dist_corr"] or 0.0)
            say(
                f"Best dist_corr with coverage >= {TARGET}, {title}: {best.metrics['dist_corr']:.3f} "
                f"({label(best.run, best.epoch, 40)})"
            )
