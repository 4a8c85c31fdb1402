"""`epsopt ingest`: read the checkpoints of a runs folder into the catalogue, or check that they are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, follow_links_option, ray_option
from epsopt.zoo.errors import CatalogueError, EmptyCatalogue, UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.studies.project.project import Project
    from epsopt.zoo.reading.pool import Readers
    from epsopt.zoo.side_files.run_tables import RunTable


_JOBS = 2


@click.command("ingest")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="Reading processes; default: 2, or all CPUs of the Ray cluster."
)
@ray_option("Read on a Ray cluster")
@click.option("--table", type=click.Path(path_type=Path), metavar="CSV", help="A table of the runs.")
@click.option("--study", metavar="URL#NAME", help="An Optuna study that these runs were trials of.")
@click.option("--verify", is_flag=True, help="Read nothing; hash the catalogued files again and name what changed.")
@follow_links_option
@click.option("--repair", is_flag=True, help="Forget what 'epsopt check' finds damaged, and read it again.")
@common
def command(
    options: Options,
    paths: tuple[Path, ...],
    jobs: int | None,
    ray: str | None,
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

    With --ray, the machines of a Ray cluster read, within the same limits, and this process alone writes.
    """
    if verify and ray is not None:
        raise UsageError("--ray reads checkpoints, and --verify reads none: leave out one of the two")
    if repair:
        _repair(options)
    if verify:
        _verify(options, paths, jobs or _JOBS)
    else:
        _ingest(options, paths, jobs, ray, table, study, follow_links=follow_links)


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


def _readers(ray: str | None, jobs: int | None) -> AbstractContextManager[Readers | None]:
    """Return the readers of a Ray cluster where one is asked for."""
    if ray is None:
        return nullcontext()
    from epsopt.zoo.reading.ray_pool import ray_readers

    return ray_readers(ray, jobs)


def _ingest(
    options: Options,
    paths: tuple[Path, ...],
    jobs: int | None,
    ray: str | None,
    table: Path | None,
    study: str | None,
    *,
    follow_links: bool,
) -> None:
    from epsopt.cli.ingest_output import Contents, document, print_ingested
    from epsopt.cli.output import note, print_json
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("looking for checkpoints") as progress:
        from epsopt.studies.diagnosis import diagnose
        from epsopt.studies.project.find_base import lack_of_base
        from epsopt.zoo.catalogue.catalogue import Catalogue
        from epsopt.zoo.ingestion.ingest import ingest

        workspace = open_workspace(options)
        project = workspace.project
        folders = _folders(paths, project)
        sheets = _sheets(project, jobs or _JOBS, table, study)
        if project is not None and (lack := lack_of_base(project)) is not None:
            raise UsageError(f"{project.file}: lineage.base: {lack}")
        base = None if project is None else str(project.base or "")
        how = {} if project is None else project.how_to_read
        with Catalogue(workspace.storage, base=base, **how) as catalogue, _readers(ray, jobs) as readers:
            report = ingest(
                catalogue,
                folders,
                sheets=sheets,
                follow_links=follow_links or (project is not None and project.follow_links),
                embed=project.embed if project else None,
                jobs=jobs or _JOBS,
                readers=readers,
                progress=lambda done, total: progress(f"reading checkpoint {done} of {total}", done / total),
            )
            contents = Contents.of(catalogue)
            lost = getattr(readers, "lost", 0)
            shown = project is not None and not options.json
            diagnosis = diagnose(project, catalogue, checkpoints=contents.checkpoints) if shown else None
    if lost:
        which = count(lost, "reader")
        note(f"{which} of the Ray cluster {'was' if lost == 1 else 'were'} lost, and what they read was read again")
    if options.json:
        print_json(document(workspace.shown, report, contents))
    else:
        print_ingested(workspace.shown, report, contents, diagnosis)
    if not report.found or len(report.failed) == report.found:
        from epsopt.zoo.layouts.nothing_found import nothing_found

        raise nothing_found(folders, failed=report.failed, deleted=report.deleted, others=report.not_read)


def _folders(paths: Sequence[Path], project: Project | None) -> list[Path]:
    """Return the places to read; each is looked for before a database is made."""
    from epsopt.zoo.reading.remote import location

    folders = [location(p) for p in paths] or ([project.runs] if project else [])
    if not folders:
        raise UsageError("which folder holds the runs? 'epsopt ingest RUNS', or 'epsopt init RUNS' first")
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder} does not exist: expected a folder of training runs or a checkpoint file")
    return folders


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
