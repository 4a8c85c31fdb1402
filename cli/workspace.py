"""What a command works on: the project file, the catalogue and the fitted map."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from epsopt.zoo.errors import CatalogueError, EmptyCatalogue, UsageError
from epsopt.zoo.formatting import count

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from epsopt.cli.options import Options
    from epsopt.optimize.objectives import Objective, Target
    from epsopt.studies.optuna_io.stored_trials import StudyDatabase
    from epsopt.studies.project.project import Project
    from epsopt.surrogate.surrogate import Surrogate
    from epsopt.surrogate.validation import Validation
    from epsopt.zoo.catalogue.catalogue import Catalogue
    from epsopt.zoo.catalogue.types import Checkpoint

DEFAULT_STORAGE = "sqlite:///epsopt.db"


@dataclass(frozen=True)
class Workspace:
    """The project, if there is one, and the database.

    Attributes:
        project: what epsopt.toml says, or None.
        storage: database URL of the catalogue and the studies.
    """

    project: Project | None
    storage: str

    @property
    def shown(self) -> str:
        """The URL without its password."""
        from epsopt.zoo.credentials import masked_url

        return masked_url(self.storage)

    def require_project(self) -> Project:
        """Return the project, for commands that must know what is better.

        Raises:
            UsageError: there is no project file, or it names no objective.
        """
        from epsopt.studies import load_project

        project = self.project or load_project()
        if not project.objectives:
            raise UsageError(
                f"{project.file}: no objective is named: add a table [objectives.NAME] with "
                'direction = "maximize" or "minimize"'
            )
        return project

    def shown_metrics(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of a map's metrics that the project file still asks for; all of them where it names none."""
        from fnmatch import fnmatchcase

        project = self.project
        if project is None:
            return tuple(names)
        wanted = {o.name for o in project.objectives}
        kept = tuple(n for n in names if n in wanted or any(fnmatchcase(n, p) for p in project.learn))
        return kept or tuple(names)

    def catalogue(self) -> Catalogue:
        """Open the catalogue, which must be there already: nothing that only reads makes a database file.

        Raises:
            EmptyCatalogue: it is not.
            CatalogueError: it cannot be opened.
        """
        from epsopt.zoo.catalogue.catalogue import Catalogue

        project = self.project
        if project is None:
            return Catalogue.existing(self.storage)
        return Catalogue.existing(self.storage, **project.how_to_read)

    def proposals(self) -> StudyDatabase:
        """Open the database of the studies to read proposals.

        Raises:
            CatalogueError: the database cannot be opened.
        """
        from epsopt.studies.optuna_io.stored_trials import open_to_read

        return open_to_read(self.storage)

    def studies(self) -> RDBStorage:
        """Open the Optuna studies beside the catalogue.

        Raises:
            CatalogueError: the database cannot be opened.
        """
        import optuna

        from epsopt.studies import open_storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # what a command did, it says itself
        return open_storage(self.storage, create=False)


def open_workspace(options: Options) -> Workspace:
    """Find the project file, unless there is none, and the database.

    Raises:
        UsageError: the project file is missing where it was named, or wrong.
        CatalogueError: the database URL holds nothing.
    """
    if options.storage is not None and not options.storage.strip():
        raise CatalogueError("--storage is empty: expected a URL such as sqlite:///epsopt.db")
    from epsopt.studies import find_project, load_project

    file = options.project or find_project()
    project = load_project(file) if file is not None else None
    workspace = Workspace(project, options.storage or (project.storage if project else DEFAULT_STORAGE))
    context = click.get_current_context(silent=True)
    if context is not None and isinstance(known := context.find_root().obj, dict):
        known["storage"] = workspace.storage  # for whoever explains what went wrong
    return workspace


@dataclass(frozen=True, eq=False)
class MeasuredProject:
    """A project with what was measured, as `propose` needs it.

    Attributes:
        workspace: the project and the database.
        project: what epsopt.toml says; it names objectives.
        objectives: they, all known to the catalogue.
        checkpoints: the catalogue's.
        targets: what ``--target-NAME`` asked for.
    """

    workspace: Workspace
    project: Project
    objectives: tuple[Objective, ...]
    checkpoints: list[Checkpoint]
    targets: list[Target]


@dataclass(frozen=True, eq=False)
class OpenProject(MeasuredProject):
    """A project with its map, as `search` needs it.

    Attributes:
        surrogate: the newest map.
        validation: of it, on runs that were held out of the fit.
        n_unseen: measured checkpoints that it was not trained on, and a fit would learn.
    """

    surrogate: Surrogate
    validation: Validation
    n_unseen: int

    def note_unseen(self) -> None:
        """Tell the user of checkpoints that the map does not know."""
        note_unseen(self.n_unseen)


def note_unseen(number: int) -> None:
    """Report the number of checkpoints that the map does not know and a fit would learn."""
    from epsopt.cli.output import note

    if number:
        unknown = count(number, "checkpoint of the catalogue is", "checkpoints of the catalogue are")
        note(f"{unknown} not on the map yet: 'epsopt fit' learns {'it' if number == 1 else 'them'}")


def note_unseen_arguments(project: Project) -> None:
    """Tell the user which options of the train command its program is not seen to take, before a run is launched."""
    from epsopt.cli.output import note
    from epsopt.studies.project.launch_form import unseen_arguments

    script, unseen = unseen_arguments(project.command or (), project.cwd)
    if unseen:
        it = "it" if len(unseen) == 1 else "them"
        problem = f"{script} is not seen to take {', '.join(unseen)}, and the train command gives {it}"
        note(f"{problem}: change [train] command")


def open_map(options: Options, wanted: dict[str, float]) -> OpenProject:
    """Open the project, its catalogue and its map, and understand the targets.

    Raises:
        UsageError: no project file, no objectives, or a target that makes no sense.
        EmptyCatalogue: no checkpoint, or no map yet.
        CatalogueError: the database cannot be opened.
    """
    opened = _opened(options, wanted, needs_map=True)
    assert isinstance(opened, OpenProject)  # load_map refuses what has no map
    return opened


def open_measured(options: Options, wanted: dict[str, float]) -> MeasuredProject:
    """Open the project with its map, or without where none was fitted yet, and understand the targets.

    Raises:
        UsageError: no project file, no objectives, or a target that makes no sense.
        EmptyCatalogue: no checkpoint.
        CatalogueError: the database or the map cannot be opened.
    """
    return _opened(options, wanted, needs_map=False)


def _opened(options: Options, wanted: dict[str, float], *, needs_map: bool) -> MeasuredProject:
    workspace = open_workspace(options)
    project = workspace.require_project()
    with workspace.catalogue() as catalogue:
        checkpoints = measured(catalogue)
        from epsopt.studies.surrogate_store import find_map, load_map, unseen

        objectives = check_objectives(project, catalogue.metric_names())
        note_one_value(project, checkpoints)
        if (kept := find_map(catalogue)) is None:
            if needs_map:
                load_map(catalogue)  # says what is lacking
            targets = resolve_targets(wanted, project, checkpoints)
            return MeasuredProject(workspace, project, objectives, checkpoints, targets)
        surrogate, n_unseen = kept.surrogate, unseen(catalogue, kept.surrogate, checkpoints)
    note_other_bounds(project, surrogate)
    targets = resolve_targets(wanted, project, checkpoints, surrogate)
    return OpenProject(workspace, project, objectives, checkpoints, targets, surrogate, kept.validation, n_unseen)


def note_other_bounds(project: Project, surrogate: Surrogate) -> None:
    """Tell the user which metrics were declared to be something else since the map was fitted."""
    from epsopt.cli.output import note

    known = dict(zip(surrogate.metric_names, surrogate.transforms, strict=True))
    for name, bounds in project.bounds.items():
        if name in known and all(map(math.isfinite, bounds)) and known[name].bounds != bounds:
            note(
                f"the map does not know that {name} is between {bounds[0]:g} and {bounds[1]:g}, as {project.file.name} "
                "says: 'epsopt fit' learns it again"
            )


def note_one_value(project: Project, checkpoints: Sequence[Checkpoint]) -> None:
    """Tell the user which objectives have one value on all checkpoints, and so leave no hypervolume."""
    from epsopt.cli.output import note
    from epsopt.studies.project.metric_doubts import of_one_value

    for text in of_one_value([o.name for o in project.objectives], [c.metrics for c in checkpoints]):
        note(text)


def note_followed(storage: RDBStorage, project: Project) -> None:
    """Have proposals follow the objectives of the project file, and tell the user if they changed.

    Raises:
        UsageError: a worker trains for the objectives of before.
    """
    from epsopt.cli.output import note
    from epsopt.studies.optuna_io.changed_objectives import follow_objectives

    followed = follow_objectives(storage, project.name, project.objectives)
    if followed is not None:
        note(followed)


def measured(catalogue: Catalogue) -> list[Checkpoint]:
    """Return the catalogue's checkpoints.

    Raises:
        EmptyCatalogue: there is none.
    """
    checkpoints = catalogue.checkpoints()
    if not checkpoints:
        raise EmptyCatalogue("the catalogue is empty: read your runs with 'epsopt ingest RUNS' first")
    return checkpoints


def check_objectives(project: Project, metrics: Sequence[str]) -> tuple[Objective, ...]:
    """Return the project's objectives, all of them metrics that the catalogue has.

    Raises:
        UsageError: one of them is none.
    """
    for objective in project.objectives:
        if objective.name not in metrics:
            close = difflib.get_close_matches(objective.name, metrics, n=1)
            raise UsageError(
                f"{project.file}: [objectives.{objective.name}] names a metric that no checkpoint in the catalogue "
                f"has, {f'did you mean {close[0]}? Known' if close else 'known'}: {', '.join(metrics) or 'none'}"
            )
    return project.objectives


def resolve_targets(
    wanted: dict[str, float], project: Project, checkpoints: Sequence[Checkpoint], surrogate: Surrogate | None = None
) -> list[Target]:
    """Turn ``--target-NAME VALUE`` into targets: for what was measured, and for objectives that were not yet.

    The limits of objectives (``at_least``, ``at_most``) are targets, too.

    Raises:
        UsageError: no such metric, no direction for it, or a value that it cannot take.
    """
    from epsopt.cli.options import named_targets
    from epsopt.optimize.objectives import limits_as_targets, parse_targets

    observed: dict[str, tuple[float, float]] = {}
    for name in sorted({n for c in checkpoints for n in c.metrics}):
        values = [v for c in checkpoints if (v := c.metrics.get(name)) is not None]
        if values:
            observed[name] = min(values), max(values)
    pairs = named_targets(wanted, [*observed, *(o.name for o in project.objectives if o.name not in observed)])
    directed = {o.name for o in project.objectives}
    for name in pairs:
        if name not in directed:
            known = surrogate is not None and name in surrogate.metric_names
            fit = "" if known else (
                ", then run 'epsopt fit' to learn it: other metrics are data unless [metrics] learn names them"
            )  # fmt: skip
            raise UsageError(
                f"which way is {name} better? Add [objectives.{name}] with direction = "
                f'"maximize" or "minimize" to {project.file}{fit}'
            )
    scales = [] if surrogate is None else zip(surrogate.metric_names, surrogate.transforms, strict=True)
    found = {n: t.bounds for n, t in scales if t.bounds}
    asked = parse_targets(pairs, project.objectives, observed, {**found, **project.bounds})
    return limits_as_targets(project.objectives, asked)
