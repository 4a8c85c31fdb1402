"""The project file epsopt.toml, found, read and checked."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space, Span, condition_value
from epsopt.studies.project.model_folder import model_of
from epsopt.studies.project.schema import ParameterTable, ProjectFile, project_name
from epsopt.studies.project.train_command import OWN_HOLES, SEARCHED, Command, holes
from epsopt.zoo.errors import UsageError
from epsopt.zoo.reading.remote import is_url, location

FILE_NAME = "epsopt.toml"


@dataclass(frozen=True)
class Project:
    """What epsopt.toml says, with every path absolute.

    Attributes:
        name: first part of the names of all its studies.
        file: the project file.
        runs: folder of the training runs.
        storage: database URL of the catalogue and the studies.
        objectives: the metrics that count, in the order of the file.
        bounds: lowest and highest possible value of those metrics that declare it; an end may be infinite.
        space: the declared search space; None where it is to be inferred from past runs.
        command: the train command with its holes; None where nothing can be launched.
        cwd: folder that the train command starts in.
        evaluate: hook "package.module:function", or None.
        calibrate: likewise.
        embed: hook "package.module:function", or None.
        learn: metrics that are learned besides the objectives; ``*``, ``?`` and ``[...]`` stand for others.
        rename: metrics by the name that some runs give them, to their name here.
        rename_hyperparameters: hyperparameters, likewise.
        table: CSV table of runs, or None.
        table_params: columns of it without a prefix that are hyperparameters.
        table_metrics: columns of it without a prefix that are metrics.
        study: an Optuna study that tells of the runs, as URL#NAME, or None.
        follow_links: whether links that lead out of the folder of runs are followed.
        weights_key: the keys that lead to the weights in a checkpoint, joined with dots; empty to find them.
        base: the checkpoint that runs start from where they name none themselves, or None.
    """

    name: str
    file: Path
    runs: Path
    storage: str
    objectives: tuple[Objective, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    space: Space | None = None
    command: Command | None = None
    cwd: Path = Path()
    evaluate: str | None = None
    calibrate: str | None = None
    embed: str | None = None
    learn: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    rename_hyperparameters: Mapping[str, str] = field(default_factory=dict)
    table: Path | None = None
    table_params: tuple[str, ...] = ()
    table_metrics: tuple[str, ...] = ()
    study: str | None = None
    follow_links: bool = False
    weights_key: str = ""
    base: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that the file's relative paths start from."""
        return self.file.parent

    @property
    def how_to_read(self) -> dict[str, Any]:
        """What :class:`epsopt.zoo.Catalogue` is opened with, besides its database and the base."""
        return {
            "rename": self.rename,
            "weights_key": self.weights_key,
            "rename_hyperparameters": self.rename_hyperparameters,
        }

    def require_command(self) -> Command:
        """Return the train command.

        Raises:
            UsageError: there is none; the message says what to add.
        """
        if self.command is None:
            raise UsageError(f"{self.file} has no train command: add [train] with command = [...]")
        return self.command


def find_project(start: Path | None = None) -> Path | None:
    """Return the epsopt.toml in a folder or the nearest above it, if any.

    Args:
        start: the folder to begin in; None: the current one.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / FILE_NAME).is_file():
            return candidate / FILE_NAME
    return None


def load_project(path: Path | str | None = None) -> Project:
    """Read and check a project file.

    Args:
        path: the file or the folder that holds it; None looks in the current folder and upwards.

    Returns:
        What the file says, with every path absolute.

    Raises:
        UsageError: no file, not readable as TOML, or a key that is unknown or holds something else than
            expected.
    """
    if path is None:
        file = find_project()
        if file is None:
            raise UsageError(f"no {FILE_NAME} in {Path.cwd()} or above it: write one with `epsopt init RUNS`")
    else:
        file = Path(path).resolve()
        file = file / FILE_NAME if file.is_dir() else file
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    except FileNotFoundError as error:
        raise UsageError(
            f"{file}: there is no such project file: name an {FILE_NAME} or the folder that holds it, or write one "
            "with 'epsopt init RUNS'"
        ) from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    return check_text(file, text)


def check_text(file: Path, text: str) -> Project:
    """Return what the text of a project file says, whether or not it stands in the file yet.

    Raises:
        UsageError: not TOML, or a key that is unknown or holds something else than expected.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    try:
        parsed = ProjectFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{file}: {_first_error(error)}") from error
    return _resolved(file, parsed)


def _resolved(file: Path, parsed: ProjectFile) -> Project:
    folder = file.parent
    space = _space(file, parsed.space) if parsed.space else None
    command = None
    if parsed.train is not None:
        command = tuple(item if isinstance(item, str) else tuple(item) for item in parsed.train.command)
        _check_holes(file, command, space)
    return Project(
        name=parsed.project.name or project_name(folder.name),
        file=file,
        runs=_absolute_runs(parsed.project.runs, folder),
        storage=_absolute_url(parsed.project.storage, folder),
        objectives=tuple(
            Objective(name, maximize=table.direction == "maximize", limit=table.limit)
            for name, table in parsed.objectives.items()
        ),
        bounds=parsed.metrics.bounds
        | {name: table.bounds for name, table in parsed.objectives.items() if table.bounds is not None},
        space=space,
        command=command,
        cwd=(folder / (parsed.train.cwd if parsed.train else ".")).resolve(),
        evaluate=parsed.hooks.evaluate,
        calibrate=parsed.hooks.calibrate,
        embed=parsed.hooks.embed,
        learn=tuple(parsed.metrics.learn),
        rename=parsed.metrics.rename,
        rename_hyperparameters=parsed.hyperparameters.rename,
        table=None if parsed.runs.table is None else _absolute_runs(parsed.runs.table, folder),
        table_params=tuple(parsed.runs.params),
        table_metrics=tuple(parsed.runs.metrics),
        study=parsed.runs.study,
        follow_links=parsed.runs.follow_links,
        weights_key=parsed.runs.weights_key or "",
        base=None if parsed.lineage.base is None else model_of(_absolute_runs(parsed.lineage.base, folder)),
    )


def _absolute_runs(runs: str, folder: Path) -> Path:
    return location(runs) if is_url(runs) else (folder / Path(runs).expanduser()).resolve()


def _absolute_url(url: str, folder: Path) -> str:
    """Make a relative SQLite path start at the project file, so that it means the same from every folder."""
    for scheme in ("sqlite:///", "sqlite+pysqlite:///"):
        if url.startswith(scheme):
            database, mark, options = url.removeprefix(scheme).partition("?")
            if database and not database.startswith((":memory:", "file:")):
                return f"{scheme}{folder / database}{mark}{options}"
    return url


def _space(file: Path, tables: Mapping[str, ParameterTable]) -> Space:
    ordered: dict[str, Parameter] = {}
    waiting = dict(tables)
    while waiting:  # in the order of the file, but a parent always before its children
        ready = (n for n, t in waiting.items() if t.active_when is None or t.active_when.param in ordered)
        name = next(ready, None)
        if name is None:
            raise UsageError(f"{file}: {_lost_parent(tables, waiting)}")
        ordered[name] = _parameter(file, name, waiting.pop(name), ordered)
    return Space(tuple(ordered.values()))


def _lost_parent(tables: Mapping[str, ParameterTable], waiting: Mapping[str, ParameterTable]) -> str:
    name, table = next(iter(waiting.items()))
    parent = table.active_when.param if table.active_when else name
    known = f"{parent} depends on it in turn" if parent in waiting else f"known: {', '.join(tables)}"
    return f"space.{name}.active_when.param: expected another parameter, got {parent!r} ({known})"


def _parameter(file: Path, name: str, table: ParameterTable, parents: Mapping[str, Parameter]) -> Parameter:
    condition = None
    if table.active_when is not None:
        parent = parents[table.active_when.param]
        values = tuple(map(condition_value, table.active_when.values))
        if table.active_when.absent and not parent.may_be_absent:
            raise UsageError(
                f"{file}: space.{name}.active_when.absent: {parent.name} is never left out: it needs optional = true"
            )
        for value in values:
            if parent.kind == "categorical" if isinstance(value, Span) else not parent.contains(value):
                raise UsageError(
                    f"{file}: space.{name}.active_when.values: {value!r} is no value that {parent.name} can take"
                )
        condition = (parent.name, (*values, None) if table.active_when.absent else values)
    categorical = table.type == "categorical"
    choices = ((None,) if table.optional and categorical else ()) + tuple(table.choices or ())
    low = table.low if table.low is not None else 0.0
    high = table.high if table.high is not None else 1.0
    optional = table.optional and not categorical
    return Parameter(name, table.type, low, high, table.log, choices, condition, optional)


def _check_holes(file: Path, command: Command, space: Space | None) -> None:
    """A hole without a parameter is never filled, a parameter without a hole never reaches training."""
    named = {} if space is None else {p.name: p for p in space.parameters}
    own_holes = [hole for hole in OWN_HOLES if hole not in SEARCHED or hole not in named]
    lacking = [("init_from", "start from scratch"), ("resume_from", "were never interrupted")]
    if space is not None and "epochs" not in named:  # past runs may say it, as all of them may have had it
        lacking.append(("epochs", "are as long as the program makes them"))
    for own, why in lacking:
        loose = next((item for item in command if isinstance(item, str) and own in holes(item)), None)
        if loose is not None:
            raise UsageError(
                f'{file}: train.command: "{loose}" holds {{{own}}}, but most runs {why}: put the argument and its flag '
                f'into a list of their own, such as ["--{own.replace("_", "-")}", "{{{own}}}"], which is dropped as a '
                "whole"
            )
    if space is None:
        return
    found = [hole for item in command for hole in holes(item) if hole not in own_holes]
    for hole in found:
        if hole not in named:
            guess = difflib.get_close_matches(hole, named, n=1)
            hint = f"did you mean {{{guess[0]}}}?" if guess else f"known: {', '.join(named)}"
            raise UsageError(f"{file}: train.command: {{{hole}}} is no parameter of [space], {hint}")
    for name, parameter in named.items():
        if name not in found:
            raise UsageError(
                f"{file}: train.command: expected a hole {{{name}}}, since [space.{name}] is searched: put it "
                f"there, or take [space.{name}] out if it is not to be searched"
            )
        if parameter.active_when is not None or parameter.may_be_absent:
            bare = [item for item in command if isinstance(item, str) and name in holes(item)]
            if bare:
                why = "is not always active" if parameter.active_when is not None else "may be left out"
                raise UsageError(
                    f'{file}: train.command: "{bare[0]}" holds {{{name}}}, which {why}: '
                    "put the argument and its flag into a list of their own, which is dropped as a whole"
                )


def _first_error(error: ValidationError) -> str:
    failures = error.errors()
    first = failures[0]
    # Members of a union and tagged branches are the schema's business, not part of the user's key.
    place = [part for part in first["loc"] if not (isinstance(part, str) and _is_branch(part))]
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        guess = difflib.get_close_matches(str(place[-1]), known, n=1)
        sentence = f"{key}: unknown key, " + (
            f"did you mean {guess[0]}?" if guess else f"expected one of {', '.join(known)}"
        )
    else:
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r:.80}"
        sentence = f"{key}: {message[:1].lower()}{message[1:]}{got}"
    more = len({t["loc"][:2] for t in failures}) - 1
    return sentence + (f" (and {more} more)" if more else "")


def _is_branch(part: str) -> bool:
    return part in {"str", "bool", "int", "float"} or part.startswith(("list[", "function-", "tuple["))


def _keys_at(place: list[Any]) -> list[str]:
    """Return the keys of the table at a place of the file, which is one that the schema has."""
    model: type[BaseModel] = ProjectFile
    named = False  # whether the next part is a name of the user's own, as in [objectives.NAME]
    for part in place:
        if named:
            named = False
            continue
        annotation: Any = model.model_fields[part].annotation
        named = get_origin(annotation) is dict
        tables = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
        model = tables[-1]
    return list(model.model_fields)
