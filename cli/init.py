"""`epsopt init RUNS`: write epsopt.toml from a scan of a runs folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, follow_links_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.optimize.objectives import Objective
    from epsopt.optimize.space import Space
    from epsopt.studies.project.metric_direction import LeftOut
    from epsopt.studies.project.scan_runs import Survey
    from epsopt.zoo.errors import Failure


_UNREACHABLE = "it is no key of Hydra's configuration, so no override sets it"
_LISTED = 8  # metrics of a kind that are named


@click.command("init")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--minimize", multiple=True, metavar="METRIC", help="Less of this metric is better.")
@click.option("--maximize", multiple=True, metavar="METRIC", help="More of this metric is better.")
@click.option("--name", help="The project's name; the folder's when not said.")
@click.option("--embed", metavar="HOOK", help="Your function from a state dict to anchor embeddings, package.mod:fn.")
@click.option("--evaluate", metavar="HOOK", help="Your function from a state dict to metrics, package.mod:fn.")
@follow_links_option
@click.option("--force", is_flag=True, help="Replace a project file that is there already.")
@common
def command(
    options: Options,
    runs: Path,
    minimize: tuple[str, ...],
    maximize: tuple[str, ...],
    name: str | None,
    embed: str | None,
    evaluate: str | None,
    follow_links: bool,
    force: bool,
) -> None:
    """Write epsopt.toml from a scan of the folder RUNS.

    The newest checkpoint of each run tells metrics and hyperparameters. Which way a metric is better is guessed from
    its name unless --minimize or --maximize says so.
    """
    from epsopt.cli.output import note, print_json
    from epsopt.cli.progress import working
    from epsopt.cli.render import failure_json
    from epsopt.cli.workspace import DEFAULT_STORAGE

    with working("reading the newest checkpoint of each run") as say:
        from epsopt.optimize.space_inference import beyond, diverged_runs, infer_space, left_out, seeds_of
        from epsopt.studies.project.find_base import find_base
        from epsopt.studies.project.launch_form import launch_form
        from epsopt.studies.project.project import FILE_NAME, load_project
        from epsopt.studies.project.scan_runs import survey
        from epsopt.studies.project.schema import is_metric_name, project_name
        from epsopt.studies.project.suggest_limits import suggest_limits
        from epsopt.studies.project.template import write_project
        from epsopt.surrogate.ranges import guess_range
        from epsopt.zoo.reading.remote import location

        runs = location(runs)
        seen = survey(
            runs,
            lambda done, total: say("reading the newest checkpoint of each run", done / total),
            follow_links=follow_links,
        )
    nameable = [name for name in sorted(seen.metrics) if is_metric_name(name)]
    objectives, guessed, undecided, no_objectives = _objectives(nameable, minimize, maximize, seen.at_ends)
    bounds = {o.name: b for o in objectives if (b := guess_range(o.name, seen.metrics[o.name])) is not None}
    file = options.project or Path(FILE_NAME)
    file = (file / FILE_NAME if file.is_dir() else file).resolve()
    form = launch_form(seen.newest, file.parent)
    bases = find_base(seen.hyperparameters, seen.newest, runs, file.parent) if isinstance(runs, type(Path())) else []
    limits = suggest_limits(objectives, bounds, seen.ends)
    unreachable = {n: _UNREACHABLE for run in seen.hyperparameters for n in run if not form.sets(n)}
    space: Space | None = None
    with contextlib.suppress(UsageError):  # nothing varies: the file shows how to say it
        diverged = diverged_runs(seen.ends, objectives)
        space = infer_space(seen.hyperparameters, ignore=list(_alone(unreachable, seen)), diverged=diverged)
    reasons = {**left_out(seen.hyperparameters), **_alone(unreachable, seen)}
    try:
        changed = write_project(
            file,
            name=project_name(file.parent.name) if name is None else name,
            runs=_from(file.parent, runs),
            objectives=objectives,
            bounds=bounds,
            space=space,
            storage=options.storage or DEFAULT_STORAGE,
            evaluate=evaluate,
            embed=embed,
            guessed=guessed,
            undecided=undecided,
            left_out=no_objectives,
            at_ends=seen.at_ends,
            seeds={n: s for n, s in seeds_of(seen.hyperparameters).items() if form.sets(n)},
            bases=[_from(file.parent, b.path) for b in bases],
            limits=limits,
            form=form,
            follow_links=follow_links,
            overwrite=force,
        )
    except UsageError as error:
        hint = " (--force replaces it)" if file.exists() and not force else ""
        raise UsageError(f"{error}{hint}") from error
    load_project(file)  # what was written must be what every other command takes
    document = {
        "file": str(file),
        "changed": changed,
        "runs": str(runs.resolve()),
        "n_runs": seen.n_runs,
        "n_checkpoints": seen.n_checkpoints,
        "n_read": seen.n_read,
        "objectives": [
            {
                "name": o.name,
                "direction": "maximize" if o.maximize else "minimize",
                "guessed": o.name in guessed,
                "bounds": bounds.get(o.name),
                "at_ends": o.name in seen.at_ends,
                "suggested_limit": limits.get(o.name),
            }
            for o in objectives
        ],
        "undecided": undecided,
        "metrics_left_out": [{"name": e.name, "reason": e.reason} for e in no_objectives],
        "space": None if space is None else [p.name for p in space.parameters],
        "hyperparameters_left_out": [{"name": n, "reason": why} for n, why in sorted(reasons.items())],
        "beyond": [
            {"name": n, "values": values}
            for n, values in ({} if space is None else beyond(space, seen.hyperparameters)).items()
        ],
        "bases": [{"path": str(b.path), "key": b.key, "runs": b.runs} for b in bases],
        "failed": failure_json(seen.failed),
        "side_file_failures": failure_json(seen.side_file_failures),
        "outside_links": seen.outside_links,
    }
    for metric in sorted(set(seen.metrics) - set(nameable)):
        why = "its name is too long or unprintable, and [metrics.rename] gives it another"
        note(f"the metric {metric[:60]} is no objective: {why}")
    if options.json:
        print_json(document)
    else:
        _show(document, file, seen.failed, seen.side_file_failures)


def _alone(unreachable: dict[str, str], seen: Survey) -> dict[str, str]:
    """Of what the program cannot be told, what varies and no other hyperparameter sets."""
    from epsopt.optimize.space_inference import left_out

    if not unreachable:
        return {}
    known = left_out(seen.hyperparameters)
    values: dict[str, set[str]] = {}
    for run in seen.hyperparameters:
        for name, value in run.items():
            if value is not None:
                values.setdefault(name, set()).add(repr(value))
    return {n: why for n, why in unreachable.items() if n not in known and len(values.get(n, ())) > 1}


def _objectives(
    metrics: list[str], minimize: tuple[str, ...], maximize: tuple[str, ...], at_ends: tuple[str, ...]
) -> tuple[list[Objective], list[str], list[str], list[LeftOut]]:
    """Return the objectives, names of those that were guessed, undecided metrics, and those that are none by guess."""
    import difflib

    from epsopt.optimize.objectives import Objective
    from epsopt.studies.project.metric_direction import guess_maximize, leave_out

    for option, names in (("--minimize", minimize), ("--maximize", maximize)):
        for name in names:
            if name not in metrics:
                close = difflib.get_close_matches(name, metrics, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(metrics) or 'none'}"
                raise UsageError(f"{option} {name}: no checkpoint has this metric, {hint}")
    if both := sorted({*minimize} & {*maximize}):
        raise UsageError(f"{both[0]} cannot be both minimized and maximized")
    objectives, guessed, undecided = [], [], []
    no_objectives = leave_out([name for name in metrics if name not in {*minimize, *maximize}], at_ends)
    without = {entry.name for entry in no_objectives}
    for name in metrics:
        if name in without:
            continue
        said = False if name in minimize else True if name in maximize else None
        better = guess_maximize(name) if said is None else said
        if better is None:
            undecided.append(name)
            continue
        objectives.append(Objective(name, better))
        if said is None:
            guessed.append(name)
    return objectives, guessed, undecided, no_objectives


def _from(folder: Path, runs: Path) -> str:
    """Name the runs folder relative to the project file when it lies below it: the project may then move."""
    absolute = runs.resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _show(document: dict[str, Any], file: Path, failed: list[Failure], troubled: list[Failure]) -> None:
    from epsopt.cli.output import (
        Head,
        Rows,
        failures,
        links_outside,
        print_line,
        print_side_file_failures,
        print_table,
        print_wrapped,
    )
    from epsopt.cli.render import short_path
    from epsopt.studies.project.template import LEFT_OUT
    from epsopt.surrogate.ranges import range_text

    read = document["n_read"]
    print_wrapped(
        f"{document['n_checkpoints']} checkpoints in {document['n_runs']} runs; "
        f"judged by the newest checkpoint of {read} run{'s' if read != 1 else ''}."
    )
    if failed:
        print_wrapped(f"{len(failed)} could not be read:")
        failures(failed)
    print_side_file_failures(troubled)
    links_outside(document["outside_links"])
    rows = [
        Rows([[
            o["name"],
            o["direction"],
            "guessed from its name" if o["guessed"] else "as you said",
            range_text(o["bounds"]) if o["bounds"] else "any number",
        ]])
        for o in document["objectives"]
    ]  # fmt: skip
    if rows:
        print_wrapped()
        heads = [Head(text, "left") for text in ("objective", "direction", "", "can be (a guess)")]
        print_table(heads, rows)
        print_wrapped()
    if late := [o["name"] for o in document["objectives"] if o["at_ends"]]:
        print_wrapped(
            f"Only the ends of runs have {', '.join(late)}: fronts then hold last checkpoints alone, and what is "
            "predicted of earlier ones is never compared with a measurement. Measure it along the way, or choose "
            "another objective."
        )
    for o in document["objectives"]:
        if o["suggested_limit"] is not None:
            print_wrapped(
                f"On the front of past runs are models that are hardly better than chance in {o['name']}: at_least = "
                f"{o['suggested_limit']:g} in its table leaves them out (a comment there)."
            )
    for name in document["undecided"]:
        print_wrapped(
            f"{name}: its name does not tell which way is better, so it is left out until you say so, in the file "
            f"or with --minimize {name} or --maximize {name}."
        )
    for reason, why in LEFT_OUT.items():
        names = [entry["name"] for entry in document["metrics_left_out"] if entry["reason"] == reason]
        if names:
            shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
            print_wrapped(
                f"No objective by guess: {shown} ({why[0].lower()}{why[1:]}); --minimize or --maximize makes one."
            )
    if not (rows or document["undecided"] or document["metrics_left_out"]):
        print_wrapped("The checkpoints carry no metrics: nothing can be predicted before they do.")
    if document["space"]:
        print_wrapped(f"Search space from past runs: {', '.join(document['space'])}.")
    else:
        print_wrapped("No hyperparameter varies between the runs: declare [space.NAME] before you ask for proposals.")
    if document["bases"]:
        base, *others = document["bases"]
        known = f"{short_path(base['path'])}, as {base['runs']} of {read} runs say by their {base['key']}"
        print_wrapped(
            f"Base checkpoint: {known}; other runs name {len(others)} more, so [lineage] names none: see the file."
            if others
            else f"Base checkpoint: {known} ([lineage] base)."
        )
    for found in document["beyond"]:
        values = ", ".join(f"{v:.6g}" for v in found["values"])
        print_wrapped(f"The range of {found['name']} leaves out {values}: only runs that diverged had it.")
    reasons: dict[str, list[str]] = {}
    for left in document["hyperparameters_left_out"]:
        reasons.setdefault(left["reason"], []).append(left["name"])
    if reasons:
        told = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        print_wrapped(f"They vary and are not searched: {told}. To search one of them, declare it in [space.NAME].")
    print_line(f"{'wrote' if document['changed'] else 'unchanged:'} {short_path(file)}")
    print_wrapped("Next: check it, then 'epsopt ingest' and 'epsopt fit'.")
