"""`epsopt check`: what in the database is damaged, and the command that mends it."""

from __future__ import annotations

import click

from epsopt.cli.options import Options, common
from epsopt.zoo.errors import CatalogueError
from epsopt.zoo.formatting import count


@click.command("check")
@common
def command(options: Options) -> None:
    """Check the database for damage, without changing it: catalogue, maps and studies.

    Each thing that is wrong is named with the command that mends it. The checkpoints' own files are compared with what
    was read by 'epsopt ingest --verify'.
    """
    from epsopt.cli.output import one_line, print_json, print_line, print_wrapped
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_workspace

    with working("checking the database"):
        workspace = open_workspace(options)
        from epsopt.studies.check import check_database

        found = check_database(workspace.storage)
    if options.json:
        print_json({"storage": workspace.shown, "damage": [{"problem": d.problem, "remedy": d.remedy} for d in found]})
    elif not found:
        print_wrapped(f"{workspace.shown} is in order.")
    else:
        for damage in found:
            print_line(one_line(damage.problem))
            print_line(f"  mend it with: {one_line(damage.remedy)}")
    if found:
        raise CatalogueError(f"{workspace.shown}: {count(len(found), 'thing is', 'things are')} damaged")
