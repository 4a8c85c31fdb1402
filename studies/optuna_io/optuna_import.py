"""An Optuna study that was run before, as a table of runs for the zoo, which knows no Optuna."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from epsopt.zoo.catalogue.database import require_plain_user
from epsopt.zoo.credentials import masked, masked_url
from epsopt.zoo.errors import CatalogueError, UsageError
from epsopt.zoo.side_files.run_tables import Entry, RunTable

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def study_sheet(source: str, folder: Path) -> RunTable:
    """Read the trials of a study; the study and its database are not changed.

    A trial's run is the folder that one of its user attributes names, or else the one folder with its number
    (``trial_7``, ``0007``). Parameters are hyperparameters; objective values belong to the run's last checkpoint, and
    what was reported on the way (one objective) to the checkpoints of those steps. A trial that failed or still runs
    counts where an attribute names its run.

    Args:
        source: ``URL#NAME``; ``#NAME`` may be left out where the database holds one study.
        folder: that relative paths start from.

    Raises:
        UsageError: no such study, or several and none is named.
        CatalogueError: the database cannot be opened, or holds no studies.
    """
    url, name = _parts(source)
    shown = masked_url(url)
    try:
        storage = RDBStorage(_read_only(url, folder), skip_table_creation=True)
        names = [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    except ImportError as error:
        raise CatalogueError(f"{shown}: the driver of that database is not installed: pip install it first") from error
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        lines = masked(str(error), url).strip().splitlines()
        raise CatalogueError(
            f"{shown}: its studies cannot be read: {lines[0] if lines else type(error).__name__}"
        ) from error
    if not name and len(names) != 1:
        raise UsageError(f"{shown}: which study? Add #NAME; there are: {', '.join(names) or 'none'}")
    if name and name not in names:
        raise UsageError(f"{shown}: no study {name!r}; there are: {', '.join(names) or 'none'}")
    study = optuna.load_study(study_name=name or names[0], storage=storage)
    metrics = study.metric_names or _metric_names(len(study.directions))
    states = (*_ENDED, TrialState.FAIL, TrialState.RUNNING)
    entries = [e for trial in study.get_trials(deepcopy=False, states=states) for e in _entries(trial, metrics)]
    return RunTable(f"study {study.study_name}", folder, tuple(entries))


def _parts(source: str) -> tuple[str, str]:
    """Take ``URL#NAME`` apart, at the first # that is not in a password."""
    for mark in re.finditer("#", source):
        url, name = source[: mark.start()], source[mark.end() :]
        if "@" not in name or "@" in url or ":" not in url.partition("://")[2] or url.startswith("sqlite"):
            return url, name
    return source, ""


def _read_only(url: str, folder: Path) -> str:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UsageError(
            f"{masked_url(url)!r} is no database URL: expected sqlite:///FILE.db#STUDY or "
            "postgresql+psycopg://USER@HOST/NAME#STUDY"
        ) from None  # what SQLAlchemy says may hold the password
    except ModuleNotFoundError:  # said better when it is opened
        pass
    require_plain_user(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    file = (folder / parsed.database).absolute()
    if not file.is_file():
        raise UsageError(f"{file}: there is no such database")
    return f"sqlite:///file:{file}?mode=ro&uri=true"


def _metric_names(count: int) -> list[str]:
    return ["value"] if count == 1 else [f"value_{i}" for i in range(count)]


def _entries(trial: FrozenTrial, metrics: list[str]) -> list[Entry]:
    # Any text with a separator may name the folder; one that names none of the runs found is passed over.
    paths = tuple(v for v in trial.user_attrs.values() if isinstance(v, str) and "/" in v and len(v) < 4096)
    # What a failed or running trial was launched with is true of the run that it names; a number may be another's.
    known: dict[str, Any] = {"names": paths, "number": trial.number if trial.state in _ENDED else None}
    if trial.state not in _ENDED and not paths:
        return []
    values = dict(zip(metrics, trial.values or (), strict=False))
    out = [Entry(**known, hyperparameters=trial.params, metrics=values)]
    if len(metrics) == 1:
        reported = trial.intermediate_values.items()
        out += [Entry(**known, step=step, metrics={metrics[0]: value}) for step, value in reported]
    return out
