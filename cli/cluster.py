"""`epsopt cluster`: groups of runs that behave alike, and what tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, overwrite_option, seed_option
from epsopt.cli.pictures import former_picture_option

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.optimize.latent.clusters import Clustering
    from epsopt.zoo.catalogue.types import Checkpoint

_REDUNDANT = 8


@click.command("cluster")
@click.option("--groups", "-k", type=click.IntRange(min=2), help="How many; by default what separates best.")
@former_picture_option
@overwrite_option
@seed_option
@common
def command(options: Options, groups: int | None, picture: Path | None, overwrite: bool, seed: int) -> None:
    """Group runs by where they end on the map.

    Each group has a stability (how surely it is found again when a fifth of the runs is left out) and a medoid, its
    most typical run. Runs that end nearer to each other than a run moves in its last step are named as redundant.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, save_picture, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import measured, note_unseen, open_workspace

    with working("loading the map") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            from epsopt.optimize.latent.clusters import cluster_runs
            from epsopt.studies.surrogate_store import load_map, unseen, with_nan_weights

            surrogate, _ = load_map(catalogue)
            on_map = set(surrogate.memory.keys)
            left_out = with_nan_weights(catalogue, [c for c in checkpoints if c.sha256 not in on_map])
            n_unseen = unseen(catalogue, surrogate)
        progress("grouping runs", None)
        found, shown, points = cluster_runs(surrogate, checkpoints, groups=groups, seed=seed)
        if file is not None:
            from epsopt.figures import groups as groups_figure

            save_picture(groups_figure(surrogate, found, shown, points), file)
    _note_left_out(left_out, RunLabels.of(checkpoints))
    note_unseen(n_unseen)
    if options.json:
        print_json(_document(found, shown, surrogate.trained_on, seed))
        return
    _show(found, shown, workspace.shown_metrics(surrogate.metric_names), RunLabels.of(checkpoints))
    tell_picture(picture)


def _note_left_out(left_out: list[Checkpoint], labels: RunLabels) -> None:
    """Tell the user of checkpoints without a place on the map, and of which runs they are."""
    from epsopt.cli.output import note
    from epsopt.zoo.formatting import count

    runs = list(dict.fromkeys(labels(c.run) for c in left_out))
    if runs:
        named = ", ".join(runs[:_REDUNDANT]) + (" and others" if len(runs) > _REDUNDANT else "")
        number = count(len(left_out), "checkpoint is", "checkpoints are")
        whose = "its" if len(left_out) == 1 else "their"
        note(f"{number} left out, because {whose} weights are NaN, of {count(len(runs), 'run')}: {named}")


def _document(found: Clustering, shown: list[Checkpoint], trained_on: str, seed: int) -> dict[str, Any]:
    from epsopt.cli.render import checkpoint_json

    return {
        "seed": seed,
        "n_runs": len(shown),
        "silhouette": found.silhouette,
        "groups": [
            {
                "stability": g.stability,
                "medoid": checkpoint_json(shown[g.medoid]),
                "runs": [shown[i].run for i in g.members],
            }
            for g in found.groups
        ],
        "unclustered": [shown[i].run for i in found.unclustered],
        "redundant": [[shown[i].run for i in rows] for rows in found.redundant],
        "redundant_within": found.threshold,
        "differences": [{"name": d.name, "effect": d.effect, "p_value": d.p_value} for d in found.differences],
        "trained_on": trained_on,
    }


def _show(found: Clustering, shown: list[Checkpoint], names: tuple[str, ...], labels: RunLabels) -> None:
    from epsopt.cli.output import Head, Rows, metric_head, print_list, print_table, print_wrapped, value
    from epsopt.cli.render import formatters
    from epsopt.optimize.latent.clusters import DOUBTFUL, STABLE

    texts = formatters(names, [c.metrics for c in shown])
    heads = [Head("group"), Head("runs"), Head("stability"), Head("medoid", "left"), *(metric_head(n) for n in names)]
    rows = []
    for k, g in enumerate(found.groups, 1):
        medoid = shown[g.medoid]
        cells = [str(k), str(len(g.members)), f"{g.stability:.2f}", labels(medoid.run, medoid.epoch)]
        rows.append(Rows([[*cells, *(texts[n](medoid.metrics.get(n)) for n in names)]]))
    print_table(heads, rows)
    print_wrapped()
    loose = ": there is hardly any structure" if found.silhouette < 0.25 else ""
    print_wrapped(
        "Medoid: the checkpoint of a group that is nearest to all others of it; metrics are its own, measured. "
        "Stability: how surely a group is found again when a fifth of the runs is left out; above "
        f"{STABLE:g} the group is there, below {DOUBTFUL:g} do not rely on it. "
        f"Mean silhouette {found.silhouette:.2f}{loose}."
    )
    for k, g in enumerate(found.groups, 1):
        print_wrapped()
        print_wrapped(f"Group {k}, most typical first:")
        print_list(", ".join(labels(shown[i].run) for i in g.members))
    if found.unclustered:
        print_wrapped()
        print_wrapped("Unlike all others, and in no group:")
        print_list(", ".join(labels(shown[i].run) for i in found.unclustered))
    print_wrapped()
    if found.differences:
        print_wrapped("Hyperparameters that tell the groups apart, by group the median or most frequent value:")
        print_wrapped()
        heads = [Head("hyperparameter", "left"), *(Head(f"group {k}") for k in range(1, len(found.groups) + 1))]
        rows = []
        for d in found.differences:
            cells = [d.name]
            for g in found.groups:
                values = [v for i in g.members if (v := shown[i].hyperparameters.get(d.name)) is not None]
                cells.append(value(_typical(values)) if values else "-")
            rows.append(Rows([[*cells, f"{d.effect:.2f}", f"{d.p_value:.1g}"]]))
        print_table([*heads, Head("effect"), Head("p")], rows)
    else:
        print_wrapped("No hyperparameter tells the groups apart beyond chance.")
    print_wrapped()
    if found.redundant:
        print_wrapped("Redundant runs (they end nearer to each other than a run moves in its last step):")
        for rows_ in found.redundant[:_REDUNDANT]:
            print_list(", ".join(labels(shown[i].run) for i in rows_))
        if len(found.redundant) > _REDUNDANT:
            print_wrapped(f"  and {len(found.redundant) - _REDUNDANT} more sets (--json lists them all)")
    else:
        print_wrapped("No two runs end nearer to each other than a run moves in its last step.")


def _typical(values: list[object]) -> object:
    import statistics

    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return statistics.median(numbers) if len(numbers) == len(values) else statistics.mode(values)
