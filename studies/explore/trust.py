"""What the page says first: how far the map can be trusted, and how proposals fared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from epsopt.studies.explore.snapshot import Snapshot


def trust(snapshot: Snapshot) -> dict[str, Any]:
    """Return errors and coverage on runs that the map had not seen, its warnings, and how proposals fared.

    Args:
        snapshot: the map with its validation, and the report of proposals.
    """
    validation, report = snapshot.validation, snapshot.report
    proposals: dict[str, Any] | None = None
    if report is not None:
        gain, ended = report.gain, len(report.measured())
        proposals = {
            "text": f"{count(len(report.proposals), 'proposal')}, {ended} of them measured at their end",
            "accuracy": [{"name": a.name, "error": a.error, "inside": a.inside, "n": a.n} for a in report.accuracy],
            "gain": None if gain is None else {"before": gain.before, "after": gain.after, "relative": gain.relative},
        }
    return {
        "level": validation.level,
        "n_runs": validation.n_runs,
        "n_checkpoints": validation.n_checkpoints,
        "folds": validation.folds,
        "metrics": [
            {
                "name": m.name,
                "error": m.error,
                "median_error": m.median_error,
                "coverage": m.coverage,
                "width": m.width,
                "n": m.n,
            }
            for m in validation.metrics
        ],
        "warnings": validation.warnings(),
        "proposals": proposals,
    }
