"""What a project has and lacks: what was read, what it was taken for, and what each command still needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epsopt.optimize.objectives import Objective
from epsopt.optimize.renamed_parameters import RenamedParameter, renamed_parameters
from epsopt.optimize.space import Parameter, Space
from epsopt.optimize.space_inference import infer_space_of, left_out
from epsopt.studies.project.find_base import base_line, base_to_name, lack_of_base
from epsopt.studies.project.launch_form import epochs_option, unseen_arguments
from epsopt.studies.project.metric_direction import guess_maximize, leave_out
from epsopt.studies.project.metric_doubts import metric_doubts
from epsopt.studies.project.project import Project
from epsopt.studies.project.written_hooks import lack_of_hook
from epsopt.surrogate.ranges import range_text
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.errors import Failure, UsageError
from epsopt.zoo.formatting import count
from epsopt.zoo.ingestion.changed_hyperparameters import changed_hyperparameters
from epsopt.zoo.ingestion.mixed_clocks import mixed_clocks
from epsopt.zoo.layouts.other_formats import OtherFormat
from epsopt.zoo.layouts.scan import scan
from epsopt.zoo.reading.remote import is_url
from epsopt.zoo.side_files.unread_files import unread_files

RUNS_OF_A_MAP = 3
"""Runs that `epsopt fit` needs (``surrogate.fitting.FEWEST_RUNS``, which takes torch to import)."""
RUNS_OF_PROPOSALS = 8
"""Whole runs that `epsopt propose` needs (``optimize.proposals.proposals.FEWEST_RUNS``)."""
_LISTED = 6


@dataclass(frozen=True)
class MetricRole:
    """A metric of the catalogue, and what it is taken for.

    Attributes:
        name: of the metric.
        role: ``objective``, ``learned`` (besides objectives) or ``kept`` as data.
        about: its direction and what it can be, in words.
        measured: checkpoints that have it.
    """

    name: str
    role: str
    about: str
    measured: int


@dataclass(frozen=True)
class Readiness:
    """Whether a command can do its work.

    Attributes:
        command: its name.
        lacks: what is missing, a sentence each; none: it is ready.
        remedies: for each of these the line to add to epsopt.toml, or the command to run.
    """

    command: str
    lacks: tuple[str, ...]
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What a project has and lacks.

    Attributes:
        checkpoints: how many were read.
        runs: of how many runs.
        layouts: runs by the layout that read them.
        not_read: number of files by the reason why they were not read, the most frequent first.
        unread: in how many runs a file of that name lies that may hold metrics or hyperparameters and is not read;
            numbers are written ``#``. None where runs have both.
        metrics: all metrics.
        doubts: sentences about objectives that cannot be compared as they are.
        parameters: what is searched, in words, by name.
        hyperparameters_left_out: those that vary and are not searched, with the reason.
        renamed: hyperparameters that some runs call otherwise than the others.
        bases: paths of the checkpoints that runs name as what they start from.
        declared_base: path of the base that epsopt.toml names, or None.
        base_lack: what is wrong with that one, or what is still to be done; None: nothing.
        base_line: the line of epsopt.toml that names the base which runs name, where that file does not say it.
        lineages: how many lineages the checkpoints are of.
        nan_weights: checkpoints of which some weights are NaN, by the name of their run; nothing is learned from them.
        not_taken: what side files or checkpoints say and was not taken, or contradicts, as `epsopt ingest` names it.
        readiness: of `fit`, `propose`, `work` and `merge`.
    """

    checkpoints: int
    runs: int
    layouts: dict[str, int]
    not_read: dict[str, int]
    unread: dict[str, int]
    metrics: tuple[MetricRole, ...]
    doubts: tuple[str, ...]
    parameters: dict[str, str]
    hyperparameters_left_out: dict[str, str]
    renamed: tuple[RenamedParameter, ...]
    bases: tuple[str, ...]
    declared_base: str | None
    base_lack: str | None
    base_line: str | None
    lineages: int
    nan_weights: dict[str, int]
    not_taken: tuple[Failure, ...]
    readiness: tuple[Readiness, ...]


def other_formats(project: Project | None, catalogue: Catalogue) -> list[OtherFormat]:
    """Look for files that are not read among the project's runs, and among those of the catalogue elsewhere.

    Folders that are gone, or that lie behind a URL, are not looked at.
    """
    runs = [] if project is None else [project.runs]
    folders = [f for f in (*runs, *(Path(r.path) for r in catalogue.runs() if not is_url(r.path))) if _is_folder(f)]
    known = set(folders)
    apart = [f for f in sorted(known) if known.isdisjoint(f.parents)]
    follow = project is not None and project.follow_links
    return list(scan(apart, follow_links=follow).other.kinds.values())


def _is_folder(path: Path) -> bool:
    return isinstance(path, type(Path())) and path.is_dir()


def diagnose(
    project: Project | None,
    catalogue: Catalogue,
    others: Sequence[OtherFormat] = (),
    checkpoints: Sequence[Checkpoint] | None = None,
) -> Diagnosis:
    """Look at a project without changing anything.

    Args:
        project: what epsopt.toml says; None: there is none.
        catalogue: of its checkpoints.
        others: what lies beside them and is not read.
        checkpoints: the catalogue's; None: they are read.
    """
    checkpoints = catalogue.checkpoints() if checkpoints is None else checkpoints
    objectives = () if project is None else project.objectives
    names = catalogue.metric_names()
    runs = {c.run_id: c for c in checkpoints}
    space = _space(project, checkpoints, objectives)
    lineages = {c.lineage_id for c in checkpoints}
    known = [k for k in catalogue.lineages() if k.id in lineages]
    reasons = Counter(f.reason for f in catalogue.failures())
    reasons.update({f"{kind.kind}: {kind.convert}": kind.count for kind in others})
    base = base_to_name(project, checkpoints, known)
    lacking = space is None or not any(v is not None for c in checkpoints for v in c.metrics.values())
    unread = unread_files(_folders(catalogue, checkpoints)) if lacking else {}
    return Diagnosis(
        checkpoints=len(checkpoints),
        runs=len(runs),
        layouts=dict(Counter(c.layout for c in runs.values())),
        not_read=dict(reasons.most_common()),
        unread=unread,
        metrics=tuple(_role(name, project, checkpoints) for name in names),
        doubts=tuple(metric_doubts([o.name for o in objectives], by_run(checkpoints))),
        parameters={} if space is None else {p.name: _in_words(p) for p in space.parameters},
        hyperparameters_left_out=left_out([c.hyperparameters for c in runs.values()]),
        renamed=tuple(_renamed(project, runs)),
        bases=tuple(sorted(k.reference_path for k in known if k.declared)),
        declared_base=None if project is None or project.base is None else str(project.base),
        base_lack=None if project is None else _base_lack(project, known),
        base_line=None if base is None or project is None else base_line(base, project.folder),
        lineages=len(known),
        nan_weights=catalogue.nan_weights(),
        not_taken=tuple(_not_taken(catalogue)),
        readiness=(
            _fit(project, checkpoints, names, _where_metrics_are_from(unread, catalogue.side_file_failures())),
            _propose(project, runs, space),
            _work(project, runs.values()),
            _merge(project, checkpoints),
        ),
    )


def _folders(catalogue: Catalogue, checkpoints: Sequence[Checkpoint]) -> dict[Path, list[Path]]:
    """Return the folders that hold the checkpoints of each local run, by the run's own."""
    paths = {run.id: Path(run.path) for run in catalogue.runs() if not is_url(run.path)}
    found: dict[Path, list[Path]] = {}
    for c in checkpoints:
        if c.run_id in paths:
            found.setdefault(paths[c.run_id], []).append(Path(c.path).parent)
    return found


def by_run(checkpoints: Sequence[Checkpoint]) -> list[list[Mapping[str, float | None]]]:
    """Return the metrics of the checkpoints of each run."""
    runs: dict[int, list[Mapping[str, float | None]]] = {}
    for c in checkpoints:
        runs.setdefault(c.run_id, []).append(c.metrics)
    return list(runs.values())


def name_files(unread: Mapping[str, int]) -> str:
    """Name the files that are not read, with the number of their runs."""
    named = [f"{name} (in {count(runs, 'run')})" for name, runs in list(unread.items())[:_LISTED]]
    return ", ".join(named) + (f" and {len(unread) - _LISTED} more" if len(unread) > _LISTED else "")


def _not_taken(catalogue: Catalogue) -> list[Failure]:
    """Return each sentence once, with the first file that it is about."""
    paths = {r.path for r in catalogue.runs()}
    found = [
        *catalogue.side_file_failures(),
        *changed_hyperparameters(catalogue, paths),
        *mixed_clocks(catalogue, paths),
    ]
    return list({f.reason: f for f in reversed(found)}.values())[::-1]


def _space(project: Project | None, checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Space | None:
    if project is not None and project.space is not None:
        return project.space
    try:
        return infer_space_of(checkpoints, objectives)
    except UsageError:
        return None


def _renamed(project: Project | None, runs: Mapping[int, Checkpoint]) -> list[RenamedParameter]:
    used = project.space.parameters if project is not None and project.space is not None else ()
    return renamed_parameters([runs[i].hyperparameters for i in sorted(runs)], kept=[p.name for p in used])


def _base_lack(project: Project, known: Sequence[Lineage]) -> str | None:
    lack = lack_of_base(project)
    if lack is None and project.base is not None and known:
        read = any(k.declared and k.reference_path == str(project.base) for k in known)
        lack = None if read else "the catalogue does not know it yet, or none of its runs starts from it: epsopt ingest"
    return lack


def _role(name: str, project: Project | None, checkpoints: Sequence[Checkpoint]) -> MetricRole:
    from fnmatch import fnmatchcase

    measured = sum(c.metrics.get(name) is not None for c in checkpoints)
    objective = next((o for o in project.objectives if o.name == name), None) if project else None
    if objective is not None and project is not None:
        about = "maximize" if objective.maximize else "minimize"
        if name in project.bounds:
            about += f", {range_text(project.bounds[name])}"
        if objective.limit is not None:
            about += f", {'at least' if objective.maximize else 'at most'} {objective.limit:g}"
        return MetricRole(name, "objective", about, measured)
    learned = project is not None and any(fnmatchcase(name, pattern) for pattern in project.learn)
    return MetricRole(name, "learned" if learned else "kept", "", measured)


def _in_words(p: Parameter) -> str:
    if p.kind == "categorical":
        words = {"None": "none", "True": "true", "False": "false"}  # as epsopt.toml and command lines have them
        text = "one of " + ", ".join(words.get(repr(c), str(c)) for c in p.choices)
    else:
        text = f"{p.kind} from {p.low:.6g} to {p.high:.6g}" + (", logarithmic" if p.log else "")
        text += ", or none" if p.optional else ""
    if p.active_when is not None:
        text += f", when {p.active_when[0]} is {' or '.join(map(str, p.active_when[1]))}"
    return text


def _readiness(command: str, *lacks: tuple[bool, str, str]) -> Readiness:
    missing = [(text, remedy) for lacking, text, remedy in lacks if lacking]
    return Readiness(command, tuple(text for text, _ in missing), tuple(remedy for _, remedy in missing))


def _where_metrics_are_from(unread: Mapping[str, int], failures: Sequence[Failure]) -> str:
    """Say what to do about runs without any metric: logs that were not taken, or not read, or none at all."""
    if failures:
        return f"what keeps {failures[0].path} from being used, as 'epsopt doctor' says under 'Not taken'"
    lie = f"; not read there: {name_files(unread)}" if unread else ""
    return f"metrics.csv with a column epoch beside the checkpoints{lie}"


def _fit(
    project: Project | None, checkpoints: Sequence[Checkpoint], names: Sequence[str], without_metrics: str
) -> Readiness:
    objectives = () if project is None else project.objectives
    unknown = [o.name for o in objectives if o.name not in names]
    measured = {c.run_id for c in checkpoints if any(v is not None for v in c.metrics.values())}
    remedy = "epsopt ingest RUNS" if measured or not checkpoints else without_metrics
    return _readiness(
        "fit",
        (not checkpoints, "no checkpoint was read", "epsopt ingest RUNS"),
        (
            bool(checkpoints) and len(measured) < RUNS_OF_A_MAP,
            f"{count(len(measured), 'run')} with measured metrics, at least {RUNS_OF_A_MAP} are needed",
            remedy,
        ),
        (not objectives, "no objective is named", _example_objective(names)),
        (bool(unknown), f"no checkpoint has {', '.join(unknown)}", '[metrics.rename] "NAME IN THE RUNS" = "NAME HERE"'),
    )


def _example_objective(names: Sequence[str]) -> str:
    """Return a line that names an objective: a metric that may well be one, in the direction that its name tells."""
    without = {entry.name for entry in leave_out(names)}
    directed = [n for n in names if guess_maximize(n) is not None]
    example = next(iter([*(n for n in directed if n not in without), *directed, *names]), "accuracy")
    direction = "minimize" if guess_maximize(example) is False else "maximize"
    return f'[objectives.{json.dumps(example, ensure_ascii=False)}] direction = "{direction}"'


def _propose(project: Project | None, runs: dict[int, Checkpoint], space: Space | None) -> Readiness:
    whole = [c for c in runs.values() if space is None or space.accepts(c.hyperparameters)]
    example = '[space.lr] type = "float", low = 1e-5, high = 1e-2, log = true'
    return _readiness(
        "propose",
        (project is None or not project.objectives, "no objective is named", "epsopt init RUNS"),
        (space is None, "no hyperparameter varies between the runs, so there is nothing to search", example),
        (
            len(whole) < RUNS_OF_PROPOSALS,
            f"{count(len(whole), 'run')} inside the search space, at least {RUNS_OF_PROPOSALS} are needed",
            "epsopt work -n 8 (random ones, while there are too few)",
        ),
    )


def _work(project: Project | None, ends: Iterable[Checkpoint]) -> Readiness:
    command = () if project is None else project.command or ()
    program = '[train] command = ["{python}", "train.py", "--out", "{out}", "--lr", "{lr}"]'
    script = next((item for item in command if isinstance(item, str) and item.endswith(".py")), None)
    gone = script is not None and project is not None and not (project.cwd / script).is_file()
    unseen = [] if project is None else unseen_arguments(command, project.cwd)[1]
    other = '[train] command = [..., "--NAME", "{NAME}"]'
    layouts = [c.layout for c in ends]
    steps = bool(layouts) and all("hugging-face" in layout for layout in layouts)
    given = epochs_option(command) if steps else None
    return _readiness(
        "work",
        (not command, "there is no train command", program),
        (
            given is not None,
            f"checkpoints of a Trainer are numbered by steps, and {given} would be given a number of steps",
            '[train] command = [..., ["--max_steps", "{epochs}"]], or nothing with {epochs}',
        ),
        (bool(unseen), f"{script} is not seen to take {', '.join(unseen)}", other),
        (gone, f"its program {script} is not in {project.cwd if project else ''}", '[train] cwd = "FOLDER"'),
    )


def _merge(project: Project | None, checkpoints: Sequence[Checkpoint]) -> Readiness:
    sizes = Counter(c.lineage_id for c in checkpoints)
    hooks = () if project is None else (("evaluate", project.evaluate), ("calibrate", project.calibrate))
    lacks = [
        (True, lack, f'[hooks] {kind} = "MODULE:FUNCTION"')
        for kind, spec in hooks
        if project is not None and spec is not None and (lack := lack_of_hook(spec, kind, project.folder)) is not None
    ]
    return _readiness(
        "merge",
        *lacks,
        (
            project is None or project.evaluate is None,
            "no hook measures weights",
            '[hooks] evaluate = "package.module:function"',
        ),
        (
            bool(checkpoints) and max(sizes.values(), default=0) < 2,
            "no two checkpoints share a base or a run, and only what does can be merged",
            '[lineage] base = "PATH OF THE CHECKPOINT THAT RUNS START FROM"',
        ),
    )
