"""`epsopt merge`: mixtures of a few checkpoints that widen the measured front, each measured and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, seed_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.optimize.targets import Objective
    from epsopt.studies.merges import Merged
    from epsopt.studies.project.file import Project


@click.command("merge")
@click.argument("parents", nargs=-1, metavar="[CHECKPOINT]...")
@click.option(
    "--count", "-n", type=click.IntRange(2, 5), default=3, show_default=True, help="Parents, if none is named."
)
@click.option("--budget", type=click.IntRange(min=3), default=30, show_default=True, help="Real evaluations.")
@click.option(
    "--groups", metavar="PATTERN,...", help="Tensors with coefficients of their own: '*.encoder.*,*.projection.*'."
)
@click.option(
    "--reach", type=click.FloatRange(0.0, 1.0), default=0.0, show_default=True,
    help="Leave the simplex: 0.1 stretches it by a tenth.",
)  # fmt: skip
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="DIR", help="Where to; a new folder in the runs folder."
)
@click.option("--format", "form", type=click.Choice(["safetensors", "pt"]), help="Like the parents if not said.")
@seed_option
@common
def command(
    options: Options,
    parents: tuple[str, ...],
    count: int,
    budget: int,
    groups: str | None,
    reach: float,
    save: Path | None,
    form: str | None,
    seed: int,
) -> None:
    """Mix 2 to 5 checkpoints of one lineage so that the measured front widens.

    Each mixture is measured with the project's evaluate hook. Those that no measured checkpoint beats are saved with
    their origin, ready to be ingested. Parents not named are taken from the measured front.
    """
    from epsopt.cli.mixed import suffix_for
    from epsopt.cli.output import note, print_json
    from epsopt.cli.progress import working
    from epsopt.cli.which import named
    from epsopt.cli.workspace import check_objectives, measured, open_workspace
    from epsopt.zoo.decoding.decoder import WeightDecoder

    with working("opening the catalogue") as progress:
        workspace = open_workspace(options)
        project = workspace.needed()
        if project.evaluate is None:
            raise UsageError(
                f"{project.file}: merging measures every mixture, which needs a hook: add "
                '[hooks] evaluate = "package.module:function"'
            )
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            check_objectives(project, catalogue.metric_names())
        from epsopt.studies.merges import front_parents, merge_checkpoints

        if parents:
            chosen = [named(_known(p, checkpoints), checkpoints) for p in parents]
        else:
            chosen = front_parents(checkpoints, project.objectives, count)
        if len({c.sha256 for c in chosen}) < len(chosen):
            raise UsageError("two of the parents are the same checkpoint: name each once")
        folder = _folder(save, project)
        suffix = suffix_for(form, chosen)
        patterns = tuple(p.strip() for p in groups.split(",") if p.strip()) if groups else ()
        with WeightDecoder(project.evaluate) as decoder:
            merged = merge_checkpoints(
                decoder, project, checkpoints, chosen, lambda i: folder / f"merged_{i:03d}{suffix}",
                groups=patterns, budget=budget, reach=reach, seed=seed,
                progress=lambda done, total: progress("measuring mixtures", done / total),
            )  # fmt: skip
    for sentence in merged.disagreements:
        note(sentence)
    if options.json:
        print_json(_document(merged, project.objectives, folder, budget, seed, reach))
    else:
        _show(merged, project.objectives, folder, project)


def _known(what: str, checkpoints: Sequence[Any]) -> str:
    """Turn a file into the content hash of its record; everything else is left as it is."""
    path = Path(what)
    if not path.is_file():
        return what
    found = next((c for c in checkpoints if Path(c.path) == path.resolve()), None)
    if found is None:
        raise UsageError(f"{path} is not in the catalogue: read it with 'epsopt ingest' first")
    return str(found.sha256)


def _folder(save: Path | None, project: Project) -> Path:
    from epsopt.cli.mixed import new_folder

    if save is not None:
        if save.exists() and (not save.is_dir() or any(save.iterdir())):
            raise UsageError(f"{save} is there already: name a new folder, nothing is written over")
        return save
    return new_folder(project.runs, "merge")


def _document(
    merged: Merged, objectives: Sequence[Objective], folder: Path, budget: int, seed: int, reach: float
) -> dict[str, Any]:
    from epsopt.cli.describe import checkpoint_json, objective_json
    from epsopt.cli.mixed import recombination_json
    from epsopt.zoo.decoding.provenance import labels

    named = labels(merged.parents)
    result = merged.result
    return {
        "objectives": objective_json(objectives),
        "parents": [checkpoint_json(p) for p in merged.parents],
        "groups": list(merged.groups),
        "budget": budget,
        "seed": seed,
        "reach": reach,
        "evaluations": [
            {
                "weights": recombination_json(merged.recombination(e), named),
                "predicted": e.predicted,
                "measured": dict(e.measured),
                "why": e.why,
                "joined": i in result.joined,
                "saved": str(merged.saved[i].resolve()) if i in merged.saved else None,
            }
            for i, e in enumerate(result.evaluations)
        ],
        "reference": dict(zip([o.name for o in objectives], result.reference, strict=True)),
        "hypervolume": {"before": result.before, "after": result.after},
        "disagreements": list(merged.disagreements),
        "folder": str(folder.resolve()) if merged.saved else None,
    }


def _show(merged: Merged, objectives: Sequence[Objective], folder: Path, project: Project) -> None:
    from epsopt.cli.describe import formatters, measured_row, metric_heads, short_path
    from epsopt.cli.output import Head, Rows, label, line, print_table, say

    result = merged.result
    names = [o.name for o in objectives]
    rows = [*range(len(merged.parents)), *result.joined]
    texts = formatters(names, [result.evaluations[i].measured for i in rows])
    letters = "ABCDE"[: len(merged.parents)]
    for letter, parent in zip(letters, merged.parents, strict=True):
        line(f"{letter}  {label(parent.run, parent.epoch, 60)}")
    say()
    groups = []
    for i in rows:
        e = result.evaluations[i]
        title = f"parent {letters[i]}" if i < len(letters) else f"merged {i}"
        for g, coefficients in enumerate(e.coefficients):
            shown = " ".join(f"{c:5.2f}" for c in coefficients)
            cells = measured_row(title, e.measured, names, texts) if g == 0 else ["", *[""] * len(names)]
            groups.append(Rows([[cells[0], shown, *cells[1:]]]))
    heads = [Head("measured", "left"), Head(" ".join(f"{letter:>5}" for letter in letters), "left")]
    print_table([*heads, *metric_heads(names, objectives)], groups, keep=2)
    say()
    if merged.groups:
        say(f"Rows of coefficients: tensors that fit {', then '.join(merged.groups)}, then all others.")
    n = len(result.evaluations)
    if not result.joined:
        say(f"None of the {n - len(letters)} mixtures beats what is measured already; nothing was saved.")
        return
    gain = f" ({result.after / result.before - 1.0:+.2%})" if result.before > 0.0 else ""
    say(
        f"All values are measured by {project.evaluate}. {len(result.joined)} of {n - len(letters)} mixtures are on "
        f"the measured front; its hypervolume went from {result.before:.4g} to {result.after:.4g}{gain}."
    )
    line(f"saved in {short_path(folder.resolve())}; 'epsopt ingest' reads them")
