"""`epsopt init RUNS`: write epsopt.toml from a scan of a runs folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, follow_links_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.studies.project.draft import ProjectDraft
    from epsopt.zoo.errors import Failure


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
    from epsopt.cli.workspace import DEFAULT_STORAGE, note_unseen_arguments

    with working("reading the newest checkpoint of each run") as say:
        from epsopt.studies.project.draft import draft_project
        from epsopt.studies.project.project import FILE_NAME, load_project
        from epsopt.studies.project.scan_runs import survey
        from epsopt.zoo.reading.remote import location

        runs = location(runs)
        seen = survey(
            runs,
            lambda done, total: say("reading the newest checkpoint of each run", done / total),
            follow_links=follow_links,
        )
    file = options.project or Path(FILE_NAME)
    file = (file / FILE_NAME if file.is_dir() else file).resolve()
    draft = draft_project(seen, runs, file.parent, minimize, maximize)
    try:
        changed = draft.write(
            file, name=name, storage=options.storage or DEFAULT_STORAGE, evaluate=evaluate, embed=embed,
            follow_links=follow_links, overwrite=force,
        )  # fmt: skip
    except UsageError as error:
        hint = " (--force replaces it)" if file.exists() and not force else ""
        raise UsageError(f"{error}{hint}") from error
    note_unseen_arguments(load_project(file))  # what was written must be what every other command takes
    for metric in draft.nameless:
        why = "its name is too long or unprintable, and [metrics.rename] gives it another"
        note(f"the metric {metric[:60]} is no objective: {why}")
    document = _document(draft, file, runs, changed=changed)
    if options.json:
        print_json(document)
    else:
        _show(document, file, seen.failed, seen.side_file_failures)


def _document(draft: ProjectDraft, file: Path, runs: Path, *, changed: bool) -> dict[str, Any]:
    from epsopt.cli.render import failure_json
    from epsopt.optimize.space_inference import beyond

    seen, space = draft.seen, draft.space
    return {
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
                "guessed": o.name in draft.guessed,
                "bounds": draft.bounds.get(o.name),
                "at_ends": o.name in seen.at_ends,
                "unnamed_model": o.name in seen.unnamed_model,
                "suggested_limit": draft.limits.get(o.name),
            }
            for o in draft.objectives
        ],
        "undecided": draft.undecided,
        "metrics_left_out": [{"name": e.name, "reason": e.reason} for e in draft.left_out],
        "space": None if space is None else [p.name for p in space.parameters],
        "hyperparameters_left_out": [
            {"name": n, "reason": why} for n, why in sorted(draft.hyperparameters_left_out.items())
        ],
        "beyond": [
            {"name": n, "values": values}
            for n, values in ({} if space is None else beyond(space, seen.hyperparameters)).items()
        ],
        "renamed_metrics": draft.renamed_metrics,
        "doubts": draft.doubts,
        "renamed": [asdict(r) for r in draft.renamed],
        "bases": [{"path": str(b.path), "key": b.key, "runs": b.runs} for b in draft.bases],
        "failed": failure_json(seen.failed),
        "side_file_failures": failure_json(seen.side_file_failures),
        "outside_links": seen.outside_links,
    }


def _show(document: dict[str, Any], file: Path, failed: list[Failure], side_file_failures: list[Failure]) -> None:
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
    from epsopt.zoo.formatting import count

    read = document["n_read"]
    print_wrapped(
        f"{document['n_checkpoints']} checkpoints in {document['n_runs']} runs; "
        f"judged by the newest checkpoint of {read} run{'s' if read != 1 else ''}."
    )
    if failed:
        print_wrapped(f"{len(failed)} could not be read:")
        failures(failed)
    print_side_file_failures(side_file_failures)
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
    if unnamed := [o["name"] for o in document["objectives"] if o["unnamed_model"]]:
        print_wrapped(
            f"No checkpoint has {', '.join(unnamed)} until weights_key under [runs] names the network that the log "
            "speaks of: runs saved several at one moment, as said above."
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
    for text in document["doubts"]:
        print_wrapped(f"{text}.")
    for old, new in document["renamed_metrics"].items():
        print_wrapped(f"{old} and {new} are one metric by guess: check [metrics.rename].")
    for pair in document["renamed"]:
        print_wrapped(
            f"{count(pair['old_runs'], 'run')} call {pair['old']} what {pair['new_runs']} others call {pair['new']}, "
            "by guess: check [hyperparameters.rename]."
        )
    for found in document["beyond"]:
        values = ", ".join(f"{v:.6g}" for v in found["values"])
        print_wrapped(f"The range of {found['name']} leaves out {values}: only runs that diverged had it.")
    reasons: dict[str, list[str]] = {}
    for left in document["hyperparameters_left_out"]:
        reasons.setdefault(left["reason"], []).append(left["name"])
    if reasons:
        reasons_text = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        print_wrapped(
            f"They vary and are not searched: {reasons_text}. To search one of them, declare it in [space.NAME]."
        )
    print_line(f"{'wrote' if document['changed'] else 'unchanged:'} {short_path(file)}")
    print_wrapped("Next: check it, then 'epsopt ingest' and 'epsopt fit'.")
