"""What a scan of runs makes of a project file: objectives, their bounds, the search space."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epsopt.optimize.objectives import Objective
from epsopt.optimize.renamed_parameters import RenamedParameter, renamed_parameters
from epsopt.optimize.space import Space
from epsopt.optimize.space_inference import diverged_runs, infer_space, left_out, seeds_of
from epsopt.studies.project.find_base import FoundBase, find_base
from epsopt.studies.project.launch_form import LaunchForm, folder_name, launch_form
from epsopt.studies.project.metric_direction import LeftOut, guess_maximize, leave_out
from epsopt.studies.project.metric_doubts import FEWEST_ALIKE, metric_doubts, renamed_metrics
from epsopt.studies.project.scan_runs import Survey
from epsopt.studies.project.schema import is_metric_name, project_name
from epsopt.studies.project.suggest_limits import suggest_limits
from epsopt.studies.project.template import write_project
from epsopt.surrogate.ranges import guess_range
from epsopt.zoo.catalogue.renaming import under_new_names
from epsopt.zoo.errors import UsageError

_UNREACHABLE = {
    "hydra": "it is no key of Hydra's configuration, so no override sets it",
    "lightning": "it is no key of LightningCLI's configuration, so no option sets it",
}


@dataclass(frozen=True)
class ProjectDraft:
    """A project file to be written.

    Attributes:
        seen: the scan of the runs.
        objectives: metrics that have a direction and are objectives.
        guessed: names of objectives whose direction is guessed.
        undecided: names of metrics whose direction nobody knows.
        left_out: metrics that are no objectives by guess, with reasons.
        nameless: names of metrics that no project file can have.
        bounds: possible values of objectives, where their names tell them.
        limits: suggested limits of objectives, by name.
        space: search space; None where nothing varies between the runs.
        hyperparameters_left_out: names of hyperparameters that vary and are not searched, with reasons.
        renamed_metrics: metrics that earlier checkpoints spell otherwise, a guess; new names by old ones.
        doubts: sentences about objectives that cannot be compared as they are.
        renamed: hyperparameters that some runs call otherwise than the others, a guess.
        bases: base checkpoints that the runs name.
        form: how the program of the runs is launched.
        runs: the folder that was scanned.
    """

    seen: Survey
    objectives: list[Objective]
    guessed: list[str]
    undecided: list[str]
    left_out: list[LeftOut]
    nameless: list[str]
    bounds: dict[str, tuple[float, float]]
    limits: dict[str, float]
    space: Space | None
    hyperparameters_left_out: dict[str, str]
    renamed_metrics: dict[str, str]
    doubts: list[str]
    renamed: list[RenamedParameter]
    bases: list[FoundBase]
    form: LaunchForm
    runs: Path

    def write(
        self, file: Path, *, name: str | None, storage: str, evaluate: str | None, embed: str | None,
        follow_links: bool, overwrite: bool,
    ) -> bool:  # fmt: skip
        """Write the file; see :func:`epsopt.studies.project.template.write_project`.

        Args:
            file: the absolute path to write, in the folder that the draft is for.
            name: the project's name; None takes that of the file's folder.
            storage: database URL.
            evaluate: hook "package.module:function".
            embed: hook "package.module:function".
            follow_links: whether links that lead out of the folder of runs are followed.
            overwrite: whether another file of that name may be replaced.

        Returns:
            Whether the file changed.

        Raises:
            UsageError: it cannot be written. Nothing is written then.
        """
        return write_project(
            file,
            name=project_name(file.parent.name) if name is None else name,
            runs=_from(file.parent, self.runs),
            objectives=self.objectives,
            bounds=self.bounds,
            space=self.space,
            storage=storage,
            evaluate=evaluate,
            embed=embed,
            guessed=self.guessed,
            undecided=self.undecided,
            left_out=self.left_out,
            at_ends=self.seen.at_ends,
            unnamed_model=self.seen.unnamed_model,
            seeds={n: s for n, s in seeds_of(self.seen.hyperparameters).items() if self.form.sets(n)},
            bases=[_from(file.parent, b.path) for b in self.bases],
            limits=self.limits,
            renamed=self.renamed,
            renamed_metrics=self.renamed_metrics,
            form=self.form,
            follow_links=follow_links,
            overwrite=overwrite,
        )


def draft_project(
    seen: Survey,
    runs: Path,
    folder: Path,
    minimize: Collection[str],
    maximize: Collection[str],
    *,
    only: bool = False,
) -> ProjectDraft:
    """Decide from a scan what the project file says.

    Args:
        seen: the scan of the runs.
        runs: the folder that was scanned.
        folder: the folder of the project file.
        minimize: metrics of which less is better, whatever their names tell.
        maximize: metrics of which more is better.
        only: whether these are all objectives; otherwise others are guessed.

    Raises:
        UsageError: no checkpoint has one of these metrics, one is in both, or there are to be no others than none.
    """
    renamed_to = renamed_metrics([c for run in seen.measured for c in run], kept=(*minimize, *maximize))
    seen = _with_new_names(seen, renamed_to)
    nameable = [name for name in sorted(seen.metrics) if is_metric_name(name)]
    objectives, guessed, undecided, no_objectives = _objectives(
        nameable, minimize, maximize, seen.at_ends, _constant(seen.metrics), only=only
    )
    bounds = {o.name: b for o in objectives if (b := guess_range(o.name, seen.metrics[o.name])) is not None}
    form = replace(launch_form(seen.newest, folder), counts_steps=seen.counts_steps)
    if isinstance(runs, type(Path())):
        form = replace(form, named_by=folder_name(seen.hyperparameters, seen.newest, runs.resolve()))
    bases = find_base(seen.hyperparameters, seen.newest, runs, folder) if isinstance(runs, type(Path())) else []
    renamed = renamed_parameters(seen.hyperparameters, kept=_spelled(seen.hyperparameters, form))
    rename = {r.old: r.new for r in renamed}
    seen = replace(seen, hyperparameters=[under_new_names(run, rename) for run in seen.hyperparameters])
    unreachable = {n: _UNREACHABLE[form.kind] for run in seen.hyperparameters for n in run if not form.sets(n)}
    alone = _alone(unreachable, seen)
    space: Space | None = None
    with contextlib.suppress(UsageError):  # nothing varies: the file shows how to say it
        diverged = diverged_runs(seen.ends, objectives)
        space = infer_space(seen.hyperparameters, ignore=list(alone), diverged=diverged)
    return ProjectDraft(
        seen=seen, objectives=objectives, guessed=guessed, undecided=undecided, left_out=no_objectives,
        nameless=sorted(set(seen.metrics) - set(nameable)), bounds=bounds,
        limits=suggest_limits(objectives, bounds, seen.ends), space=space,
        hyperparameters_left_out={**left_out(seen.hyperparameters), **alone},
        renamed_metrics=renamed_to, doubts=metric_doubts([o.name for o in objectives], seen.measured),
        renamed=renamed, bases=bases, form=form, runs=runs,
    )  # fmt: skip


def _with_new_names(seen: Survey, rename: Mapping[str, str]) -> Survey:
    """Return a scan whose metrics have their new names, as a catalogue reads them."""
    if not rename:
        return seen
    metrics: dict[str, list[float]] = {}
    for name, values in seen.metrics.items():
        metrics.setdefault(rename.get(name, name), []).extend(values)
    ends = [under_new_names(c, rename) for c in seen.ends]
    measured = [[under_new_names(c, rename) for c in run] for run in seen.measured]
    return replace(seen, metrics=dict(sorted(metrics.items())), ends=ends, measured=measured)


def _spelled(runs: Sequence[Mapping[str, Any]], form: LaunchForm) -> list[str]:
    """Hyperparameters that the program takes under their names, as far as is known."""
    names = dict.fromkeys(name for run in runs for name in run)
    return [n for n in names if (form.spelling(n) is not None if form.kind == "arguments" else form.sets(n))]


def _alone(unreachable: dict[str, str], seen: Survey) -> dict[str, str]:
    """Hyperparameters that vary, that the program does not take, and that no other hyperparameter sets."""
    if not unreachable:
        return {}
    known = left_out(seen.hyperparameters)
    values: dict[str, set[str]] = {}
    for run in seen.hyperparameters:
        for name, value in run.items():
            if value is not None:
                values.setdefault(name, set()).add(repr(value))
    return {n: why for n, why in unreachable.items() if n not in known and len(values.get(n, ())) > 1}


def _constant(metrics: Mapping[str, Sequence[float]]) -> list[str]:
    """Return metrics that have one value on all checkpoints that were opened, where those are enough to tell."""
    return [name for name, values in metrics.items() if len(values) >= FEWEST_ALIKE and len(set(values)) == 1]


def _objectives(
    metrics: list[str],
    minimize: Collection[str],
    maximize: Collection[str],
    at_ends: tuple[str, ...],
    constant: Collection[str],
    *,
    only: bool,
) -> tuple[list[Objective], list[str], list[str], list[LeftOut]]:
    """Return the objectives, names of those that were guessed, undecided metrics, and those that are none by guess."""
    for option, names in (("--minimize", minimize), ("--maximize", maximize)):
        for name in names:
            if name not in metrics:
                close = difflib.get_close_matches(name, metrics, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(metrics) or 'none'}"
                raise UsageError(f"{option} {name}: no checkpoint has this metric, {hint}")
    if both := sorted({*minimize} & {*maximize}):
        raise UsageError(f"{both[0]} cannot be both minimized and maximized")
    if only and not (minimize or maximize):
        raise UsageError("--only leaves no objective: name those that there are to be with --minimize and --maximize")
    objectives, guessed, undecided = [], [], []
    others = [name for name in metrics if name not in {*minimize, *maximize}]
    unasked = [LeftOut(name, "unasked", guess_maximize(name)) for name in others]
    no_objectives = unasked if only else leave_out(others, at_ends, constant)
    without = {entry.name for entry in no_objectives}
    for name in metrics:
        if name in without:
            continue
        stated = False if name in minimize else True if name in maximize else None
        better = guess_maximize(name) if stated is None else stated
        if better is None:
            undecided.append(name)
            continue
        objectives.append(Objective(name, better))
        if stated is None:
            guessed.append(name)
    return objectives, guessed, undecided, no_objectives


def _from(folder: Path, runs: Path) -> str:
    """Name the runs folder relative to the project file when it lies below it: the project may then move."""
    absolute = runs.resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
