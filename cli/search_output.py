"""What `epsopt search` prints: the answers, the real checkpoints nearest to them, and what meets the targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epsopt.cli.run_labels import RunLabels
    from epsopt.cli.workspace import OpenProject
    from epsopt.optimize.latent.search import SearchResult
    from epsopt.studies.merge.decode import MergedCheckpoint
    from epsopt.studies.merge.decode_answers import DecodedPoint
    from epsopt.zoo.catalogue.types import Checkpoint


def print_search(
    opened: OpenProject, result: SearchResult, made: Sequence[DecodedPoint], study: str | None, limit: int,
    *, details: bool,
) -> None:  # fmt: skip
    """Print the answers of a search as tables, and what to make of them."""
    from epsopt.cli.output import print_wrapped
    from epsopt.cli.render import list_runs, varying
    from epsopt.cli.run_labels import RunLabels

    checkpoints = opened.checkpoints
    labels = RunLabels.of(checkpoints)
    merges = [m.merged for m in made]
    _print_answers(opened, result, merges, labels)
    print_wrapped()
    _print_legend(opened, result, made)
    if len(result.answers) < limit:
        _print_fewer(result, limit)
    print_wrapped()
    list_runs([a.nearest[0] for a in result.answers], varying(checkpoints), labels, details=details)
    print_wrapped()
    if result.targets:
        _print_targets(result, checkpoints, labels)
    if study is not None:
        print_wrapped(f"Recorded as the Optuna study {study}: 'epsopt dashboard' shows it.")


def _print_answers(
    opened: OpenProject, result: SearchResult, merges: Sequence[MergedCheckpoint | None], labels: RunLabels
) -> None:
    """One group of rows an answer: predicted, its interval, its weights where made, the nearest checkpoint."""
    from epsopt.cli import decoded
    from epsopt.cli.output import Head, Rows, print_table
    from epsopt.cli.render import formatters, measured_row, metric_heads, near_label, predicted_rows

    names = [o.name for o in result.objectives]
    values = [m for a in result.answers for m in (a.point, a.low, a.high, a.nearest[0].metrics)]
    values += [m.measured or m.assessment.point for m in merges if m is not None]
    texts = formatters(names, values, opened.checkpoints)
    groups = []
    for i, a in enumerate(result.answers, 1):
        title = "predicted" if a.probability is None else f"predicted, P {a.probability:.2f}"
        rows, dim = predicted_rows(a, names, texts, title, result.level)
        near = measured_row(near_label(a.nearest[0], labels), a.nearest[0].metrics, names, texts)
        merged = merges[i - 1] if merges else None
        weights = [] if merged is None else [["", *decoded.decoded_row(merged, names, texts)]]
        groups.append(Rows([[str(i), *rows[0]], ["", *rows[1]], *weights, ["", *near]], dim))
    print_table([Head("#"), Head("", "left"), *metric_heads(names, result.objectives, result.targets)], groups, keep=2)


def _print_legend(opened: OpenProject, result: SearchResult, made: Sequence[DecodedPoint]) -> None:
    from epsopt.cli import decoded
    from epsopt.cli.output import DISTANCE, print_wrapped, targets_hold

    standing = (
        decoded.standing(opened, result.answers, made) if made else "Predicted values are predicted, not evaluated."
    )
    print_wrapped(
        f"{standing} The last row of each answer is the nearest real checkpoint (its latent distance) as it was "
        f"measured.{DISTANCE}{targets_hold(result.targets)}"
    )
    for text in decoded.reasons_without_prediction([m.merged for m in made]):
        print_wrapped(text)


def _print_fewer(result: SearchResult, limit: int) -> None:
    from epsopt.cli.output import print_wrapped
    from epsopt.zoo.formatting import count

    n = len(result.answers)
    print_wrapped(
        f"{count(n, 'answer')} instead of {limit}, each nearest to another real checkpoint: all "
        f"other points of the predicted front lie nearest to {'the same one' if n == 1 else 'one of these'}, or are "
        "predicted to measure the same."
    )


def _print_targets(result: SearchResult, checkpoints: Sequence[Checkpoint], labels: RunLabels) -> None:
    """Say whether answers and measured checkpoints meet the targets."""
    from epsopt.cli.output import print_line, print_wrapped

    if not result.targets_met:
        print_wrapped("No answer is more likely than not to meet all targets; these come nearest.")
    meeting = result.measured_meeting_targets
    if meeting:
        best = labels(meeting[0].run, meeting[0].epoch)
        print_wrapped(
            f"{len(meeting)} of the {len(checkpoints)} checkpoints measurably meet all targets, {best} among the best:"
        )
        print_line(f"  {meeting[0].path}")
    else:
        best = "; ".join(_best_of(t.name, checkpoints, result) for t in result.targets)
        print_wrapped(f"The data holds no measured checkpoint that meets all targets. Best measured: {best}.")


def _best_of(name: str, checkpoints: Sequence[Checkpoint], result: SearchResult) -> str:
    """Name the best measured value of one metric in all its digits: a table's may look like its target's."""
    maximize = next(o.maximize for o in result.objectives if o.name == name)
    values = [v for c in checkpoints if (v := c.metrics.get(name)) is not None]
    return f"{name} {max(values) if maximize else min(values):.6g}" if values else f"{name} never"
