"""`epsopt nearest`: the catalogue's checkpoints nearest to one on the map."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, common
from epsopt.zoo.errors import UnreadableCheckpoint, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epsopt.zoo.catalogue import Catalogue
    from epsopt.zoo.fingerprints import Fingerprint
    from epsopt.zoo.records import Checkpoint


@click.command("nearest")
@click.argument("what", metavar="PATH|RUN[:EPOCH]|SHA256")
@click.option("--count", "-k", type=click.IntRange(min=1), default=5, show_default=True, help="How many.")
@click.option("--one-per-run", is_flag=True, help="Only the nearest checkpoint of each run.")
@common
def command(options: Options, what: str, count: int, one_per_run: bool) -> None:
    """Show the catalogue's checkpoints nearest to one: a file, a run's epoch (else its last), or a SHA-256 prefix."""
    from epsopt.cli.describe import checkpoint_table, list_runs, neighbour_json, varying
    from epsopt.cli.output import formatter, line, print_json, say
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the map"):
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            from epsopt.optimize.latent_search import known_latents
            from epsopt.optimize.neighbours import nearest
            from epsopt.studies.maps import load_map

            title, sha256, fingerprint = find(what, catalogue, checkpoints)
            surrogate, _ = load_map(catalogue)
        latents, known = known_latents(surrogate, checkpoints)
        others = [i for i, c in enumerate(known) if c.sha256 != sha256]
        if not others:
            raise UsageError("the map knows no other checkpoint")
        z = surrogate.encode([fingerprint])
        found = nearest(z, latents[others], [known[i] for i in others], count, one_per_run=one_per_run)[0]
    if options.json:
        print_json({"of": title, "sha256": sha256, "nearest": [neighbour_json(n) for n in found]})
        return
    line(f"nearest to {title}:")
    say()
    objectives = workspace.project.objectives if workspace.project else ()
    text = formatter(n.distance for n in found)
    distances = [text(n.distance) for n in found]
    checkpoint_table(found, surrogate.metric_names, objectives, ("latent\ndistance", distances))
    say()
    list_runs(found, varying(checkpoints))


def find(what: str, catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> tuple[str, str, Fingerprint]:
    """Return the name, content hash and fingerprint of the checkpoint that is meant."""
    from epsopt.cli.describe import short_path
    from epsopt.zoo.ingestion import read_fingerprints
    from epsopt.zoo.records import Failure

    path = Path(what)
    if path.is_file():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        meant = next((c for c in checkpoints if c.sha256 == sha256), None)
        if meant is None:
            content = read_fingerprints([path], catalogue)[0]
            if isinstance(content, Failure):
                raise UnreadableCheckpoint(content.path, content.reason)
            return short_path(path), content.sha256, content.fingerprint
    else:
        meant = _named(what, checkpoints)
    title = meant.run if meant.epoch is None else f"{meant.run}:{meant.epoch}"
    return title, meant.sha256, catalogue.fingerprints([meant.id])[0]


def _named(what: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    runs: dict[str, list[Checkpoint]] = {}
    for c in checkpoints:
        runs.setdefault(c.run, []).append(c)
    if what in runs:
        return runs[what][-1]
    run, colon, epoch = what.rpartition(":")
    if colon and run in runs:
        for c in runs[run]:
            if str(c.epoch) == epoch:
                return c
        epochs = ", ".join(str(c.epoch) for c in runs[run])
        raise UsageError(f"run {run} has no checkpoint of epoch {epoch}, it has {epochs}")
    if re.fullmatch(r"[0-9a-fA-F]{6,64}", what):
        fitting = [c for c in checkpoints if c.sha256.startswith(what.lower())]
        if len({c.sha256 for c in fitting}) == 1:
            return fitting[0]
        if fitting:
            raise UsageError(f"{len(fitting)} checkpoints have a SHA-256 that begins with {what}: write more of it")
    import difflib

    close = difflib.get_close_matches(run or what, runs, n=1)
    hint = f"did you mean {close[0]}?" if close else "'epsopt pareto --json' names runs and files"
    raise UsageError(f"{what} is no file, no run of the catalogue, and begins no SHA-256 in it: {hint}")
