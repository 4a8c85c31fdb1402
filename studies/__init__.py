"""What is kept and shown: the project file, Optuna studies of all that is known, the dashboard.

Takes checkpoints, answers and proposals with plain fields (kinds.py) and keeps them as Optuna studies behind
the project's database URL. Knows nothing of how a checkpoint is parsed or how an answer was found.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epsopt.studies.command import render_command
    from epsopt.studies.dashboard import dashboard_server, serve
    from epsopt.studies.figure import pareto_figure
    from epsopt.studies.maps import fit_map, load_map, training_set
    from epsopt.studies.project import Project, find_project, load_project
    from epsopt.studies.proposals import Taken, record_outcome, record_proposals, take_proposal
    from epsopt.studies.records import Recorded, record_front, record_measured, record_search
    from epsopt.studies.storage import open_storage
    from epsopt.studies.template import write_project

# Loaded when first used (PEP 562): `epsopt --help` reads project files but must not wait for Optuna.
_HOMES = {
    "Project": "project",
    "Recorded": "records",
    "Taken": "proposals",
    "dashboard_server": "dashboard",
    "find_project": "project",
    "fit_map": "maps",
    "load_map": "maps",
    "load_project": "project",
    "open_storage": "storage",
    "pareto_figure": "figure",
    "record_front": "records",
    "record_measured": "records",
    "record_outcome": "proposals",
    "record_proposals": "proposals",
    "record_search": "records",
    "render_command": "command",
    "serve": "dashboard",
    "take_proposal": "proposals",
    "training_set": "maps",
    "write_project": "template",
}

__all__ = [
    "Project",
    "Recorded",
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
