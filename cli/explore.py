"""`epsopt explore`: one page over the catalogue and the map, for this machine only, or as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, level_option, overwrite_option

if TYPE_CHECKING:
    from epsopt.cli.workspace import Workspace
    from epsopt.studies.explore.snapshot import Snapshot
    from epsopt.zoo.catalogue.catalogue import Catalogue


@click.command("explore")
@click.option("--export", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write the page as one HTML file that needs no server, and end.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0 takes any free one.")
@click.option("--allow-remote", is_flag=True, help="Let other machines in; there is no password.")
@click.option("--allow-writes", is_flag=True, help="Let the page queue proposals and make checkpoints.")
@overwrite_option
@level_option
@common
def command(
    options: Options, export: Path | None, host: str, port: int, allow_remote: bool, allow_writes: bool,
    overwrite: bool, level: float,
) -> None:  # fmt: skip
    """Explore the map in a browser: checkpoints, front, runs and what-if, linked; Ctrl-C ends it.

    The page reaches no other host and changes nothing, unless --allow-writes is given.
    """
    from epsopt.cli.output import print_json, print_line
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("loading the map"):
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            from epsopt.studies.explore.page import exported
            from epsopt.studies.explore.server import explore_server, serve_page
            from epsopt.studies.output_files import output_file, run_folders

            if export is not None:
                runs = run_folders(catalogue)
                file = output_file(export, (".html", ".htm"), "an exported page", overwrite=overwrite, runs=runs)
            snapshot = open_snapshot(workspace, catalogue, level, studies=allow_writes)
        if export is not None:
            file.write(exported(snapshot))
        else:
            server = explore_server(snapshot, host, port, allow_remote=allow_remote, allow_writes=allow_writes)
    about = {"checkpoints": len(snapshot.checkpoints), "storage": workspace.shown}
    if export is not None:
        if options.json:
            print_json({"url": None, "page": str(export.resolve()), **about})
        else:
            print_line(f"wrote {export}")
        return

    def announce(url: str) -> None:
        if options.json:
            print_json({"url": url, "page": None, **about})
        else:
            print_line(f"{workspace.shown} to explore: {url}  (Ctrl-C ends it)")

    serve_page(server, announce)


def open_snapshot(workspace: Workspace, catalogue: Catalogue, level: float, *, studies: bool = False) -> Snapshot:
    """Read what the page is about; ``studies`` has a place for them made where there is none.

    Raises:
        UsageError: no project file, or no objectives.
        EmptyCatalogue: no checkpoint, or no map yet.
    """
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import check_objectives, measured
    from epsopt.studies.explore.snapshot import take_snapshot
    from epsopt.studies.optuna_io.storage import has_studies

    project = workspace.require_project()
    checkpoints = measured(catalogue)
    objectives = check_objectives(project, catalogue.metric_names())
    storage = workspace.studies() if studies or has_studies(workspace.storage) else None
    labels = RunLabels.of(checkpoints).shown
    return take_snapshot(project, objectives, catalogue, storage, labels=labels, level=level)
