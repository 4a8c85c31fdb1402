"""What is in the report of a project: the front, the map, the proposals, calibration, gain, validation, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from epsopt.figures.calibrations import Comparison, calibration
from epsopt.figures.fronts import front
from epsopt.figures.latent_plane import map as map_figure
from epsopt.figures.volumes import hypervolume
from epsopt.optimize.objectives import Objective
from epsopt.studies.report.document import ReportDocument, Section, Table
from epsopt.studies.report.report import LoopReport
from epsopt.studies.report.verdict import verdicts
from epsopt.surrogate.validation import Validation
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from epsopt.surrogate.surrogate import Surrogate

_ON_THE_MAP = 2500  # points: with what hovering shows, more would make the page too large to send


@dataclass(frozen=True)
class ReportTexts:
    """Sentences and tables that say the report in words.

    Attributes:
        first: sentences above everything else.
        proposals: how many there are in which state.
        calibration: what the intervals held.
        gain: how the front moved.
        tables: of proposals, and of reasons why runs failed.
        steps: table of a budget's steps.
        provenance: rows of what the report was made from.
    """

    first: Sequence[str] = ()
    proposals: Sequence[str] = ()
    calibration: Sequence[str] = ()
    gain: Sequence[str] = ()
    tables: Sequence[Table] = ()
    steps: Sequence[Table] = ()
    provenance: Sequence[tuple[str, str]] = field(default=())


def report_contents(
    title: str,
    report: LoopReport,
    objectives: Sequence[Objective],
    texts: ReportTexts,
    *,
    surrogate: Surrogate | None = None,
    validation: Validation | None = None,
    n_unseen: int = 0,
) -> ReportDocument:
    """Put a report together.

    Args:
        title: of the report.
        report: of the loop.
        objectives: what counts.
        texts: sentences between the figures.
        surrogate: the map; None without one.
        validation: of the map.
        n_unseen: checkpoints that the map does not know yet.

    Returns:
        The report, the verdict first; what there is nothing to say of is left out.
    """
    everything = [*report.old, *report.new, *report.merged]
    figures: dict[str, Mapping[str, go.Figure]] = {}
    if objectives and any(all(c.metrics.get(o.name) is not None for o in objectives) for c in everything):
        waiting = [_predicted(p, objectives) for p in report.proposals if p.state in ("waiting", "running") and p.point]
        known = [w for w in waiting if all(o.name in w.point for o in objectives)]
        figures["front"] = {
            "front": front(
                objectives, [*report.old, *report.new], known, merged=report.merged, title="The measured front"
            )
        }
    if surrogate is not None:
        figures["map"] = _map(surrogate, everything, objectives)
    if compared := comparisons(report, objectives):
        level = max(p.level for p in report.measured())
        drawn = calibration(compared, level, title="Predicted before, and measured")
        figures["calibration"] = {"calibration": drawn}
    if len(report.hypervolumes) > 1:
        figures["gain"] = {"hypervolume": hypervolume({"hypervolume": report.hypervolumes})}
    sections = [
        Section("Notes", texts.first),
        Section("The front", figures=figures.get("front")),
        Section("The checkpoint map", _about_map(figures.get("map")), figures.get("map")),
        Section("Proposals", texts.proposals, tables=texts.tables),
        Section("Did the intervals hold?", texts.calibration, figures.get("calibration")),
        Section("Predicted and realized gain", [*texts.gain, *_gain(report)], figures.get("gain"), texts.steps),
        *_validation(validation),
        Section("Where this comes from", tables=[Table("", ["", ""], [list(row) for row in texts.provenance])]),
    ]
    return ReportDocument(title, verdicts(report, objectives, validation, n_unseen), sections)


def comparisons(report: LoopReport, objectives: Sequence[Objective]) -> list[Comparison]:
    """Return what was predicted of each proposal beside what it measured, metric by metric."""
    out = []
    for objective in objectives:
        for p in report.measured():
            found = p.compared(objective.name)
            if found is not None:
                label = f"proposal {p.number}" + ("" if p.step is None else f", a {p.step.kind}")
                out.append(Comparison(objective.name, label, *found))
    return out


def _predicted(proposal: Any, objectives: Sequence[Objective]) -> Any:
    """A proposal as a figure draws it."""
    names = [o.name for o in objectives]
    ends = {end: {n: v for n, v in getattr(proposal, end).items() if n in names} for end in ("point", "low", "high")}
    return SimpleNamespace(**ends, probability=None, nearest=())


def _map(
    surrogate: Surrogate, checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]
) -> Mapping[str, go.Figure]:
    try:
        drawn = map_figure(surrogate, checkpoints, colour=objectives[0].name, most=_ON_THE_MAP)
    except UsageError:  # it knows none of the checkpoints, or none has the metric
        return {}
    return {"map": drawn}


def _about_map(drawn: object) -> list[str]:
    return ["A point is a checkpoint: points near each other behave alike, and a line is a run."] if drawn else []


def _gain(report: LoopReport) -> list[str]:
    known = [s for s in report.steps if s.predicted_gain is not None]
    predicted = sum(s.predicted_gain or 0.0 for s in known)
    if not known or predicted <= 0.0:
        return []
    realized = sum(s.realized_gain for s in known)
    share = f"{realized / predicted:.0%} of that"
    return [f"Steps of the budget were predicted to add {predicted:.3g} to the hypervolume, and added {share}."]


def _validation(validation: Validation | None) -> list[Section]:
    if validation is None:
        return []
    rows = [
        [m.name, f"{m.error:.3g}", f"{m.median_error:.3g}", f"{m.statistics_error:.3g}", f"{m.coverage:.0%}", str(m.n)]
        for m in validation.metrics
    ]
    heads = ["metric", "error", "of the median", "of statistics + LightGBM", f"inside {validation.level:.0%}", "n"]
    caption = f"Mean absolute errors on runs held out of the fit ({validation.n_runs} runs, {validation.folds} folds)"
    warnings = [f"Careful: {text}." for text in validation.warnings()]
    return [Section("The map on runs that it had not seen", warnings, tables=[Table(caption, heads, rows)])]
