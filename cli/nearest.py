"""`epsopt nearest`: the catalogue's checkpoints nearest to one on the map."""

from __future__ import annotations

import click

from epsopt.cli.options import Options, common
from epsopt.zoo.errors import EpsoptError, UsageError


@click.command("nearest")
@click.argument("what", metavar="PATH|RUN[:EPOCH]|SHA256")
@click.option("--count", "-k", type=click.IntRange(min=1), default=5, show_default=True, help="How many.")
@click.option("--one-per-run", is_flag=True, help="Only the nearest checkpoint of each run.")
@common
def command(options: Options, what: str, count: int, one_per_run: bool) -> None:
    """Show the catalogue's checkpoints nearest to one: a file, a run's epoch (else its last), or a SHA-256 prefix."""
    from epsopt.cli.output import formatter, print_json, print_line, print_wrapped
    from epsopt.cli.progress import working
    from epsopt.cli.render import checkpoint_table, list_runs, neighbour_json, varying
    from epsopt.cli.resolve_checkpoint import locate
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map"):
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            from epsopt.optimize.latent.neighbours import nearest
            from epsopt.optimize.latent.search import known_latents
            from epsopt.studies.surrogate_store import load_map

            meant = locate(what, catalogue, checkpoints)
            if (refused := meant.fingerprint.refusal) is not None:
                raise EpsoptError(f"no checkpoints nearest to {meant.shown} are shown: {refused}")
            surrogate, _ = load_map(catalogue)
        latents, known = known_latents(surrogate, checkpoints)
        others = [i for i, c in enumerate(known) if c.sha256 != meant.checkpoint.sha256]
        if not others:
            raise UsageError("the map knows no other checkpoint")
        z = surrogate.encode([meant.fingerprint])
        known_architecture = meant.fingerprint.signature in surrogate.architectures
        found = nearest(z, latents[others], [known[i] for i in others], count, one_per_run=one_per_run)[0]
    if options.json:
        print_json(
            {
                "checkpoint": meant.title,
                "sha256": meant.checkpoint.sha256,
                "known_architecture": known_architecture,
                "nearest": [neighbour_json(n) for n in found],
            }
        )
        return
    labels = RunLabels.of(checkpoints)
    print_line(f"nearest to {meant.shown}:")
    print_wrapped()
    objectives = workspace.project.objectives if workspace.project else ()
    text = formatter(n.distance for n in found)
    distances = [text(n.distance) for n in found]
    checkpoint_table(
        found, workspace.shown_metrics(surrogate.metric_names), objectives, labels, ("latent\ndistance", distances)
    )
    print_wrapped()
    list_runs(found, varying(checkpoints), labels)
    if not known_architecture:
        print_wrapped()
        print_wrapped("Careful: its architecture is none of the map's, so that latent distances say little.")
