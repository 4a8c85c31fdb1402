"""`epsopt fit`: learn the map from the catalogue, and show how far it can be trusted."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, overwrite_option, ray_option, seed_option
from epsopt.cli.pictures import picture_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epsopt.studies.output_files import OutputFile
    from epsopt.studies.surrogate_store import FitOutcome
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.surrogate.validation import Validation
    from epsopt.zoo.ray_cluster import RayCluster


_NAMED = 8  # metrics that are named in a sentence


@click.command("fit")
@click.option("--from-scratch", is_flag=True, help="Start over, even where the kept map is current or can go on.")
@click.option(
    "--probes/--no-probes",
    default=None,
    help="Also fit a map that reads anchor embeddings (hooks.embed) beside the weights; default: if there are any.",
)
@ray_option("Train on a Ray cluster")
@picture_option
@overwrite_option
@seed_option
@common
def command(
    options: Options,
    seed: int,
    from_scratch: bool,
    probes: bool | None,
    ray: str | None,
    picture: Path | None,
    overwrite: bool,
) -> None:
    """Learn the map (the Epsilon-VAE) from the catalogue and validate it on held-out runs.

    A map that is there already goes on from where it is: it learns what is new in a fraction of the time and keeps its
    orientation; new runs are predicted before they are learned from. With half as many runs again it is fitted anew.

    With --ray, the processors of a Ray cluster train the folds side by side; the map is the same.

    --picture draws predictions against measurements of the runs that a fit from scratch held out.

    All checkpoints of a run are held out together. Errors are mean absolute errors in the metric's own units.
    """
    from epsopt.cli.output import print_json
    from epsopt.cli.pictures import picture_file, tell_picture
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import measured, open_workspace

    with working("loading the catalogue") as progress:
        workspace = open_workspace(options)
        with workspace.catalogue() as catalogue:
            measured(catalogue)
            file = picture_file(picture, catalogue, overwrite=overwrite)
            from epsopt.studies.fit_maps import fit_maps

            with _cluster(ray) as cluster:
                surrogate, validation, made, probed = fit_maps(
                    catalogue, workspace.project, seed=seed, from_scratch=from_scratch, probes=probes,
                    progress=progress, cluster=cluster,
                )  # fmt: skip
        if file is not None:
            _draw(surrogate, validation, file)
    if options.json:
        print_json(_document(surrogate, validation, made, probed, seed))
        return
    _show(validation, made, surrogate)
    if probed is not None:
        _show_probed(probed)
    tell_picture(picture)


def _cluster(ray: str | None) -> AbstractContextManager[RayCluster | None]:
    """Return the Ray cluster that is asked for, if one is."""
    if ray is None:
        return nullcontext()
    from epsopt.zoo.ray_cluster import connect_ray

    return connect_ray(ray)


def _draw(surrogate: Surrogate, validation: Validation, file: OutputFile) -> None:
    from epsopt.cli.pictures import save_picture
    from epsopt.figures import calibration, held_out

    title = "Runs held out of the fit: predicted, and measured"
    save_picture(calibration(held_out(surrogate, validation), validation.level, title=title), file)


def _show_probed(validation: Validation) -> None:
    """Print how far the map that reads embeddings can be trusted."""
    from epsopt.cli.output import print_wrapped

    print_wrapped()
    print_wrapped("With probes, that is, where hooks.embed ran the model on the anchors ('epsopt predict' uses it):")
    print_wrapped()
    _table(validation)
    for warning in validation.warnings():
        print_wrapped(f"Careful, even with probes: {warning}.")


def _document(
    surrogate: Surrogate, validation: Validation, made: FitOutcome, probed: Validation | None, seed: int
) -> dict[str, Any]:
    return {
        "fitted": made.how != "current",
        "refined": None
        if made.change is None
        else {
            "new_runs": made.change.new_runs,
            "new_checkpoints": made.change.new_checkpoints,
            "drift": made.change.drift,
        },
        "trained_on": surrogate.trained_on,
        "seed": seed,
        "n_runs": validation.n_runs,
        "n_checkpoints": validation.n_checkpoints,
        "n_placed": made.placed,
        "level": validation.level,
        "folds": validation.folds,
        **_report(validation),
        "learned": _learned_json(surrogate),
        "kept_as_data": list(made.metrics.kept) if made.metrics else [],
        "bounds_contradicted": list(made.bounds_contradicted),
        "embedding_r2": validation.embedding_r2,
        "embedding_cosine": validation.embedding_cosine,
        "with_probes": None if probed is None else _report(probed),
    }


def _report(validation: Validation) -> dict[str, Any]:
    return {
        "seconds": validation.seconds,
        "metrics": [
            {
                "name": m.name,
                "error": m.error,
                "median_error": m.median_error,
                "statistics_error": m.statistics_error,
                "skill": m.skill,
                "coverage": m.coverage,
                "worst_tenth": m.worst_tenth,
                "near_coverage": m.near_coverage,
                "far_coverage": m.far_coverage,
                "n_far": m.n_far,
                "width": m.width,
                "median_width": m.median_width,
                "n": m.n,
            }
            for m in validation.metrics
        ],
        "warnings": validation.warnings(),
    }


def _learned_json(surrogate: Surrogate) -> list[dict[str, Any]]:
    pairs = zip(surrogate.metric_names, surrogate.transforms, strict=True)
    return [{"name": name, "bounds": None if t.bounds is None else list(t.bounds)} for name, t in pairs]


def _print_metrics(made: FitOutcome, surrogate: Surrogate) -> None:
    """Say which metrics were learned, which are data only, and what they are taken to be at all."""
    from epsopt.cli.output import print_wrapped
    from epsopt.surrogate.ranges import range_text
    from epsopt.zoo.formatting import count

    chosen = made.metrics
    if chosen is not None:
        print_wrapped(f"Learned {count(len(chosen.names), 'metric')} ({chosen.rule}): {_named(chosen.names)}.")
        if chosen.kept:
            kept = count(len(chosen.kept), "other is", "others are")
            print_wrapped(
                f'{kept} kept as data: {_named(chosen.kept)}. [metrics] learn = ["NAME"] in epsopt.toml learns more.'
            )
        for pattern in chosen.unmatched:
            print_wrapped(f"Careful: [metrics] learn names {pattern}, and no metric that was measured is called so.")
    ranged: dict[str, list[str]] = {}
    for name, transform in zip(surrogate.metric_names, surrogate.transforms, strict=True):
        if transform.bounds is not None:
            ranged.setdefault(range_text(transform.bounds), []).append(name)
    ranges = "; ".join(f"{_named(names)} {text}" for text, names in ranged.items())
    if ranges:
        print_wrapped(
            f"What is predicted stays inside what they can be, as declared or guessed from their names: {ranges}."
        )
    for doubt in made.bounds_contradicted:
        print_wrapped(f"Careful: {doubt}.")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _show(validation: Validation, made: FitOutcome, surrogate: Surrogate) -> None:
    from epsopt.cli.output import print_wrapped

    seen = f"{validation.n_checkpoints} checkpoints of {validation.n_runs} runs"
    held_out = f"{validation.folds} folds of whole runs"
    if made.change is not None:
        print_wrapped(
            f"Refined the map with {made.change.new_checkpoints} new checkpoints, {made.change.new_runs} new runs "
            f"among them, in {validation.seconds:.0f} s; it now knows {seen}. Checkpoints that it knew before moved by "
            f"{made.change.drift:.0%} of their spread; --from-scratch starts over."
        )
        held_out += ", and new runs before they were learned from"
    elif made.how == "fitted":
        print_wrapped(f"Learned the map from {seen} in {validation.seconds:.0f} s.")
        if made.reason is not None:
            print_wrapped(f"The kept map was not refined: {made.reason}.")
    else:
        print_wrapped(f"The kept map is current: it was learned from these {seen}. --from-scratch learns it anew.")
    if made.placed:
        print_wrapped(
            f"{made.placed:,} further checkpoints are placed on it and not learned from: fingerprints of more at once "
            "would take too much memory."
        )
    _print_metrics(made, surrogate)
    print_wrapped()
    looked_at = "weights, hyperparameters and epoch" if surrogate.sees_hyperparameters else "weights only"
    print_wrapped(f"Mean absolute error on held-out runs ({held_out}), from {looked_at}:")
    print_wrapped()
    _table(validation)
    print_wrapped()
    print_wrapped(
        f"Skill: 0 is the train median, 1 is perfect. Intervals are made to cover {validation.level:.0%} of unseen "
        "checkpoints; in the worst tenth of the runs they cover fewer. An interval about the median that covers as "
        "much has the last column's width."
    )
    if sentence := validation.region_sentence():
        print_wrapped(sentence)
    if validation.embedding_r2 is not None and validation.embedding_cosine is not None:
        print_wrapped(
            f"Anchor embeddings on held-out runs: R² {validation.embedding_r2:.2f} over the mean embedding, "
            f"mean cosine {validation.embedding_cosine:.3f}."
        )
    for warning in validation.warnings():
        print_wrapped(f"Careful: {warning}.")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}".replace("%", " %")


def _table(validation: Validation) -> None:
    from epsopt.cli.output import Head, Rows, metric_head, print_table

    heads = [
        Head("metric", "left"),
        Head("map"),
        Head("train\nmedian"),
        Head("stats +\nLightGBM"),
        Head("\nskill"),
        Head("\ncovers"),
        Head("worst\ntenth"),
        Head("interval\nwidth"),
        Head("median's\nwidth"),
    ]
    rows = []
    for m in validation.metrics:
        errors = [f"{e:.3g}" for e in (m.error, m.median_error, m.statistics_error)]
        shares = [f"{m.skill:.2f}", *map(_percent, (m.coverage, m.worst_tenth))]
        rows.append(Rows([[metric_head(m.name).text, *errors, *shares, f"{m.width:.3g}", f"{m.median_width:.3g}"]]))
    print_table(heads, rows)
