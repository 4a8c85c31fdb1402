"""`epsopt merge`: merges of a few checkpoints that widen the measured front, each measured and saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, seed_option
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.objectives import Objective
    from epsopt.studies.merge.simplex_merge import Merged
    from epsopt.studies.merge.weight_space_merge import WeightSpaceMerge
    from epsopt.studies.project.project import Project
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint
    from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations


@click.command("merge")
@click.argument("parents", nargs=-1, metavar="[CHECKPOINT]...")
@click.option(
    "--count", "-n", type=click.IntRange(2, 5), default=3, show_default=True, help="Parents, if none is named."
)
@click.option("--wide", is_flag=True, help="Merge up to 24 checkpoints, each part of the network on its own.")
@click.option("--budget", type=click.IntRange(min=3), default=30, show_default=True, help="Real evaluations.")
@click.option(
    "--groups", metavar="PATTERN,...", help="Tensors with coefficients of their own: '*.encoder.*,*.projection.*'."
)
@click.option(
    "--reach", type=click.FloatRange(0.0, 1.0), default=0.0, show_default=True,
    help="Leave the simplex: 0.1 stretches it by a tenth.",
)  # fmt: skip
@click.option("--whole-budget", is_flag=True, help="With --wide: go on even where little more is expected.")
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="DIR", help="Where to; a new folder in the runs folder."
)
@click.option("--rank", type=click.IntRange(min=1), help="Of merged LoRA adapters; that of the sum if not said.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=1, show_default=True, help="Evaluations at a time.")
@click.option("--fresh", is_flag=True, help="Measure again what an interrupted merge measured.")
@click.option("--format", "form", type=click.Choice(["safetensors", "pt"]), help="Like the parents if not said.")
@seed_option
@common
def command(
    options: Options,
    parents: tuple[str, ...],
    count: int,
    wide: bool,
    budget: int,
    groups: str | None,
    reach: float,
    whole_budget: bool,
    save: Path | None,
    form: str | None,
    rank: int | None,
    jobs: int,
    fresh: bool,
    seed: int,
) -> None:
    """Merge 2 to 5 checkpoints of one lineage so that the measured front widens.

    Each merge is measured with the project's evaluate hook. Those that no measured checkpoint beats are saved with
    their origin, ready to be ingested. Parents not named are taken from the measured front.

    With --wide, up to 24 checkpoints are merged: the front and the ends of the newest runs. Blocks that moved alike
    while training are stretched, shrunk and exchanged together, wherever that is expected to widen the front most.
    """
    _check_options(wide=wide, chooses=bool(parents or groups or reach or _is_given("count")), whole=whole_budget)
    from epsopt.cli.merge_wide import merge_widely, print_wide
    from epsopt.cli.progress import working
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import check_objectives, measured, open_workspace
    from epsopt.studies.merge.resume import resumable, resumed_sentences
    from epsopt.studies.output_paths import save_folder

    with working("opening the catalogue") as progress:
        workspace = open_workspace(options)
        project = workspace.require_project()
        _require_evaluate(project)
        with workspace.catalogue() as catalogue:
            checkpoints, lineages = measured(catalogue), catalogue.lineages()
            check_objectives(project, catalogue.metric_names())
            chosen, broken = ([], []) if wide else _parents(parents, checkpoints, project, count, catalogue)
            _check_new(save)
            found: WeightSpaceMerge | None = None
            # Held from before the first evaluation: another merge at the same time takes another one.
            with (
                save_folder(save, project.runs, "merged", checkpoints) as folder,
                resumable(catalogue, project, rank, fresh=fresh) as kept,
            ):
                how: dict[str, Any] = {"budget": budget, "rank": rank, "seed": seed, "progress": progress}
                how |= {"jobs": jobs, "kept": kept}
                if wide:
                    found = merge_widely(project, checkpoints, lineages, folder, form, give_up=not whole_budget, **how)
                else:
                    merged = merge_within(project, checkpoints, chosen, folder, form, groups, reach=reach, **how)
    _say(found.sources.left_out if found else broken, [*(found or merged).disagreements, *resumed_sentences(kept)])
    labels = RunLabels.of(checkpoints)
    if found is not None:
        print_wide(found, project, folder, budget, seed, labels, as_json=options.json)
    else:
        _print(merged, broken, project, folder, budget, seed, reach, labels, as_json=options.json)


def _print(
    merged: Merged,
    broken: Sequence[Checkpoint],
    project: Project,
    folder: Path,
    budget: int,
    seed: int,
    reach: float,
    labels: RunLabels,
    *,
    as_json: bool,
) -> None:
    from epsopt.cli.output import print_json

    if as_json:
        print_json(_document(merged, broken, project.objectives, folder, budget, seed, reach))
    else:
        _show(merged, project.objectives, folder, project, budget, labels)


def _say(left_out: Sequence[Checkpoint], disagreements: Sequence[str]) -> None:
    from epsopt.cli.output import note
    from epsopt.studies.merge.merge_sources import left_out_sentences

    for sentence in (*left_out_sentences(left_out), *disagreements):
        note(sentence)


def _check_options(*, wide: bool, chooses: bool, whole: bool) -> None:
    if wide and chooses:
        raise UsageError(
            "--wide chooses checkpoints and parts by itself: leave out parents, --count, --groups, --reach"
        )
    if whole and not wide:
        raise UsageError("--whole-budget goes with --wide: without it the whole budget is spent anyway")


def _require_evaluate(project: Project) -> None:
    if project.evaluate is None:
        raise UsageError(
            f"{project.file}: merging measures every merged checkpoint, which needs a hook: add "
            '[hooks] evaluate = "package.module:function"'
        )


def _is_given(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _parents(
    named_ones: tuple[str, ...], checkpoints: Sequence[Checkpoint], project: Project, count: int, catalogue: Catalogue
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the parents, and checkpoints that would be some if no weight of theirs were NaN."""
    from epsopt.cli.resolve_checkpoint import named
    from epsopt.studies.merge.simplex_merge import front_parents
    from epsopt.studies.surrogate_store import with_nan_weights

    left_out: list[Checkpoint] = []
    while not named_ones:
        chosen = front_parents([c for c in checkpoints if c not in left_out], project.objectives, count)
        broken = with_nan_weights(catalogue, chosen)
        if not broken:
            return chosen, left_out
        left_out += broken
    chosen = [named(_known(p, checkpoints), checkpoints) for p in named_ones]
    if len({c.sha256 for c in chosen}) < len(chosen):
        raise UsageError("two of the parents are the same checkpoint: name each once")
    for c in with_nan_weights(catalogue, chosen):
        raise UsageError(
            f"{c.path} cannot be merged: some of its weights are NaN, and so would be those of every merge"
        )
    return chosen, []


def merge_within(
    project: Project,
    checkpoints: Sequence[Checkpoint],
    parents: Sequence[Checkpoint],
    folder: Path,
    form: str | None,
    groups: str | None,
    budget: int,
    reach: float,
    rank: int | None,
    seed: int,
    progress: Callable[[str, float | None], None],
    *,
    jobs: int = 1,
    kept: KeptEvaluations | None = None,
) -> Merged:
    """Merge checkpoints, each measured by the project's hook and saved into a folder."""
    from epsopt.studies.merge.simplex_merge import merge_checkpoints
    from epsopt.studies.output_paths import decoded_file
    from epsopt.zoo.decoding.decoder import WeightDecoder

    patterns = tuple(p.strip() for p in groups.split(",") if p.strip()) if groups else ()
    with WeightDecoder(
        project.evaluate, weights_key=project.weights_key, calibrate=project.calibrate, rank=rank, jobs=jobs, kept=kept
    ) as decoder:
        return merge_checkpoints(
            decoder, project, checkpoints, parents, lambda i: decoded_file(folder, f"merged_{i:03d}", form, parents),
            groups=patterns, budget=budget, reach=reach, seed=seed,
            progress=lambda done, total: progress("measuring merges", done / total),
        )  # fmt: skip


def _known(what: str, checkpoints: Sequence[Any]) -> str:
    """Turn a file into the content hash of its record; everything else is left as it is."""
    path = Path(what)
    if not path.is_file():
        return what
    found = next((c for c in checkpoints if Path(c.path) == path.resolve()), None)
    if found is None:
        raise UsageError(f"{path} is not in the catalogue: read it with 'epsopt ingest' first")
    return str(found.sha256)


def _check_new(save: Path | None) -> None:
    if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise UsageError(f"{save} is there already: name a new folder, nothing is written over")


def _document(
    merged: Merged,
    broken: Sequence[Checkpoint],
    objectives: Sequence[Objective],
    folder: Path,
    budget: int,
    seed: int,
    reach: float,
) -> dict[str, Any]:
    from epsopt.cli.merge_output import recombination_json
    from epsopt.cli.render import checkpoint_json, objective_json
    from epsopt.studies.merge.merge_sources import left_out_sentences
    from epsopt.zoo.decoding.provenance import labels

    named = labels(merged.parents)
    result = merged.result
    return {
        "objectives": objective_json(objectives),
        "parents": [checkpoint_json(p) for p in merged.parents],
        "base": None,
        "wide": False,
        "groups": list(merged.groups),
        "budget": budget,
        "seed": seed,
        "reach": reach,
        "evaluations": [
            {
                "weights": recombination_json(merged.recombination(e), named),
                "parts": None,
                "predicted": e.predicted,
                "predicted_gain": None,
                "measured": dict(e.measured),
                "reason": e.reason,
                "joined": i in result.joined,
                "saved": str(merged.saved[i].resolve()) if i in merged.saved else None,
            }
            for i, e in enumerate(result.evaluations)
        ],
        "stopped": result.stopped,
        "reference": dict(zip([o.name for o in objectives], result.reference, strict=True)),
        "hypervolume": {"before": result.before, "after": result.after},
        "disagreements": list(merged.disagreements),
        "left_out": left_out_sentences(broken),
        "folder": str(folder.resolve()) if merged.saved else None,
    }


def _show(
    merged: Merged, objectives: Sequence[Objective], folder: Path, project: Project, budget: int, labels: RunLabels
) -> None:
    from epsopt.cli.output import HYPERVOLUME, Head, Rows, print_line, print_table, print_wrapped
    from epsopt.cli.render import formatters, measured_row, metric_heads, short_path

    result = merged.result
    names = [o.name for o in objectives]
    rows = [i for i, e in enumerate(result.evaluations) if e.measured]
    texts = formatters(names, [result.evaluations[i].measured for i in rows])
    letters = "ABCDE"[: len(merged.parents)]
    for letter, parent in zip(letters, merged.parents, strict=True):
        print_line(f"{letter}  {labels(parent.run, parent.epoch)}")
    print_wrapped()
    groups = []
    for i in rows:
        e = result.evaluations[i]
        title = f"parent {letters[i]}" if i < len(letters) else f"merged {i}{' *' if i in result.joined else ''}"
        for g, coefficients in enumerate(e.coefficients):
            shown = " ".join(f"{c:5.2f}" for c in coefficients)
            cells = measured_row(title, e.measured, names, texts) if g == 0 else ["", *[""] * len(names)]
            groups.append(Rows([[cells[0], shown, *cells[1:]]]))
    heads = [Head("measured", "left"), Head(" ".join(f"{letter:>5}" for letter in letters), "left")]
    print_table([*heads, *metric_heads(names, objectives)], groups, keep=2)
    print_wrapped()
    if merged.groups:
        print_wrapped(f"Rows of coefficients: tensors that fit {', then '.join(merged.groups)}, then all others.")
    n = len(result.evaluations)
    if result.stopped is not None:
        print_wrapped(f"{n} of a budget of {budget} were measured: {result.stopped}.")
    if not result.joined:
        print_wrapped(f"None of the {n - len(letters)} merges beats what is measured already; nothing was saved.")
        return
    gain = f" ({result.after / result.before - 1.0:+.2%})" if result.before > 0.0 else ""
    print_wrapped(
        f"All values are measured by {project.evaluate}. {len(result.joined)} of {n - len(letters)} merges (*) are on "
        f"the measured front; its hypervolume went from {result.before:.4g} to {result.after:.4g}{gain}."
    )
    print_wrapped(HYPERVOLUME)
    print_line(f"saved in {short_path(folder.resolve())}; 'epsopt ingest' reads them")
