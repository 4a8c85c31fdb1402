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


@click.command("init")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--minimize", multiple=True, metavar="METRIC", help="Less of this metric is better.")
@click.option("--maximize", multiple=True, metavar="METRIC", help="More of this metric is better.")
@click.option("--only", is_flag=True, help="No objectives but those that --minimize and --maximize name.")
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
    only: bool,
    name: str | None,
    embed: str | None,
    evaluate: str | None,
    follow_links: bool,
    force: bool,
) -> None:
    """Write epsopt.toml from a scan of the folder RUNS.

    The newest checkpoint of each run tells metrics and hyperparameters. Which way a metric is better is guessed from
    its name unless --minimize or --maximize says so; with --only, the metrics that these name are all objectives.
    """
    from epsopt.cli.init_output import print_draft
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
    draft = draft_project(seen, runs, file.parent, minimize, maximize, only=only)
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
        print_draft(document, file, seen.failed, seen.side_file_failures)


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
