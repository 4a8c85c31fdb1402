"""What the dashboard shows besides searches: runs as trials, and notes and files of proposals."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from epsopt.studies.optuna_io.record_runs import record_runs
from epsopt.studies.optuna_io.run_folders import folder_of
from epsopt.studies.optuna_io.stored_trials import proposed_trials, study_name
from epsopt.studies.optuna_io.study_notes import proposal_note, proposals_note, write_note, write_trial_notes
from epsopt.studies.optuna_io.trial_artifacts import name_artifacts
from epsopt.studies.project.project import Project
from epsopt.studies.report.report import WORDS, ProposalOutcome, loop_report
from epsopt.studies.report.verdict import verdicts
from epsopt.studies.schedule.budget import measured_merges
from epsopt.studies.worker.training_process import last_lines
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EmptyCatalogue, EpsoptError

EVERY = 20.0
"""Seconds between two looks for what is new, or twenty times what one takes if that is longer."""


def refresh_views(project: Project, storage: RDBStorage, catalogue: Catalogue) -> None:
    """Bring what the dashboard shows up to date with the catalogue and the proposals.

    Args:
        project: what epsopt.toml says; without objectives nothing is shown.
        storage: the studies (:func:`epsopt.studies.open_storage`).
        catalogue: the checkpoints.
    """
    checkpoints = catalogue.checkpoints()
    if not (project.objectives and checkpoints):
        return
    record_runs(storage, project.name, project.objectives, checkpoints)
    try:
        report = loop_report(project, storage, checkpoints, measured_merges(catalogue, project.name))
    except EmptyCatalogue:  # nothing was proposed yet
        return
    study = optuna.load_study(study_name=study_name(project.name), storage=storage)
    answers = [(v.question, v.answer, v.reason) for v in verdicts(report, report.objectives, None)]
    write_note(study, proposals_note(project.name, report.objectives, answers))
    trials = {t.number: t for t in proposed_trials(storage, project.name)}
    notes = {
        trials[p.number]._trial_id: _note(p, folder_of(project, trials[p.number]))  # noqa: SLF001 - there is no other
        for p in report.proposals
    }
    write_trial_notes(storage, study, notes)
    by_path = {path: c for c in checkpoints for path in c.paths}
    ended = {p.number: by_path[p.path] for p in report.proposals if p.path in by_path}
    name_artifacts(storage, study_name(project.name), {trials[n]._trial_id: c for n, c in ended.items()})  # noqa: SLF001


def _note(proposal: ProposalOutcome, folder: Path) -> str:
    measured = proposal.measured or {}
    names = [*proposal.point, *(n for n in measured if n not in proposal.point)]
    rows = [(n, _predicted(proposal, n), "" if (v := measured.get(n)) is None else f"{v:.4g}") for n in names]
    return proposal_note(
        proposal.number,
        WORDS.get(proposal.state, proposal.state),
        proposal.reason,
        rows,
        proposal.params,
        proposal.init_from,
        last_lines(folder),
    )


def _predicted(proposal: ProposalOutcome, name: str) -> str:
    if name not in proposal.point:
        return ""
    ends = f" ({proposal.low[name]:.4g} to {proposal.high[name]:.4g})" if name in proposal.low else ""
    return f"{proposal.point[name]:.4g}{ends}"


def keep_fresh(refresh: Callable[[], None], ended: Event, report: Callable[[str], object]) -> None:
    """Refresh again and again until the server ends.

    Args:
        refresh: brings the views up to date.
        ended: set when the server stops.
        report: is called once when the database cannot be read or written; the next look may succeed.
    """
    pause, reported = EVERY, False
    while not ended.wait(pause):
        started = time.monotonic()
        try:
            refresh()
        except (EpsoptError, SQLAlchemyError) as error:
            if not reported:
                report(f"what the dashboard shows is not up to date: {error}")
            reported = True
        pause = max(EVERY, EVERY * (time.monotonic() - started))
