"""`epsopt report`: what was predicted of the proposed runs, and what they measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epsopt.cli.options import Options, common, details_option, overwrite_option
from epsopt.zoo.errors import UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epsopt.optimize.forecast.evaluation import Accuracy
    from epsopt.optimize.schedule.remaining_gain import RemainingGain
    from epsopt.studies.project.project import Project
    from epsopt.studies.report.report import LoopReport

_FEWEST_TO_COMPARE = 4
"""Runs in each half of the history; the share of fewer says nothing."""


@click.command("report")
@click.option(
    "--html", "--output", "page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write it as one page with pictures, too: .html, or .md with PNG files in a folder beside it.",
)  # fmt: skip
@click.option("--format", "form", type=click.Choice(["html", "md"]), help="Of the page; by default what FILE says.")
@click.option("--anonymous", is_flag=True, help="Leave names of runs, files and the project out of the page.")
@click.option(
    "--further", type=click.FloatRange(min=0, min_open=True), metavar="EPOCHS",
    help="Predict what so many further epochs of 'epsopt work --budget' add to the front.",
)  # fmt: skip
@details_option
@overwrite_option
@common
def command(
    options: Options, page: Path | None, form: str | None, anonymous: bool, further: float | None, details: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Show predicted against measured for every proposal, and how far the intervals have held so far.

    Predictions are those that were made before a run was started.
    """
    from epsopt.cli.loop_tables import show_proposals, show_steps
    from epsopt.cli.output import print_json, print_line, print_wrapped
    from epsopt.cli.progress import working
    from epsopt.cli.report_page import MapOfReport, map_of_report, provenance, report_files, write_page
    from epsopt.cli.workspace import note_one_value, open_workspace

    if form is not None and page is None:
        raise UsageError(f"--format is the kind of page that is written: name its file, too: --output report.{form}")
    with working("reading what came back") as progress:
        workspace = open_workspace(options)
        project = workspace.require_project()
        from epsopt.studies.report.report import loop_report
        from epsopt.studies.schedule.budget import measured_merges

        with workspace.catalogue() as catalogue:
            files = None if page is None else report_files(page, form, catalogue, overwrite=overwrite)
            shown = MapOfReport() if page is None else map_of_report(catalogue)
            checkpoints, merges = catalogue.checkpoints(), measured_merges(catalogue, project.name)
        note_one_value(project, checkpoints)
        report = loop_report(project, workspace.proposals(), checkpoints, merges)
        remaining = None
        if further is not None:
            from epsopt.studies.schedule.remaining import project_remaining_gain

            progress("predicting further epochs", None)
            with workspace.catalogue() as catalogue:
                remaining = project_remaining_gain(project, workspace.studies(), catalogue, further)
        if files is not None:
            from epsopt.studies.optuna_io.stored_trials import searched_targets

            progress("drawing", None)
            targets = searched_targets(workspace.proposals(), project.name)
            write_page(
                files.page, project.name, report, report.objectives, other_objectives(report, project),
                pictures=files.pictures, shown=shown, about=provenance(project, report, shown, _called(), targets),
                nameless=anonymous,
            )  # fmt: skip
    if options.json:
        by_reason = {"page": None if page is None else str(page.resolve()), "remaining": _remaining(remaining)}
        print_json({**report_document(report), **by_reason})
        return
    show_proposals(report, report.objectives, details=details)
    show_steps(report)
    print_line("")
    for text in [*other_objectives(report, project), *_sentences(report)]:
        print_wrapped(text)
    if further is not None:
        from epsopt.studies.schedule.remaining import remaining_sentence

        print_wrapped(remaining_sentence(remaining, further))
    if page is not None:
        print_line(f"wrote {page}")


def _called() -> str:
    """The command that is running, as it was typed."""
    import shlex
    import sys

    return shlex.join(["epsopt", *sys.argv[1:]])


def _remaining(found: RemainingGain | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def other_objectives(report: LoopReport, project: Project) -> list[str]:
    """Say that the project file names other objectives than the proposals were made for."""
    if report.objectives == project.objectives:
        return []
    made, now = (", ".join(o.name for o in some) for some in (report.objectives, project.objectives))
    change = f"The proposals were made for {made}, and this is a report on those; {project.file.name} names {now} now."
    return [f"{change} 'epsopt propose' and 'epsopt work' take the proposals over to them; nothing is lost."]


def reasons(report: LoopReport) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of a table of why runs failed or were stopped, with the numbers of their proposals."""
    from epsopt.studies.report.report import WORDS

    by_reason: dict[str, list[str]] = {}
    for p in report.proposals:
        if p.failure is not None:
            by_reason.setdefault(f"{WORDS.get(p.state, p.state)}, {p.failure}", []).append(str(p.number))
    return ["reason", "proposals"], [[why, ", ".join(numbers)] for why, numbers in by_reason.items()]


def _sentences(report: LoopReport) -> list[str]:
    from epsopt.cli.loop_tables import front_sentences

    return [*interval_sentences(report), *front_sentences(report), *wait_sentences(report)]


def interval_sentences(report: LoopReport) -> list[str]:
    """Say what was predicted of proposals and came true: intervals, steps that joined the front, control runs."""
    return [
        *_calibration(report.accuracy, report), *drift_sentences(report), *joining_sentences(report),
        *control_run_sentences(report),
    ]  # fmt: skip


def count_sentences(report: LoopReport) -> list[str]:
    """Say how many proposals are in which state."""
    from epsopt.studies.report.report import WORDS

    counts: dict[str, int] = {}
    for p in report.proposals:
        state = WORDS.get(p.state, p.state)
        counts[state] = counts.get(state, 0) + 1
    return [f"{count(len(report.proposals), 'proposal')}: {', '.join(f'{n} {state}' for state, n in counts.items())}."]


def _calibration(accuracy: Sequence[Accuracy], report: LoopReport) -> list[str]:
    """Say what the intervals held, with the interval that such a share may itself lie in."""
    from epsopt.optimize.forecast.evaluation import share_interval

    levels = {p.level for p in report.measured()}
    meant = " or ".join(f"{level:.0%}" for level in sorted(levels))
    sentences = []
    for a in accuracy:
        if a.n:
            low, high = share_interval(a.inside, a.n)
            sentences.append(
                f"{a.name}: {a.inside} of {a.n} measurements lay in their {meant} intervals ({a.inside / a.n:.0%}; "
                f"from so many, the true share is {low:.0%} to {high:.0%}), mean error {a.error:.3g}."
            )
    return sentences


def drift_sentences(report: LoopReport) -> list[str]:
    """Say whether the intervals hold better or worse than they did: earlier half of the runs, later half."""
    half = len(report.over_time) // 2
    if half < _FEWEST_TO_COMPARE:
        return []
    sentences = []
    earlier = {a.name: a for a in report.over_time[half - 1]}
    for a in report.accuracy:
        before = earlier.get(a.name)
        if before is None or not before.n or a.n == before.n:
            continue
        n, inside = a.n - before.n, a.inside - before.inside
        error = (a.error * a.n - before.error * before.n) / n
        sentences.append(
            f"{a.name} over time: {before.inside} of the first {before.n} inside, mean error {before.error:.3g}; "
            f"{inside} of the last {n}, {error:.3g}."
        )
    return sentences


def joining_sentences(report: LoopReport) -> list[str]:
    """Say how many steps joined the front, and how many of them were expected to."""
    whole = [p for p in report.measured() if p.step is not None and p.joins_front is not None and p.as_predicted]
    if not whole:
        return []
    expected = sum(p.joins_front or 0.0 for p in whole)
    joined = sum(p.step is not None and p.step.realized_gain > 0.0 for p in whole)
    ended = f"Of {count(len(whole), 'predicted step')} that went to {'its' if len(whole) == 1 else 'their'} end"
    return [f"{ended}, {expected:.1f} were expected to join the front; {joined} did."]


def control_run_sentences(report: LoopReport) -> list[str]:
    """Say how those fared that would have been stopped."""
    if not report.control_runs:
        return []
    joined = sum(a.joined for a in report.control_runs)
    expected = sum(a.probability for a in report.control_runs)
    left = f"Control runs, which the pruner would have pruned: {len(report.control_runs)}"
    return [f"{left}; {joined} of them reached the front after all ({expected:.1f} expected)."]


def wait_sentences(report: LoopReport) -> list[str]:
    """Say how long slots were empty."""
    from statistics import median

    waits = report.idle_seconds()
    if not waits:
        return []
    most = f"{median(waits):.1f} s in the median, {max(waits):.1f} s at most"
    return [f"Before a launch its slot was empty for {most} ({count(len(waits), 'launch', 'launches')})."]


def report_document(report: LoopReport) -> dict[str, Any]:
    """Return the report as its JSON document."""
    from epsopt.cli.loop_tables import accuracy_json, hypervolume_json, merges_json, proposals_json, steps_json
    from epsopt.optimize.forecast.evaluation import share_interval

    front = hypervolume_json(report)
    return {
        "proposals": proposals_json(report),
        "accuracy": [
            {**row, "share": a.inside / a.n if a.n else None, "share_interval": share_interval(a.inside, a.n)}
            for row, a in zip(accuracy_json(report.accuracy), report.accuracy, strict=True)
        ],
        "over_time": [accuracy_json(step) for step in report.over_time],
        "hypervolume": None if front is None else {**front, "over_time": list(report.hypervolumes)},
        "control_runs": [
            {"number": a.number, "probability": a.probability, "joined": a.joined} for a in report.control_runs
        ],
        "merges": merges_json(report),
        "steps": steps_json(report),
        "idle_seconds": report.idle_seconds(),
    }
