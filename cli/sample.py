"""`epsopt sample`: hypothetical checkpoints in the region of the map that meets the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from epsopt.cli.options import Options, TargetCommand, common, level_option, seed_option

if TYPE_CHECKING:
    from epsopt.optimize.sampling import RegionSample
    from epsopt.optimize.targets import Objective, Target
    from epsopt.zoo.records import Checkpoint

_SHOWN = 10


@click.command("sample", cls=TargetCommand)
@click.option("--count", "-n", type=click.IntRange(min=1), default=100, show_default=True, help="How many.")
@click.option("--neighbours", type=click.IntRange(min=1), default=3, show_default=True, help="Named in --json.")
@click.option(
    "--probability",
    type=click.FloatRange(0, 1, True, True),
    default=0.5,
    show_default=True,
    help="That all targets are met, at least.",
)
@level_option
@seed_option
@common
def command(
    options: Options,
    wanted: dict[str, float],
    count: int,
    neighbours: int,
    probability: float,
    level: float,
    seed: int,
) -> None:
    """Sample hypothetical checkpoints that meet your targets, far apart, close to real ones.

    Everything about them is predicted, not evaluated; each names the real checkpoints nearest to it.
    """
    from epsopt.cli.describe import neighbour_json, objective_json, predicted_json, target_json
    from epsopt.cli.output import note, print_json
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import open_map

    with working("loading the map") as progress:
        opened = open_map(options, wanted)
        from epsopt.optimize.sampling import sample_region

        surrogate, objectives, targets = opened.surrogate, opened.objectives, opened.targets
        progress("sampling the map", None)
        found = sample_region(
            surrogate, opened.checkpoints, objectives, targets,
            n=count, neighbours=neighbours, probability=probability, level=level, seed=seed,
        )  # fmt: skip
    if opened.n_unseen:
        note(f"{opened.n_unseen} checkpoints of the catalogue are not on the map yet: 'epsopt fit' learns them")
    if options.json:
        print_json(
            {
                "seed": seed,
                "level": level,
                "least_probability": probability,
                "objectives": objective_json(objectives),
                "targets": target_json(targets),
                "share": found.share,
                "spacing": found.spacing,
                "trust_radius": found.radius,
                "best_probability": found.best,
                "trained_on": surrogate.trained_on,
                "samples": [
                    {
                        "z": p.z.tolist(),
                        "predicted": predicted_json(p),
                        "probability": p.probability,
                        "nearest": [neighbour_json(n) for n in p.nearest],
                    }
                    for p in found.points
                ],
            }
        )
    else:
        _show(found, objectives, targets, opened.checkpoints, count, probability)


def _show(
    found: RegionSample,
    objectives: tuple[Objective, ...],
    targets: list[Target],
    checkpoints: list[Checkpoint],
    count: int,
    probability: float,
) -> None:
    from epsopt.cli.describe import formatters, list_runs, metric_heads, near_label, varying
    from epsopt.cli.output import Head, Rows, print_table, say

    if not found.points:
        say(
            f"No point of the trust region meets all targets with a probability of {probability:g}: the best has "
            f"{found.best:.2g}. Ask for less, or sample with a lower --probability."
        )
        return
    names = [o.name for o in objectives]
    shown = found.points[:_SHOWN]
    texts = formatters(names, [p.point for p in shown])
    heads = [Head("#"), Head("P"), *metric_heads(names, objectives, targets), Head("nearest real checkpoint", "left")]
    rows = [
        Rows(
            [[str(i), f"{p.probability or 0.0:.2f}", *(texts[n](p.point[n]) for n in names), near_label(p.nearest[0])]]
        )
        for i, p in enumerate(shown, 1)
    ]
    print_table(heads, rows)
    say()
    more = f"; the first {_SHOWN} are shown, --json has all" if len(found.points) > _SHOWN else ""
    few = (
        " (fewer than asked for: the region holds no more of the proposed points)" if len(found.points) < count else ""
    )
    say(f"{len(found.points)} hypothetical checkpoints{few}{more}. Predicted, not evaluated.")
    say(
        f"{found.share:.0%} of the points proposed inside the trust region meet the targets. Samples lie "
        f"{found.spacing:.2f} apart (median), the trust region reaches {found.radius:.2f} from real checkpoints."
    )
    say()
    list_runs([p.nearest[0] for p in shown], varying(checkpoints))
