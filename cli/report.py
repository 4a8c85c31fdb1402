"""`epsopt report`: what was predicted of the proposed runs, and what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epsopt.optimize.outcome import Accuracy
    from epsopt.optimize.targets import Objective
    from epsopt.studies.loop.report import LoopReport


@click.command("report")
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write it as one page with pictures, too.",
)  # fmt: skip
@common
def command(options: Options, page: Path | None) -> None:
    """Show predicted against measured for every proposal, and how far the intervals have held so far.

    Predictions are those that were made before a run was started.
    """
    from epsopt.cli.outcome import front_sentences, show_proposals
    from epsopt.cli.output import line, print_json, say
    from epsopt.cli.progress import working
    from epsopt.cli.workspace import measured, open_workspace

    with working("reading what came back"):
        workspace = open_workspace(options)
        project = workspace.needed()
        with workspace.catalogue() as catalogue:
            checkpoints = measured(catalogue)
        from epsopt.studies.loop.report import loop_report

        report = loop_report(project, workspace.studies(), checkpoints)
        if page is not None:
            _write(page, project.name, report, project.objectives)
    if options.json:
        print_json({**_document(report), "page": None if page is None else str(page.resolve())})
        return
    show_proposals(report, project.objectives)
    line("")
    for text in [*_calibration(report.accuracy, report), *front_sentences(report)]:
        say(text)
    if page is not None:
        line(f"wrote {page}")


def _write(page: Path, name: str, report: LoopReport, objectives: Sequence[Objective]) -> None:
    from epsopt.cli.outcome import front_sentences
    from epsopt.studies.loop.page import report_figure, write_page
    from epsopt.zoo.errors import UsageError

    figure = report_figure(report, objectives) if report.measured() else None
    lines = [*_counts(report), *_calibration(report.accuracy, report), *front_sentences(report)]
    try:
        write_page(page, f"{name}: predicted and measured", lines, figure)
    except OSError as error:
        raise UsageError(f"{page}: cannot be written: {error.strerror or error}") from error


def _counts(report: LoopReport) -> list[str]:
    from epsopt.studies.loop.report import WORDS

    counts: dict[str, int] = {}
    for p in report.proposals:
        state = WORDS.get(p.state, p.state)
        counts[state] = counts.get(state, 0) + 1
    return [f"{len(report.proposals)} proposals: {', '.join(f'{n} {state}' for state, n in counts.items())}."]


def _calibration(accuracy: Sequence[Accuracy], report: LoopReport) -> list[str]:
    """Say what the intervals held, with the interval that such a share may itself lie in."""
    from epsopt.optimize.outcome import share_interval

    levels = {p.level for p in report.measured()}
    meant = " or ".join(f"{level:.0%}" for level in sorted(levels))
    said = []
    for a in accuracy:
        if a.n:
            low, high = share_interval(a.inside, a.n)
            said.append(
                f"{a.name}: {a.inside} of {a.n} measurements lay in their {meant} intervals ({a.inside / a.n:.0%}; "
                f"from so many, the true share is {low:.0%} to {high:.0%}), mean error {a.error:.3g}."
            )
    return said


def _document(report: LoopReport) -> dict[str, Any]:
    from epsopt.cli.outcome import accuracy_json, hypervolume_json, mixtures_json, proposals_json
    from epsopt.optimize.outcome import share_interval

    return {
        "proposals": proposals_json(report),
        "accuracy": [
            {**row, "share": a.inside / a.n if a.n else None, "share_interval": share_interval(a.inside, a.n)}
            for row, a in zip(accuracy_json(report.accuracy), report.accuracy, strict=True)
        ],
        "over_time": [accuracy_json(step) for step in report.over_time],
        "hypervolume": {**hypervolume_json(report), "over_time": list(report.hypervolumes)},
        "mixtures": mixtures_json(report),
    }
