"""`epsopt propose`: the next training configs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, TargetCommand, common, level_option, overwrite_option, seed_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.errors import UsageError
from epsopt.zoo.formatting import count as counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.storages import RDBStorage

    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import MeasuredProject
    from epsopt.optimize.objectives import Objective, Target
    from epsopt.optimize.proposals.proposals import Proposal
    from epsopt.studies.output_files import OutputFile
    from epsopt.studies.project.project import Project
    from epsopt.studies.worker.proposals import ProposalBatch

FORMATS = ("table", "json", "yaml", "csv", "hydra", "shell", "optuna")


@click.command("propose", cls=TargetCommand)
@click.option("--count", "-n", type=click.IntRange(min=1), default=8, show_default=True, help="How many.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True,
    help="hydra: overrides for -m, one line a run. shell: train commands, below comments. optuna: the study and its "
    "trials. What is predicted, and why they were chosen, is in all of them; of hydra and optuna, on standard error. "
    "Whatever the format, they are queued for 'epsopt work' too: if something else trains them, add --no-record.",
)  # fmt: skip
@click.option("--reuse", is_flag=True, help="Let half of them start from checkpoints of the front ({init_from}).")
@level_option
@seed_option
@click.option("--no-record", is_flag=True, help="Do not queue them as an Optuna study.")
@picture_option
@overwrite_option
@common
def command(
    options: Options,
    wanted: dict[str, float],
    count: int,
    form: str,
    reuse: bool,
    level: float,
    seed: int,
    no_record: bool,
    picture: Path | None,
    overwrite: bool,
) -> None:
    """Propose the next training configs, predict what they reach, and queue them for `epsopt work`.

    They are learned from all past runs and need no map; what ran, runs or waits is not proposed again. The search
    space is the project file's, else it is inferred from past runs.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import opened_picture_file, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import OpenProject, note_followed, note_unseen_arguments, open_measured
    from epsopt.studies.optuna_io.stored_trials import study_name

    form = "json" if options.json else form
    if form == "optuna" and no_record:
        raise UsageError("--format optuna queues the proposals: leave --no-record out")
    with working("loading what was measured") as progress:
        opened = open_measured(options, wanted)
        project = opened.project
        if form == "shell":
            project.require_command()
        file = opened_picture_file(picture, opened, overwrite=overwrite)
        from epsopt.studies.export import as_hydra
        from epsopt.studies.worker.proposals import propose_next

        storage = _studies(opened, no_record=no_record)
        if not no_record and storage is not None:
            note_followed(storage, project)
        proposed = propose_next(
            project, storage, opened.checkpoints, opened.objectives, opened.targets,
            metrics=_metrics_of_map(opened), n=count, level=level, seed=seed, reuse=reuse,
            record=not no_record, check=as_hydra if form == "hydra" else None, progress=progress,
        )  # fmt: skip
        if file is not None:
            _draw(opened, proposed, file)
    if isinstance(opened, OpenProject):
        opened.note_unseen()
    note_unseen_arguments(project)
    study = None if no_record else study_name(project.name)
    commands = [_command(project, p, number) for p, number in zip(proposed.proposals, proposed.numbers, strict=True)]
    if form == "json":
        print_json({**_document(opened, proposed, commands, study), "level": level, "seed": seed})
    elif form == "table":
        _show(proposed, opened.objectives, opened.targets, level, RunLabels.of(opened.checkpoints))
        _print_summary(proposed, project, study)
        tell_picture(picture)
    else:
        explain_proposals(form, proposed, project, study, level)
        print(_formatted(form, proposed, commands, project, study, level), end="")  # noqa: T201 - for other programs


def _metrics_of_map(opened: MeasuredProject) -> tuple[str, ...]:
    """Metrics that the map predicts; none without a map, so that the objectives alone are predicted."""
    from epsopt.cli.workspace import OpenProject

    return opened.surrogate.metric_names if isinstance(opened, OpenProject) else ()


def _studies(opened: MeasuredProject, *, no_record: bool) -> RDBStorage | None:
    """The project's studies; None where there are none and none is to be made."""
    from epsopt.studies.optuna_io.storage import has_studies

    workspace = opened.workspace
    return workspace.studies() if not no_record or has_studies(workspace.storage) else None


def _draw(opened: MeasuredProject, proposed: ProposalBatch, file: OutputFile) -> None:
    from epsopt.cli.pictures import save_picture
    from epsopt.figures import front

    title = "Measured front, and proposals as predicted"
    save_picture(front(opened.objectives, opened.checkpoints, proposed.proposals, opened.targets, title=title), file)


def explain_proposals(form: str, proposed: ProposalBatch, project: Project, study: str | None, level: float) -> None:
    """Say on standard error what a format has no place for."""
    from epsopt.cli.output import note
    from epsopt.studies.export import in_words

    if form in ("hydra", "optuna"):
        numbers = [None if study is None else n for n in proposed.numbers]
        for text in in_words(proposed.proposals, numbers, level):
            click.echo(text, err=True)
    if project.space is None:
        note(f"{_inferred(proposed)} {'; '.join(_ranges(proposed))}")
    if form in ("hydra", "shell") and study is not None:
        note("the proposals are queued, so 'epsopt work' trains them too: if something else does, add --no-record")


def _formatted(
    form: str,
    proposed: ProposalBatch,
    commands: list[list[str] | None],
    project: Project,
    study: str | None,
    level: float,
) -> str:
    from epsopt.studies.export import as_csv, as_hydra, as_shell, as_yaml, in_words

    numbers = [None if study is None else n for n in proposed.numbers]
    if form == "yaml":
        return as_yaml(proposed.proposals, numbers)
    if form == "csv":
        return as_csv(proposed.proposals, numbers)
    if form == "hydra":
        return as_hydra(proposed.proposals)
    if form == "shell":
        comments = in_words(proposed.proposals, numbers, level)
        return as_shell([c for c in commands if c is not None], project.cwd, comments)
    return "".join(f"{study}\t{n}\n" for n in numbers)


def _document(
    opened: MeasuredProject, proposed: ProposalBatch, commands: list[list[str] | None], study: str | None
) -> dict[str, Any]:
    from epsopt.cli.render import objective_json, predicted_json, target_json
    from epsopt.cli.workspace import OpenProject

    on_map = opened if isinstance(opened, OpenProject) else None
    return {
        "objectives": objective_json(opened.objectives),
        "targets": target_json(opened.targets),
        "space": {
            "inferred": opened.project.space is None,
            "parameters": [p.as_json() for p in proposed.space.parameters],
        },
        "proposals": [
            {
                "number": None if study is None else number,
                "params": dict(p.params),
                "fixed": dict(p.fixed),
                "init_from": p.init_from,
                "predicted": predicted_json(p),
                "probability": p.probability,
                "joins_front": p.joins_front,
                "nearest_runs": [{"run": run, "distance": distance} for run, distance in p.nearest_runs],
                "reason": p.reason,
                "command": arguments,
            }
            for p, number, arguments in zip(proposed.proposals, proposed.numbers, commands, strict=True)
        ],
        "n_past_runs": proposed.n_past,
        "n_unseen": len(opened.checkpoints) if on_map is None else on_map.n_unseen,
        "trained_on": None if on_map is None else on_map.surrogate.trained_on,
        "study": study,
    }


def _command(project: Project, proposal: Proposal, number: int) -> list[str] | None:
    if project.command is None:
        return None
    from epsopt.studies import render_command
    from epsopt.studies.optuna_io.run_folders import run_folder

    params = {**proposal.fixed, **proposal.params}
    return render_command(project.command, params, run_folder(project, number), proposal.init_from, seed=number)


def _show(
    proposed: ProposalBatch,
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    level: float,
    labels: RunLabels,
) -> None:
    from epsopt.cli.output import Head, Rows, print_line, print_list, print_table, print_wrapped, targets_hold, value
    from epsopt.cli.render import formatters, metric_heads, predicted_rows, short_path

    proposals, numbers, space = proposed.proposals, proposed.numbers, proposed.space
    names = [o.name for o in objectives]
    texts = formatters(names, [m for p in proposals for m in (p.point, p.low, p.high)])
    groups = []
    for number, p in zip(numbers, proposals, strict=True):
        title = "predicted" if p.probability is None else f"predicted, P {p.probability:.2f}"
        rows, dim = predicted_rows(p, names, texts, title, level)
        groups.append(Rows([[str(number), *rows[0]], ["", *rows[1]]], dim))
    print_table([Head("#"), Head("", "left"), *metric_heads(names, objectives, targets)], groups, keep=2)
    print_wrapped()
    for number, p in zip(numbers, proposals, strict=True):
        print_wrapped(f"{number}  {labels.in_text(p.reason)}")
        print_list(
            ", ".join(f"{q.name} {value(p.params[q.name])}" for q in space.parameters if q.name in p.params), "   "
        )
        if p.init_from is not None:
            print_line(f"   init_from {short_path(p.init_from)}")
        near = ", ".join(f"{labels(run)} ({distance:.2f})" for run, distance in p.nearest_runs)
        print_list(f"nearest runs: {near}", "   ")
    print_wrapped()
    labels.print_legend([run for p in proposals for run, _ in p.nearest_runs])
    print_wrapped("Predicted values are predicted, not evaluated." + targets_hold(targets))


def _print_summary(proposed: ProposalBatch, project: Project, study: str | None) -> None:
    from epsopt.cli.output import print_line, print_wrapped

    if project.space is None:
        print_wrapped(_inferred(proposed))
        for text in _ranges(proposed):
            print_line(f"  {text}")
    if study is not None:
        print_wrapped(f"Queued as the Optuna study {study}: 'epsopt dashboard' shows it.")
    if project.command is None:
        print_wrapped(
            "With [train] in epsopt.toml, 'epsopt work' trains them, and --format shell prints the command lines."
        )
    elif study is not None:
        print_wrapped("'epsopt work' trains them.")


def _inferred(proposed: ProposalBatch) -> str:
    past = counted(proposed.n_past, "past run")
    return f"The search space is inferred from {past}; correct it with [space.NAME] in epsopt.toml:"


def _ranges(proposed: ProposalBatch) -> list[str]:
    """What each hyperparameter may be, a line each."""
    lines = []
    for p in proposed.space.parameters:
        if p.kind == "categorical":
            text = f"one of {', '.join(map(str, p.choices))}"
        else:
            text = f"{p.kind} from {p.low:.6g} to {p.high:.6g}" + (", logarithmic" if p.log else "")
            text += ", or none" if p.optional else ""
        if p.active_when is not None:
            text += f", when {p.active_when[0]} is {' or '.join(map(str, p.active_when[1]))}"
        lines.append(f"{p.name}: {text}")
    return lines
