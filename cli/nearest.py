"""`epsopt nearest`: the catalogue's checkpoints nearest to one on the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common, details_option, overwrite_option
from epsopt.cli.pictures import picture_option
from epsopt.zoo.errors import EpsoptError, UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

    from epsopt.cli.resolve_checkpoint import Located
    from epsopt.cli.workspace import Workspace
    from epsopt.optimize.latent.neighbours import Neighbour
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint

_ALONE = "the map knows no other checkpoint"


@click.command("nearest")
@click.argument("what", metavar="PATH|RUN[:EPOCH]|SHA256")
@click.option("--count", "-k", type=click.IntRange(min=1), default=5, show_default=True, help="How many.")
@click.option("--one-per-run", is_flag=True, help="Only the nearest checkpoint of each run.")
@details_option
@picture_option
@overwrite_option
@common
def command(
    options: Options, what: str, count: int, one_per_run: bool, details: bool, picture: Path | None, overwrite: bool
) -> None:
    """Show the catalogue's checkpoints nearest to one: a file, a run's epoch (else its last), or a SHA-256 prefix.

    --picture draws them on the checkpoint map.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.render import neighbour_json
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map"):
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            found = _find(what, catalogue, checkpoints, count, one_per_run=one_per_run)
            if file is not None:
                save_picture(_figure(what, found, catalogue, checkpoints), file)
    if options.json:
        print_json(
            {
                "checkpoint": found.title,
                "sha256": found.sha256,
                "known_architecture": found.known_architecture,
                "nearest": [neighbour_json(n) for n in found.neighbours],
            }
        )
    else:
        _show(found, checkpoints, workspace, details=details)
        tell_picture(picture)


def _figure(what: str, found: _Found, catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> go.Figure:
    """Draw the map with a ring around the checkpoint and around its neighbours."""
    from epsopt.cli.resolve_checkpoint import locate
    from epsopt.figures import map as draw_map
    from epsopt.studies.surrogate_store import load_map
    from epsopt.zoo.formatting import count

    surrogate, _ = load_map(catalogue)
    row = {key: i for i, key in enumerate(surrogate.memory.keys)}
    latents = surrogate.memory.latents.double()
    near = latents[[row[n.sha256] for n in found.neighbours]].numpy()
    known = row.get(found.sha256)
    if known is None:
        own = _encoded(surrogate, locate(what, catalogue, checkpoints)).double()
    else:
        own = latents[known : known + 1]
    rings = [(found.title, own.numpy()), (f"its {count(len(near), 'nearest checkpoint')}", near)]
    return draw_map(surrogate, checkpoints, ringed=rings, title=f"Nearest to {found.title}")


def _encoded(surrogate: Surrogate, meant: Located) -> Tensor:
    from epsopt.surrogate.hyperparameter_table import hyperparameters_of

    return surrogate.encode([meant.fingerprint], hyperparameters=hyperparameters_of([meant.checkpoint]))


@dataclass(frozen=True)
class _Found:
    """What is nearest to a checkpoint, and how tables call that."""

    title: str
    shown: str
    sha256: str
    neighbours: Sequence[Neighbour]
    metric_names: tuple[str, ...]
    known_architecture: bool = True


def _find(
    what: str, catalogue: Catalogue, checkpoints: Sequence[Checkpoint], count: int, *, one_per_run: bool
) -> _Found:
    """Find what is nearest; of a checkpoint that the map knows without loading the map, which takes seconds."""
    from epsopt.cli.resolve_checkpoint import find_known, title
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.latent.neighbours import nearest_by_distance
    from epsopt.studies.map_index import read_map_index
    from epsopt.zoo.catalogue.types import each_content_once

    meant = find_known(what, catalogue, checkpoints)
    index = None if meant is None else read_map_index(catalogue)
    if meant is None or index is None or meant.sha256 not in index.rows:
        return _find_encoded(what, catalogue, checkpoints, count, one_per_run=one_per_run)
    distances = index.distances(meant.sha256)
    others = [
        c for c in each_content_once([c for c in checkpoints if c.sha256 in distances]) if c.sha256 != meant.sha256
    ]
    if not others:
        raise UsageError(_ALONE)
    found = nearest_by_distance([distances[c.sha256] for c in others], others, count, one_per_run=one_per_run)
    shown = RunLabels.of(checkpoints)(meant.run, meant.epoch)
    return _Found(title(meant), shown, meant.sha256, found, index.metric_names)


def _find_encoded(
    what: str, catalogue: Catalogue, checkpoints: Sequence[Checkpoint], count: int, *, one_per_run: bool
) -> _Found:
    """Find what is nearest to a checkpoint that the map must encode first."""
    from epsopt.cli.resolve_checkpoint import locate
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
        raise UsageError(_ALONE)
    z = _encoded(surrogate, meant)
    found = nearest(z, latents[others], [known[i] for i in others], count, one_per_run=one_per_run)[0]
    familiar = meant.fingerprint.signature in surrogate.architectures
    return _Found(meant.title, meant.shown, meant.checkpoint.sha256, found, surrogate.metric_names, familiar)


def _show(found: _Found, checkpoints: Sequence[Checkpoint], workspace: Workspace, *, details: bool) -> None:
    from epsopt.cli.output import DISTANCE, formatter, print_line, print_wrapped
    from epsopt.cli.render import checkpoint_table, list_runs, varying
    from epsopt.cli.run_labels import RunLabels

    labels = RunLabels.of(checkpoints)
    print_line(f"nearest to {found.shown}:")
    print_wrapped()
    objectives = workspace.project.objectives if workspace.project else ()
    text = formatter(n.distance for n in found.neighbours)
    extra = ("latent\ndistance", [text(n.distance) for n in found.neighbours])
    checkpoint_table(found.neighbours, workspace.shown_metrics(found.metric_names), objectives, labels, extra)
    print_wrapped()
    print_wrapped(DISTANCE.strip())
    print_wrapped()
    list_runs(found.neighbours, varying(checkpoints), labels, details=details)
    if not found.known_architecture:
        print_wrapped()
        print_wrapped("Careful: its architecture is none of the map's, so that latent distances say little.")
