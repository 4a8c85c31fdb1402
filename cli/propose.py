"""`epsopt propose`: the next training configs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, TargetCommand, common, level_option, seed_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epsopt.optimize.proposals import Proposal
    from epsopt.optimize.space import Parameter, Space
    from epsopt.optimize.targets import Objective, Target
    from epsopt.studies.project.file import Project


@click.command("propose", cls=TargetCommand)
@click.option("--count", "-n", type=click.IntRange(min=1), default=8, show_default=True, help="How many.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "shell"]),
    default="table",
    help="shell prints the train command lines.",
)
@level_option
@seed_option
@click.option("--no-record", is_flag=True, help="Do not queue them as an Optuna study.")
@common
def command(
    options: Options, wanted: dict[str, float], count: int, form: str, level: float, seed: int, no_record: bool
) -> None:
    """Propose the next training configs, and predict what they reach.

    They are learned from all past runs and queued as an Optuna study. The search space is the project file's, else
    it is inferred from past runs.
    """
    from epsopt.cli.describe import objective_json, predicted_json, target_json
    from epsopt.cli.output import line, note, print_json
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import check_objectives, measured, open_workspace, resolve_targets

    form = "json" if options.json else form
    with working("loading the map") as progress:
        workspace = open_workspace(options)
        project = workspace.needed()
        if form == "shell" and project.command is None:
            raise UsageError(f"{project.file} has no train command: add [train] with command = [...]")
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            from epsopt.optimize import infer_space, past_runs, propose
            from epsopt.studies.maps import load_map, unseen

            objectives = check_objectives(project, catalogue.metric_names())
            surrogate, _ = load_map(catalogue)
            n_unseen = unseen(catalogue, surrogate)
        targets = resolve_targets(wanted, project, checkpoints, surrogate)
        past = past_runs(surrogate, checkpoints)
        space = project.space or infer_space([r.config for r in past])
        proposals = propose(
            surrogate, space, past, objectives, targets, n=count, level=level, seed=seed, progress=progress
        )
        numbers: list[int] = []
        if not no_record:
            from epsopt.studies import record_proposals

            progress("recording the studies", None)
            numbers = record_proposals(workspace.studies(), project.name, objectives, space, proposals)
    if n_unseen:
        note(f"{n_unseen} checkpoints of the catalogue are not on the map yet: 'epsopt fit' learns them")
    shown = numbers or list(range(len(proposals)))
    commands = [_command(project, p, number) for p, number in zip(proposals, shown, strict=True)]
    study = f"{project.name}/proposals" if numbers else None
    if form == "json":
        print_json(
            {
                "objectives": objective_json(objectives),
                "targets": target_json(targets),
                "level": level,
                "seed": seed,
                "space": {"inferred": project.space is None, "parameters": [_parameter(p) for p in space.parameters]},
                "proposals": [
                    {
                        "number": number if numbers else None,
                        "params": dict(p.params),
                        "fixed": dict(p.fixed),
                        "predicted": predicted_json(p),
                        "probability": p.probability,
                        "joins_front": p.joins_front,
                        "nearest_runs": [{"run": run, "distance": distance} for run, distance in p.nearest_runs],
                        "reason": p.reason,
                        "command": arguments,
                    }
                    for p, number, arguments in zip(proposals, shown, commands, strict=True)
                ],
                "n_past_runs": len(past),
                "n_unseen": n_unseen,
                "trained_on": surrogate.trained_on,
                "study": study,
            }
        )
    elif form == "shell":
        for arguments in commands:
            text = shlex.join(arguments or [])
            line(text if project.cwd == Path.cwd() else f"(cd {shlex.quote(str(project.cwd))} && {text})")
    else:
        _show(proposals, shown, space, objectives, targets, level)
        _tell(space, len(past), project, study)


def _command(project: Project, proposal: Proposal, number: int) -> list[str] | None:
    from epsopt.studies import render_command

    if project.command is None:
        return None
    from epsopt.studies.loop.training import proposal_folder

    return render_command(project.command, {**proposal.fixed, **proposal.params}, proposal_folder(project, number))


def _parameter(p: Parameter) -> dict[str, Any]:
    numeric = p.kind != "categorical"
    return {
        "name": p.name,
        "type": p.kind,
        "low": p.low if numeric else None,
        "high": p.high if numeric else None,
        "log": p.log,
        "choices": None if numeric else list(p.choices),
        "active_when": None if p.active_when is None else {"param": p.active_when[0], "values": list(p.active_when[1])},
    }


def _show(
    proposals: Sequence[Proposal],
    numbers: Sequence[int],
    space: Space,
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    level: float,
) -> None:
    from epsopt.cli.describe import formatters, metric_heads, predicted_rows
    from epsopt.cli.output import TARGETS_HOLD, Head, Rows, line, listed, print_table, say, value

    names = [o.name for o in objectives]
    texts = formatters(names, [m for p in proposals for m in (p.point, p.low, p.high)])
    groups = []
    for number, p in zip(numbers, proposals, strict=True):
        title = "predicted" if p.probability is None else f"predicted, P {p.probability:.2f}"
        rows, dim = predicted_rows(p, names, texts, title, level)
        groups.append(Rows([[str(number), *rows[0]], ["", *rows[1]]], dim))
    print_table([Head("#"), Head("", "left"), *metric_heads(names, objectives, targets)], groups, keep=2)
    say()
    for number, p in zip(numbers, proposals, strict=True):
        line(f"{number}  {p.reason}")
        listed(", ".join(f"{q.name} {value(p.params[q.name])}" for q in space.parameters if q.name in p.params), "   ")
    say()
    say("Predicted values are predicted, not evaluated." + (TARGETS_HOLD if targets else ""))


def _tell(space: Space, n_past: int, project: Project, study: str | None) -> None:
    from epsopt.cli.output import line, say

    if project.space is None:
        say(f"The search space is inferred from {n_past} past runs; correct it with [space.NAME] in epsopt.toml:")
        for p in space.parameters:
            if p.kind == "categorical":
                text = f"one of {', '.join(map(str, p.choices))}"
            else:
                text = f"{p.kind} from {p.low:.4g} to {p.high:.4g}" + (", logarithmic" if p.log else "")
            if p.active_when is not None:
                text += f", when {p.active_when[0]} is {' or '.join(map(str, p.active_when[1]))}"
            line(f"  {p.name}: {text}")
    if study is not None:
        say(f"Queued as the Optuna study {study}: 'epsopt dashboard' shows it.")
    if project.command is None:
        say("With [train] in epsopt.toml, --format shell prints the command lines.")
