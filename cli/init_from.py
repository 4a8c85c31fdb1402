"""`epsopt init-from`: the checkpoint that the next run should start from, and the command that starts there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, TargetCommand, common, level_option, overwrite_option, seed_option
from epsopt.cli.pictures import picture_option

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.objectives import Objective, Target
    from epsopt.optimize.proposals.warm_start import Start, WarmStart
    from epsopt.studies.merge.decode import MergedCheckpoint
    from epsopt.studies.project.project import Project
    from epsopt.studies.worker.rank_warm_starts import RankedStarts
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.decoding.decoder import WeightDecoder

    Shown = tuple[WarmStart, str, list[str] | None]  # a start, its file, and the command that starts there


@click.command("init-from", cls=TargetCommand)
@click.option("--count", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="Starts to show.")
@click.option("--epochs", type=click.IntRange(min=1), help="How long the run trains; as past runs if not said.")
@click.option("--real-only", is_flag=True, help="Checkpoints of runs only, no merges of them.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Folder for merges that are shown.")
@level_option
@seed_option
@picture_option
@overwrite_option
@common
def command(
    options: Options,
    wanted: dict[str, float],
    count: int,
    epochs: int | None,
    real_only: bool,
    save: Path | None,
    level: float,
    seed: int,
    picture: Path | None,
    overwrite: bool,
) -> None:
    """Name the best checkpoint to start the next run from, of a run or merged, and what training from it may reach.

    With [train] in epsopt.toml and a hole {init_from} in its command, each answer carries the command to launch.
    --picture draws where these runs are predicted to end.
    """
    from epsopt.cli.output import note, print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import check_objectives, measured, note_unseen, open_workspace, resolve_targets
    from epsopt.zoo.decoding.decoder import WeightDecoder

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        project = workspace.require_project()
        with (
            workspace.catalogue() as catalogue,
            WeightDecoder(project.evaluate, weights_key=catalogue.weights_key, calibrate=project.calibrate) as decoder,
        ):
            checkpoints = measured(catalogue)
            drawn = picture_file(picture, catalogue, overwrite=overwrite)
            from epsopt.studies.optuna_io.stored_trials import proposed_trials
            from epsopt.studies.surrogate_store import load_map, unseen
            from epsopt.studies.worker.rank_warm_starts import rank_warm_starts

            objectives = check_objectives(project, catalogue.metric_names())
            surrogate, _ = load_map(catalogue)
            n_unseen = 0 if real_only else unseen(catalogue, surrogate, checkpoints)  # their merges are not weighed
            targets = resolve_targets(wanted, project, checkpoints, surrogate)
            trials = proposed_trials(workspace.proposals(), project.name)
            ranked = rank_warm_starts(
                decoder, catalogue, checkpoints, surrogate, project, trials, objectives, targets, epochs=epochs,
                real_only=real_only, level=level, seed=seed, progress=progress,
                left_out=lambda label, why: note(f"the mean of {label} is no start, since it is not predicted: {why}"),
            )  # fmt: skip
            files = _saved(ranked.plans[:count], ranked.merged, decoder, project, save, checkpoints)
    plans = ranked.shown(count)
    if drawn is not None:
        save_picture(_figure(objectives, checkpoints, plans, targets), drawn)
    paths = [_path(p, files) for p in plans]
    commands = [_command(project, p, path) for p, path in zip(plans, paths, strict=True)]
    shown = list(zip(plans, paths, commands, strict=True))
    note_unseen(n_unseen)
    if options.json:
        print_json(_document(shown, ranked, objectives, targets, surrogate, level, seed))
    else:
        _show(shown, ranked, objectives, targets, level, project, RunLabels.of(checkpoints))
        tell_picture(picture)


def _figure(
    objectives: Sequence[Objective],
    checkpoints: Sequence[Checkpoint],
    plans: Sequence[WarmStart],
    targets: Sequence[Target],
) -> go.Figure:
    """Draw what the runs are predicted to end with among what was measured."""
    from epsopt.figures import front

    title = "Where runs from these starts are predicted to end"
    return front(objectives, checkpoints, plans, targets, title=title)


def _document(
    shown: Sequence[Shown],
    ranked: RankedStarts,
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    surrogate: Surrogate,
    level: float,
    seed: int,
) -> dict[str, Any]:
    from epsopt.cli.render import objective_json, target_json

    return {
        "objectives": objective_json(objectives),
        "targets": target_json(targets),
        "level": level,
        "seed": seed,
        "epochs": ranked.epochs,
        "warm_starts": [_plan_json(*one) for one in shown],
        "learned_from": ranked.learned_from,
        "trained_on": surrogate.trained_on,
    }


def _saved(
    plans: Sequence[WarmStart],
    merged: Sequence[tuple[Start, MergedCheckpoint]],
    decoder: WeightDecoder,
    project: Project,
    save: Path | None,
    checkpoints: Sequence[Checkpoint],
) -> dict[int, Path]:
    """Save the merged checkpoints that are shown; return their files by the identity of their starts."""
    from epsopt.cli.merge_output import free_files
    from epsopt.cli.render import predicted_json
    from epsopt.studies.output_paths import decoded_file, save_folder
    from epsopt.zoo.decoding.provenance import Provenance, labels

    shown = [(s, m) for s, m in merged if any(p.start is s for p in plans)]
    if not shown:
        return {}
    parents = [[c for c, _ in s.parents] for s, _ in shown]
    with save_folder(save, project.runs, "init", checkpoints) as folder:
        wanted = [decoded_file(folder, f"merged_{i:03d}", None, p) for i, p in enumerate(parents)]
        files = free_files(folder, wanted)
        for (_, found), own, file in zip(shown, parents, files, strict=True):
            predicted = predicted_json(found.assessment)
            provenance = Provenance("init-from", predicted, found.measured, decoder.hook, labels(own))
            decoder.save(found.decoded, file, provenance)
    return {id(s): file.resolve() for (s, _), file in zip(shown, files, strict=True)}


def _path(plan: WarmStart, files: dict[int, Path]) -> str:
    return plan.start.checkpoint.path if plan.start.checkpoint is not None else str(files[id(plan.start)])


def _command(project: Project, plan: WarmStart, path: str) -> list[str] | None:
    """Fill the train command; None where there is none, or where it takes no start."""
    from epsopt.studies import render_command
    from epsopt.studies.project.train_command import takes_start

    if project.command is None or not takes_start(project.command):
        return None
    from epsopt.studies.output_paths import free_name

    out = free_name(project.runs, "from")
    return render_command(project.command, {**plan.fixed, **plan.params}, out, path, seed=0)


def _plan_json(plan: WarmStart, path: str, arguments: list[str] | None) -> dict[str, Any]:
    from epsopt.cli.render import predicted_json

    start = plan.start
    parts = start.parents or ((start.checkpoint, 1.0),)
    return {
        "start": {
            "label": start.label,
            "kind": start.kind,
            "path": path,
            "parents": [
                {"path": c.path, "sha256": c.sha256, "coefficient": weight} for c, weight in parts if c is not None
            ],
            "metrics": dict(start.metrics),
            "metrics_source": "measured" if start.measured else "predicted",
        },
        "params": dict(plan.params),
        "fixed": dict(plan.fixed),
        "predicted": predicted_json(plan),
        "predicted_gain": plan.gain,
        "probability": plan.probability,
        "joins_front": plan.joins_front,
        "extrapolated_epochs": plan.beyond,
        "command": arguments,
    }


def start_text(start: Start, labels: RunLabels) -> str:
    """What the start is, in words."""
    if start.checkpoint is not None:
        label = labels(start.checkpoint.run, start.checkpoint.epoch)
        return f"the base ({label})" if start.kind == "base" else label
    return "a merge of " + " + ".join(labels(c.run, c.epoch) for c, _ in start.parents)


def _show(
    shown: Sequence[Shown],
    ranked: RankedStarts,
    objectives: Sequence[Objective],
    targets: Sequence[Target],
    level: float,
    project: Project,
    labels: RunLabels,
) -> None:
    from epsopt.cli.output import Head, Rows, print_line, print_list, print_table, print_wrapped, targets_hold, value
    from epsopt.cli.render import formatters, measured_row, metric_heads, predicted_rows, short_path
    from epsopt.zoo.formatting import count

    plans, names, space = [p for p, _, _ in shown], [o.name for o in objectives], ranked.space
    texts = formatters(names, [m for p in plans for m in (p.point, p.low, p.high, dict(p.start.metrics))])
    groups = []
    for i, p in enumerate(plans, 1):
        row_name = "start, measured" if p.start.measured else "start, predicted"
        title = "predicted" if p.probability is None else f"predicted, P {p.probability:.2f}"
        rows, dim = predicted_rows(p, names, texts, title, level)
        own = measured_row(row_name, dict(p.start.metrics), names, texts)
        groups.append(Rows([[str(i), *own], ["", *rows[0]], ["", *rows[1]]], frozenset(d + 1 for d in dim)))
    print_table([Head("#"), Head("", "left"), *metric_heads(names, objectives, targets)], groups, keep=2)
    print_wrapped()
    print_wrapped(
        f"The end of a run of {count(ranked.epochs, 'epoch')} from there is predicted, not evaluated, as learned from "
        f"the curves of {count(ranked.learned_from, 'run')}. Starts that are expected to widen the measured front most "
        "come first." + targets_hold(targets)
    )
    print_wrapped()
    for i, (p, path, _) in enumerate(shown, 1):
        joins = f"joins the front with P {p.joins_front:.2f}"
        print_line(f"{i}  from {start_text(p.start, labels)}, {joins}")
        print_line(f"   {short_path(path)}")
        if p.beyond is not None:
            print_wrapped(
                f"{p.beyond} epochs of training in all: no past run had as many, so this is extrapolated", "   "
            )
        print_list(
            ", ".join(f"{q.name} {value(p.params[q.name])}" for q in space.parameters if q.name in p.params), "   "
        )
    print_wrapped()
    first = shown[0][2]
    if first is not None:
        print_line(shlex.join(first))
    elif project.command is not None:
        print_wrapped(
            'To launch from there, add ["--init-from", "{init_from}"] (or your program\'s option) to train.command.'
        )
    else:
        print_wrapped("With [train] in epsopt.toml and {init_from} in its command, the command to launch is printed.")
