"""What is kept and shown: the project file, Optuna studies of all that is known, the dashboard.

Takes checkpoints, answers and proposals with plain fields (protocols.py) and keeps them as Optuna studies behind
the project's database URL. Knows nothing of how a checkpoint is parsed or how an answer was found.

Public is what ``__all__`` lists (docs/reference/api/studies.md). All else is internal and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.zoo.public_names import lazy_names

if TYPE_CHECKING:
    from epsopt.studies.embedding_preview import preview_embeddings
    from epsopt.studies.optuna_io.queue import ClaimedProposal, record_outcome, record_proposals, take_proposal
    from epsopt.studies.optuna_io.record_runs import Recorded, record_runs
    from epsopt.studies.optuna_io.recording import record_front, record_search
    from epsopt.studies.optuna_io.sampler import EpsilonSampler
    from epsopt.studies.optuna_io.storage import open_storage
    from epsopt.studies.project.project import Project, find_project, load_project
    from epsopt.studies.project.template import write_project
    from epsopt.studies.project.train_command import render_command
    from epsopt.studies.prune.catalogue_pruner import CataloguePruner
    from epsopt.studies.prune.lightning import EpsoptPruning
    from epsopt.studies.report.dashboard import dashboard_server, serve
    from epsopt.studies.surrogate_store import fit_map, load_map, training_set
    from epsopt.studies.worker.proposals import propose_next

_HOMES = {
    "CataloguePruner": "prune.catalogue_pruner",
    "Project": "project.project",
    "Recorded": "optuna_io.record_runs",
    "EpsilonSampler": "optuna_io.sampler",
    "EpsoptPruning": "prune.lightning",
    "ClaimedProposal": "optuna_io.queue",
    "dashboard_server": "report.dashboard",
    "find_project": "project.project",
    "fit_map": "surrogate_store",
    "load_map": "surrogate_store",
    "load_project": "project.project",
    "preview_embeddings": "embedding_preview",
    "open_storage": "optuna_io.storage",
    "propose_next": "worker.proposals",
    "record_front": "optuna_io.recording",
    "record_outcome": "optuna_io.queue",
    "record_proposals": "optuna_io.queue",
    "record_runs": "optuna_io.record_runs",
    "record_search": "optuna_io.recording",
    "render_command": "project.train_command",
    "serve": "report.dashboard",
    "take_proposal": "optuna_io.queue",
    "training_set": "surrogate_store",
    "write_project": "project.template",
}

__all__ = [
    "CataloguePruner",
    "ClaimedProposal",
    "EpsilonSampler",
    "EpsoptPruning",
    "Project",
    "Recorded",
    "dashboard_server",
    "find_project",
    "fit_map",
    "load_map",
    "load_project",
    "open_storage",
    "preview_embeddings",
    "propose_next",
    "record_front",
    "record_outcome",
    "record_proposals",
    "record_runs",
    "record_search",
    "render_command",
    "serve",
    "take_proposal",
    "training_set",
    "write_project",
]

# Names of version 0.1.
FORMER = {
    "CatalogueStopper": "epsopt.studies:CataloguePruner",
    "StopHopeless": "epsopt.studies:EpsoptPruning",
    "Taken": "epsopt.studies:ClaimedProposal",
    "record_measured": "epsopt.studies:record_runs",
    "pareto_figure": "epsopt.figures:front",
}

__getattr__ = lazy_names(__name__, _HOMES, FORMER)
