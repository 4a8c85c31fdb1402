"""`epsopt dashboard`: the Optuna dashboard on the project's studies, for this machine only."""

from __future__ import annotations

import click

from epsopt.cli.options import Options, common


@click.command("dashboard")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes any free one.")
@click.option("--allow-remote", is_flag=True, help="Let other machines in; there is no password.")
@click.option("--allow-edits", is_flag=True, help="Let the page change and delete studies.")
@common
def command(options: Options, host: str, port: int, allow_remote: bool, allow_edits: bool) -> None:
    """Open the Optuna dashboard on the project's studies, read-only; Ctrl-C ends it."""
    from epsopt.cli.output import note, print_json, print_line
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("opening the studies"):
        workspace = open_workspace(options)
        from epsopt.studies import serve
        from epsopt.studies.report.checkpoint_artifacts import CheckpointArtifacts
        from epsopt.studies.report.dashboard_views import refresh_views

        storage, project = workspace.studies(), workspace.project

        def refresh() -> None:
            if project is not None:
                with workspace.catalogue() as catalogue:
                    refresh_views(project, storage, catalogue)

        refresh()
        names = storage.get_all_studies()
    if not names:
        note("there are no studies yet: 'epsopt search' records them")

    def announce(url: str) -> None:
        if options.json:
            print_json({"url": url, "storage": workspace.shown, "studies": sorted(s.study_name for s in names)})
        else:
            print_line(f"dashboard of {workspace.shown}: {url}  (Ctrl-C ends it)")

    objectives = () if project is None else tuple(o.name for o in project.objectives)
    serve(
        workspace.storage, host, port, allow_remote=allow_remote, allow_edits=allow_edits, announce=announce,
        artifacts=CheckpointArtifacts(workspace.catalogue, objectives), refresh=refresh,
    )  # fmt: skip
