"""`epsopt ingest`: read the checkpoints of a runs folder into the catalogue, or check that they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, follow_links_option
from epsopt.zoo.errors import CatalogueError, EmptyCatalogue, UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.types import CopiedRun, NotFinite
    from epsopt.zoo.layouts.other_formats import OtherFormat
    from epsopt.zoo.side_files.run_tables import RunTable


_LISTED = 20


@click.command("ingest")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=2, show_default=True, help="Reading processes.")
@click.option("--table", type=click.Path(path_type=Path), metavar="CSV", help="A table of the runs.")
@click.option("--study", metavar="URL#NAME", help="An Optuna study that these runs were trials of.")
@click.option("--verify", is_flag=True, help="Read nothing; hash the catalogued files again and name what changed.")
@follow_links_option
@click.option("--repair", is_flag=True, help="Forget what 'epsopt check' finds damaged, and read it again.")
@common
def command(
    options: Options,
    paths: tuple[Path, ...],
    jobs: int,
    table: Path | None,
    study: str | None,
    verify: bool,
    follow_links: bool,
    repair: bool,
) -> None:
    """Read checkpoints into the catalogue: from PATH... or else from the project's runs.

    It recognises how the runs are kept, and says so: plain PyTorch, Lightning, Hydra, Hugging Face, MLflow, W&B,
    TensorBoard; alone or together. A PATH may be a URL such as s3://bucket/runs. What has not changed is not read
    again. A file that cannot be read is listed, and the rest goes in.

    With --verify, the files that the catalogue knows (those under PATH..., or else all) are compared with the SHA-256
    of their first reading; the exit status is 1 when one of them changed or vanished.
    """
    if repair:
        _repair(options)
    if verify:
        _verify(options, paths, jobs)
    else:
        _ingest(options, paths, jobs, table, study, follow_links=follow_links)


def _repair(options: Options) -> None:
    from epsopt.cli.output import note, one_line
    from epsopt.cli.workspace import open_workspace
    from epsopt.zoo.catalogue.repair import repair

    for damage in repair(open_workspace(options).storage):
        note(f"forgotten, to be read again: {one_line(damage.problem)}")


def _sheets(project: Project | None, jobs: int, table: Path | None, study: str | None) -> list[RunTable]:
    """Return the tables of runs that the command or else the project names."""
    from epsopt.zoo.reading.pool import shared_pool
    from epsopt.zoo.side_files.discover import read_table
    from epsopt.zoo.side_files.run_tables import RunTable

    sheets = []
    file = table.absolute() if table is not None else project.table if project else None
    if file is not None:
        columns = (project.table_params, project.table_metrics) if project else ((), ())
        sheets.append(RunTable(f"table {file}", file.parent, read_table(shared_pool(jobs), file, *columns)))
    source = study or (project.study if project else None)
    if source is not None:
        from epsopt.studies.optuna_io.optuna_import import study_sheet

        sheets.append(study_sheet(source, project.folder if project and study is None else Path.cwd()))
    return sheets


def _ingest(
    options: Options, paths: tuple[Path, ...], jobs: int, table: Path | None, study: str | None, *, follow_links: bool
) -> None:
    from epsopt.cli.doctor import show_nan_weights
    from epsopt.cli.output import (
        Head,
        Rows,
        failures,
        links_outside,
        print_json,
        print_line,
        print_side_file_failures,
        print_table,
        print_wrapped,
    )
    from epsopt.cli.progress import working
    from epsopt.cli.render import failure_json
    from epsopt.cli.workspace import open_workspace

    with working("looking for checkpoints") as progress:
        from epsopt.studies.diagnosis import diagnose
        from epsopt.studies.project.find_base import lack_of_base
        from epsopt.zoo.catalogue.catalogue import Catalogue
        from epsopt.zoo.catalogue.types import copied_runs
        from epsopt.zoo.ingestion.ingest import ingest
        from epsopt.zoo.reading.remote import location

        workspace = open_workspace(options)
        project = workspace.project
        folders = [location(p) for p in paths] or ([project.runs] if project else [])
        if not folders:
            raise UsageError("which folder holds the runs? 'epsopt ingest RUNS', or 'epsopt init RUNS' first")
        for folder in folders:  # before a database is made
            if not folder.exists():
                raise UsageError(f"{folder} does not exist: expected a folder of training runs or a checkpoint file")
        sheets = _sheets(project, jobs, table, study)
        if project is not None and (lack := lack_of_base(project)) is not None:
            raise UsageError(f"{project.file}: lineage.base: {lack}")
        base = None if project is None else str(project.base or "")
        how = {} if project is None else project.how_to_read
        with Catalogue(workspace.storage, base=base, **how) as catalogue:
            report = ingest(
                catalogue,
                folders,
                sheets=sheets,
                follow_links=follow_links or (project is not None and project.follow_links),
                embed=project.embed if project else None,
                jobs=jobs,
                progress=lambda done, total: progress(f"reading checkpoint {done} of {total}", done / total),
            )
            checkpoints, metrics, runs = catalogue.checkpoints(), catalogue.metric_names(), len(catalogue.runs())
            copies, shared = copied_runs(checkpoints)
            shown = project is not None and not options.json
            diagnosis = diagnose(project, catalogue, checkpoints=checkpoints) if shown else None
    if options.json:
        print_json(
            {
                "storage": workspace.shown,
                "runs": report.runs,
                "found": report.found,
                "added": report.added,
                "unchanged": report.unchanged,
                "aliases": report.aliases,
                "still_writing": report.still_writing,
                "failed": failure_json(report.failed),
                "ignored": report.ignored,
                "layouts": report.layouts,
                "refreshed_runs": report.refreshed_runs,
                "side_file_failures": failure_json(report.side_file_failures),
                "unmatched": report.unmatched,
                "not_read": [asdict(kind) for kind in report.not_read],
                "objects": report.objects,
                "nan_weights": report.nan_weights,
                "deleted": failure_json(report.deleted),
                "not_finite": [asdict(n) for n in report.not_finite],
                "outside_links": report.outside_links,
                "copies": [asdict(copy) for copy in copies],
                "shared": shared,
                "seconds": report.seconds,
                "catalogue": {"runs": runs, "checkpoints": len(checkpoints), "metrics": metrics},
            }
        )
    else:
        counted = [
            ("new or changed", report.added),
            ("unchanged", report.unchanged),
            ("same checkpoint as another file", report.aliases),
            ("still being written", report.still_writing),
            ("could not be read", len(report.failed)),
            ("not counted: states of optimisers and the like", report.ignored),
        ]
        rows = [Rows([[name, str(n)]]) for name, n in counted if n or name == "new or changed"]
        print_table([Head("checkpoint files", "left"), Head(str(report.found))], rows)
        if report.layouts:
            print_wrapped()
            kinds = [Rows([[name, str(n)]]) for name, n in report.layouts.items()]
            print_table([Head("layout", "left"), Head("runs")], kinds)
        if report.failed:
            print_wrapped()
            print_wrapped("Could not be read, and are left out:")
            failures(report.failed)
        if report.deleted:
            print_wrapped()
            print_wrapped("Deleted where they were tracked, and are left out:")
            failures(report.deleted)
        print_side_file_failures(report.side_file_failures)
        links_outside(report.outside_links)
        for name, rows_left in report.unmatched.items():
            print_wrapped()
            print_wrapped(f"{rows_left} row{'s' if rows_left > 1 else ''} of {name} belong to none of the runs found.")
        _not_read(report.not_read)
        _objects(report.objects)
        _not_finite(report.not_finite)
        show_nan_weights(report.nan_weights)
        _copies(copies, shared)
        print_wrapped()
        print_line(f"{workspace.shown} holds {len(checkpoints)} checkpoints of {runs} runs")
        print_wrapped(f"Metrics: {', '.join(metrics) or 'none'}.")
        if diagnosis is not None:
            from epsopt.cli.doctor import show_base_line, show_readiness, show_renamed

            print_wrapped()
            show_base_line(diagnosis.base_line)
            show_renamed(diagnosis.renamed)
            show_readiness(diagnosis.readiness)
            print_wrapped("'epsopt doctor' says what metrics and hyperparameters were taken for.")
    if not report.found or len(report.failed) == report.found:
        from epsopt.zoo.layouts.nothing_found import nothing_found

        raise nothing_found(folders, failed=report.failed, deleted=report.deleted, others=report.not_read)


def _not_read(kinds: Sequence[OtherFormat]) -> None:
    """Name checkpoints of other formats once a kind, with what makes them readable."""
    from epsopt.cli.output import Head, Rows, one_line, print_line, print_table, print_wrapped
    from epsopt.cli.render import short_path

    if not kinds:
        return
    print_wrapped()
    rows = [Rows([[kind.kind, str(kind.count), short_path(kind.example)]]) for kind in kinds]
    print_table([Head("not read", "left"), Head("number"), Head("such as", "left")], rows)
    print_wrapped()
    for kind in kinds:
        print_line(one_line(f"  {kind.kind}: {kind.convert}"))


def _objects(objects: dict[str, int]) -> None:
    """Name hyperparameters that hold objects, once a name and class."""
    from epsopt.cli.output import one_line, print_line, print_wrapped

    if not objects:
        return
    print_wrapped()
    print_wrapped("Hyperparameters that hold classes, functions or other objects are kept as text:")
    for what, number in list(objects.items())[:_LISTED]:
        print_line(one_line(f"  {what} ({count(number, 'checkpoint')})"))
    if len(objects) > _LISTED:
        print_line(f"  and {len(objects) - _LISTED} more (--json lists them all)")


def _not_finite(metrics: Sequence[NotFinite]) -> None:
    """Say which metrics count as not measured somewhere, and where."""
    from epsopt.cli.output import print_line, print_wrapped

    if metrics:
        print_wrapped()
        print_wrapped("Not finite (NaN, infinite, or 1e300 and more), and so not measured there:")
        for n in metrics[:_LISTED]:
            print_line(f"  {n.metric}: on {count(n.checkpoints, 'checkpoint')} of {count(n.runs, 'run')}")
        if len(metrics) > _LISTED:
            print_line(f"  and {len(metrics) - _LISTED} other metrics ('epsopt ingest --json' names all)")


def _copies(copies: Sequence[CopiedRun], shared: int) -> None:
    """Name the runs that are copies of others, and say what runs share."""
    from epsopt.cli.output import one_line, print_line, print_wrapped

    if copies:
        print_wrapped()
        print_wrapped(f"{count(len(copies), 'run is a copy', 'runs are copies')} of others, and learned from once:")
        for copy in copies[:_LISTED]:
            print_line(one_line(f"  {copy.run}: {count(copy.checkpoints, 'checkpoint')}, all of them in {copy.of}"))
        if len(copies) > _LISTED:
            print_line(f"  and {len(copies) - _LISTED} more ('epsopt ingest --json' names all)")
    if shared:
        print_wrapped()
        lie = count(shared, "checkpoint is in several runs", "checkpoints are in several runs")
        print_wrapped(f"{lie}, as a common start, and learned from once.")


def _verify(options: Options, paths: tuple[Path, ...], jobs: int) -> None:
    from epsopt.cli.output import failures, print_json, print_line, print_wrapped
    from epsopt.cli.progress import working
    from epsopt.cli.render import failure_json
    from epsopt.cli.workspace import open_workspace

    with working("looking for the catalogue") as progress:
        from epsopt.zoo.ingestion.verification import verify

        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            report = verify(
                catalogue,
                paths or None,
                jobs=jobs,
                progress=lambda done, total: progress(f"checking file {done} of {total}", done / total),
            )
    if not report.checked:
        where = f" under {', '.join(map(str, paths))}" if paths else ""
        raise EmptyCatalogue(f"the catalogue knows no file{where}: read your runs with 'epsopt ingest RUNS' first")
    if options.json:
        verified = {"checked": report.checked, "intact": report.intact, "failed": failure_json(report.failed)}
        print_json({"storage": workspace.shown, "verified": verified, "seconds": report.seconds})
    else:
        print_line(f"{report.intact} of {report.checked} files are what they were when they were read")
        if report.failed:
            print_wrapped()
            failures(report.failed)
    if report.failed:
        raise CatalogueError(
            f"{len(report.failed)} of {report.checked} files are not what was catalogued: "
            "restore them, or take them as they are now with 'epsopt ingest'"
        )
