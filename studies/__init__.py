"""What is kept and shown: the project file, Optuna studies of all that is known, the dashboard.

Takes checkpoints, answers and proposals with plain fields (kinds.py) and keeps them as Optuna studies behind
the project's database URL. Knows nothing of how a checkpoint is parsed or how an answer was found.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.studies.loop.lightning import StopHopeless
    from epsopt.studies.loop.queue import Taken, record_outcome, record_proposals, take_proposal
    from epsopt.studies.loop.stopping import CatalogueStopper
    from epsopt.studies.maps import fit_map, load_map, training_set
    from epsopt.studies.project.command import render_command
    from epsopt.studies.project.file import Project, find_project, load_project
    from epsopt.studies.project.template import write_project
    from epsopt.studies.records.recording import Recorded, record_front, record_measured, record_search
    from epsopt.studies.show.dashboard import dashboard_server, serve
    from epsopt.studies.show.figure import pareto_figure
    from epsopt.studies.storage import open_storage

# Loaded when first used (PEP 562): `epsopt --help` reads project files but must not wait for Optuna.
_HOMES = {
    "CatalogueStopper": "loop.stopping",
    "Project": "project.file",
    "Recorded": "records.recording",
    "StopHopeless": "loop.lightning",
    "Taken": "loop.queue",
    "dashboard_server": "show.dashboard",
    "find_project": "project.file",
    "fit_map": "maps",
    "load_map": "maps",
    "load_project": "project.file",
    "open_storage": "storage",
    "pareto_figure": "show.figure",
    "record_front": "records.recording",
    "record_measured": "records.recording",
    "record_outcome": "loop.queue",
    "record_proposals": "loop.queue",
    "record_search": "records.recording",
    "render_command": "project.command",
    "serve": "show.dashboard",
    "take_proposal": "loop.queue",
    "training_set": "maps",
    "write_project": "project.template",
}

__all__ = [
    "CatalogueStopper",
    "Project",
    "Recorded",
    "StopHopeless",
    "Taken",
    "dashboard_server",
    "find_project",
    "fit_map",
    "load_map",
    "load_project",
    "open_storage",
    "pareto_figure",
    "record_front",
    "record_measured",
    "record_outcome",
    "record_proposals",
    "record_search",
    "render_command",
    "serve",
    "take_proposal",
    "training_set",
    "write_project",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
