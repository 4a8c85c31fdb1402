"""One training run under a worker's eyes: its folder, its program, its checkpoints, its outcome."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from epsopt.optimize.measured_front import complete_values
from epsopt.optimize.space import Space
from epsopt.studies.optuna_io.queue import ClaimedProposal, outcome_attributes
from epsopt.studies.optuna_io.record_runs import record_runs
from epsopt.studies.optuna_io.run_folders import run_folder
from epsopt.studies.optuna_io.storage import DATABASE_ERRORS
from epsopt.studies.optuna_io.trial_leases import finish, return_to_queue, set_attributes
from epsopt.studies.project.project import Project
from epsopt.studies.project.train_command import render_command
from epsopt.studies.protocols import Decision, RunPruner
from epsopt.studies.schedule.budget import StepPlan, plan_of
from epsopt.studies.worker.training_process import Launch, LaunchError, Training, cannot_launch, clear
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.credentials import masked
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.formatting import count
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.scan import scan
from epsopt.zoo.reading.source import Identity
from epsopt.zoo.side_files.discover import side_files_by_run

State = Literal["complete", "pruned", "fail", "stale"]


@dataclass(frozen=True)
class RunResult:
    """A run that ended.

    Attributes:
        number: of its trial.
        name: of its folder.
        out: its folder.
        params: its hyperparameters.
        state: of the trial: ``complete``; ``pruned`` when the pruner ended it; ``fail``; or ``stale``, when another
            worker was given the trial.
        metrics: measured on its last checkpoint, None without one.
        path: that checkpoint.
        n_checkpoints: how many it wrote.
        failure: why it failed or was stopped, in one line.
        seconds: how long it took.
        plan: what it was as a step of the scheduler; None: it was none.
        launched: whether its program came to its work; otherwise its proposal waits again, and this is no run.
    """

    number: int
    name: str
    out: Path
    params: Mapping[str, Any]
    state: State
    metrics: Mapping[str, float | None] | None
    path: str | None
    n_checkpoints: int
    failure: str | None
    seconds: float
    plan: StepPlan | None = None
    launched: bool = True

    def sentence(self) -> str:
        """Say it in one line."""
        if self.state == "complete":
            return f"{self.name}: trained"
        if self.state == "pruned":
            return f"{self.name}: stopped after {count(self.n_checkpoints, 'checkpoint')}, {self.failure}"
        if self.state == "stale":
            return f"{self.name}: given to another worker meanwhile; stopped"
        return f"{self.name}: failed, {self.failure}"


class RunSettings(Protocol):
    """How runs are started and watched (a worker's orders)."""

    @property
    def jobs(self) -> int:
        """Runs at a time."""

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""

    @property
    def watch(self) -> float:
        """Seconds between looks at the folder."""


def prepare(
    project: Project,
    storage: RDBStorage,
    catalogue: Catalogue,
    space: Space,
    taken: ClaimedProposal,
    terms: RunSettings,
    most: int | None = None,
) -> Run:
    """Make the folder of a run and start its program.

    Args:
        project: names the train command, and the folder of runs.
        storage: where the trial is.
        catalogue: takes the checkpoints.
        space: fixes hyperparameters besides those of the proposal.
        taken: the proposal.
        terms: how runs are started and watched.
        most: epochs that it may have, if it takes their number.

    Raises:
        LaunchError: the train command cannot be filled with the proposal, or there is no program, no place to start it
            in, or no folder for the run. Nothing is left behind, and the proposal is still claimed.
    """
    plan = plan_of(taken.attributes)
    params, epochs = {**space.fixed, **taken.params}, None
    if plan is not None and plan.takes_epochs:
        epochs = plan.epochs if most is None else min(plan.epochs, most)
        params |= {} if plan.epochs_parameter is None else {plan.epochs_parameter: epochs}
        plan = replace(plan, epochs=epochs)

    def filled(out: Path) -> list[str]:
        return render_command(
            project.command or (), params, out, taken.init_from, taken.resume_from, epochs, taken.seed
        )

    try:
        failure = cannot_launch(filled(run_folder(project, taken.number)), project.cwd)
        if failure is not None:
            raise LaunchError(failure)
        out = _new_folder(project, taken.number)
    except EpsoptError as error:
        raise LaunchError(str(error)) from error
    try:
        _set_attribute(storage, taken, "folder", str(out))
        if epochs is not None:
            _set_attribute(storage, taken, "epochs", epochs)
        threads = max(1, _cores() // max(terms.jobs, 1))
        training = Training(Launch(tuple(filled(out)), out, project.cwd, threads, terms.grace))
    except EpsoptError as error:
        clear(out)
        raise LaunchError(str(error)) from error
    asked = params.get("epochs")
    length = float(asked) if isinstance(asked, int | float) and not isinstance(asked, bool) else None
    return Run(project, storage, catalogue, taken, training, terms.watch, plan=plan, length=length)


def recover_attempt(
    project: Project, storage: RDBStorage, catalogue: Catalogue, taken: ClaimedProposal
) -> ClaimedProposal:
    """Read what an attempt wrote after its worker, which was lost, last looked: the retry goes on from the last of it.

    Nobody knows when that was written, so it counts towards no budget.

    Returns:
        The proposal, as it is to be run; unchanged where there was no such attempt, or it left nothing more.
    """
    attempt = taken.attributes.get("interrupted")
    if attempt is None or not Path(attempt["folder"]).is_dir():
        return taken
    out = Path(attempt["folder"])
    ingest(catalogue, out, root=project.runs, embed=project.embed, jobs=1, follow_links=project.follow_links)
    found = _checkpoints_in(catalogue, out)
    if not found:
        return taken
    set_attributes(storage, attempt["trial_id"], {"checkpoints_after_loss": _curve(project, found)})
    record_runs(storage, project.name, project.objectives, catalogue.checkpoints())
    resumed = {"resume_from": found[-1].path}
    set_attributes(storage, taken.trial_id, resumed)
    return replace(taken, attributes={**taken.attributes, **resumed})


def _new_folder(project: Project, number: int) -> Path:
    """Make a folder that no other run, of this database or of a former one, has written to."""
    try:
        project.runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EpsoptError(f"{project.runs}: the folder of runs cannot be made: {error.strerror or error}") from error
    first = run_folder(project, number)
    for out in (first, *(first.with_name(f"{first.name}-{i}") for i in range(2, 10_000))):
        try:
            out.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise EpsoptError(f"{out}: the run's folder cannot be made: {error.strerror or error}") from error
        return out
    raise EpsoptError(f"{first}: there are 10,000 folders of that name: clear the runs of former databases")


def _files(out: Path) -> frozenset[tuple[str, Identity]]:
    """What a run's folder looks like from outside: its checkpoints, and the files beside them that speak of them."""
    seen = scan(out)
    side_files = [known for _, held in side_files_by_run(seen) for files in held.files.values() for known in files]
    return frozenset(
        (str(path), identity) for path, identity in [*((f.path, f.identity) for f in seen.files), *side_files]
    )


def _checkpoints_in(catalogue: Catalogue, out: Path) -> list[Checkpoint]:
    """A run's checkpoints that the catalogue has, the last one last."""
    found = catalogue.checkpoints(within=out)
    return sorted(found, key=lambda c: (c.epoch is not None, c.epoch or 0, c.path))


def _curve(project: Project, checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """What a trial keeps of its run's checkpoints."""
    names = [o.name for o in project.objectives]
    return [
        {"epoch": c.epoch, "trained": c.trained, "path": c.path, "metrics": {n: c.metrics.get(n) for n in names}}
        for c in checkpoints
    ]


def _stated(checkpoint: Checkpoint) -> tuple[object, ...]:
    """What is reported of a checkpoint: a side file may add to it later."""
    return checkpoint.sha256, checkpoint.epoch, checkpoint.metrics


def _set_attribute(storage: RDBStorage, taken: ClaimedProposal, name: str, value: Any) -> None:
    with contextlib.suppress(UpdateFinishedTrialError):  # given to others meanwhile: the next heartbeat tells
        storage.set_trial_user_attr(taken.trial_id, name, value)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Run:
    """A training program that runs for a claimed trial.

    Attributes:
        project: names the objectives and the hook that embeds checkpoints.
        storage: where the trial is.
        catalogue: takes the checkpoints.
        taken: the proposal.
        training: the program.
        watch: seconds between looks at its folder.
        checkpoints: those that it has written.
        decision: the one that stopped it.
        control_decision: the first one that would have, if it were no control run.
        plan: what it is as a step of the scheduler; None: it is none.
        length: epochs that its hyperparameter ``epochs`` says it has; None: there is no such hyperparameter.
        pruner_failure: what last kept the pruner from judging it; None: nothing did.
        diverged: whether it was stopped since its weights are NaN.
    """

    project: Project
    storage: RDBStorage
    catalogue: Catalogue
    taken: ClaimedProposal
    training: Training
    watch: float = 1.0
    checkpoints: list[Checkpoint] = field(default_factory=list)
    decision: Decision | None = None
    control_decision: Decision | None = None
    plan: StepPlan | None = None
    length: float | None = None
    pruner_failure: str | None = None
    diverged: bool = False

    def __post_init__(self) -> None:
        self._seen: frozenset[tuple[str, Identity]] = frozenset()
        self._looked = time.monotonic()
        self._stopping = False
        self._control_after = 0

    @property
    def number(self) -> int:
        """Of its trial."""
        return self.taken.number

    @property
    def name(self) -> str:
        """Of its folder; in the catalogue its layout may add to it, as in ``NAME/lightning_logs/version_0``."""
        return self.training.launch.out.name

    @property
    def params(self) -> Mapping[str, Any]:
        """Active hyperparameters by name."""
        return self.taken.params

    @property
    def init_from(self) -> str | None:
        """The checkpoint that it started from, None from scratch."""
        return self.taken.init_from

    @property
    def ending(self) -> bool:
        """Whether it has had all its epochs, so that its program is about to end by itself."""
        last = max((c.trained or 0 for c in self.checkpoints), default=0)
        if self.plan is None:
            return self.length is not None and last >= self.length
        return last >= self.plan.ends if self.plan.takes_epochs else last == self.plan.ends

    def poll(self, pruner: RunPruner | None, *, lost: bool) -> RunResult | None:
        """See whether it has ended or written checkpoints, and whether it should go on.

        Args:
            pruner: decides at each new checkpoint; with one, a run whose weights are NaN is stopped, too.
            lost: whether the trial is no longer this worker's.

        Returns:
            How it ended; None while it runs.
        """
        status = self.training.poll()
        if status is not None:
            self.training.close()
            self._read(at_end=True)
            return self._result(status, lost=lost)
        if self._stopping:
            return None
        if lost:
            self._stopping = True
            self.training.stop()
        elif time.monotonic() - self._looked >= self.watch:
            self._looked = time.monotonic()
            if self._read() and self.checkpoints and pruner is not None and not self._stop_diverged():
                self._judge(pruner)
        return None

    def _stop_diverged(self) -> bool:
        """Stop it if the weights of its last checkpoint are NaN: no epoch brings them back."""
        (last,) = self.catalogue.fingerprints([self.checkpoints[-1].id])
        if last.nan_weights:
            self.diverged = self._stopping = True
            self.training.stop()
        return self.diverged

    def _judge(self, pruner: RunPruner) -> None:
        """Stop it if the pruner decides so; while the pruner fails it goes on."""
        try:
            decision = pruner.should_stop(self, self.checkpoints)
        except DATABASE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - months of training do not end over a forecast
            self.pruner_failure = masked(f"{type(error).__name__}: {error}")
            return
        if decision.stop:
            self.stop(decision)
        elif self.control_decision is None and getattr(decision, "control", False):
            self.control_decision, self._control_after = decision, len(self.checkpoints)

    def stop(self, decision: Decision) -> None:
        """Ask the program to end, once; its trial will say why."""
        if not self._stopping:
            self.decision, self._stopping = decision, True
            self.training.stop()

    def save_interrupted(self) -> None:
        """Once its program was ended from outside: read what it wrote last, for the next attempt to go on from."""
        self._read(at_end=True)
        if self.checkpoints:
            self.set_attribute("checkpoints", _curve(self.project, self.checkpoints))
            record_runs(self.storage, self.project.name, self.project.objectives, self.catalogue.checkpoints())

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep something that is known of it as an attribute of its trial."""
        _set_attribute(self.storage, self.taken, name, value)

    def _read(self, *, at_end: bool = False) -> bool:
        """Take new checkpoints, and what files beside them say, into the catalogue and tell the study of them.

        Args:
            at_end: the program has ended: what it left is read, whether it looks new or not.

        Returns:
            Whether there was anything new.
        """
        out = self.training.launch.out
        try:
            seen = _files(out)
            if seen == self._seen and not at_end:
                return False
            report = ingest(
                self.catalogue, out, root=self.project.runs, embed=self.project.embed, jobs=1,
                follow_links=self.project.follow_links,
            )  # fmt: skip
        except UsageError:
            if out.is_dir():
                raise
            return False  # some programs begin with removing it
        if not report.still_writing:  # what is still being written is looked at again
            self._seen = seen
        found = _checkpoints_in(self.catalogue, out)
        if list(map(_stated, found)) == list(map(_stated, self.checkpoints)):
            return False
        self.checkpoints = found
        if self.training.poll() is None:
            _set_attribute(self.storage, self.taken, "checkpoints", _curve(self.project, self.checkpoints))
        return True

    def _result(self, status: int, *, lost: bool) -> RunResult:
        last = self.checkpoints[-1] if self.checkpoints else None
        metrics = None if last is None else last.metrics
        values = None if metrics is None else complete_values(self.project.objectives, metrics)
        state, failure = TrialState.COMPLETE, None
        attributes: dict[str, Any] = {}
        if self.diverged and last is not None:
            state, values, failure = TrialState.FAIL, None, f"it was stopped, its weights are NaN: {last.path}"
        elif self.decision is not None:
            # Optuna takes no values with PRUNED; what was measured is in the attributes, and every checkpoint is a
            # trial of the study of measurements.
            state, values, failure = TrialState.PRUNED, None, self.decision.reason
            attributes = {"pruned.probability": float(self.decision.probability), "pruned.reason": self.decision.reason}
        elif status != 0:
            if last is None and not self.training.was_launched(status):
                return self._not_launched(status)
            state, values, failure = TrialState.FAIL, None, self.training.failure(status)
        elif values is None or not self.training.launch.out.is_dir():
            state, values, failure = TrialState.FAIL, None, self._nothing_measured(last)
        if self.control_decision is not None:
            attributes |= {
                "control.probability": float(self.control_decision.probability),
                "control.checkpoints": self._control_after,
            }
        provenance = "training failed" if state == TrialState.FAIL else "measured"
        attributes |= outcome_attributes(metrics, None if last is None else last.path, provenance)
        if state == TrialState.FAIL:
            attributes["failure"] = failure
        attributes["checkpoints"] = _curve(self.project, self.checkpoints)
        if self.checkpoints:  # before the trial ends: whoever is cut off here does both again
            record_runs(self.storage, self.project.name, self.project.objectives, self.catalogue.checkpoints())
        if lost or not finish(self.storage, self.taken.trial_id, state, values, attributes):
            state = TrialState.RUNNING  # somebody else's now
        ended: dict[TrialState, State] = {
            TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "fail",
        }  # fmt: skip
        return RunResult(
            number=self.number,
            name=self.name,
            out=self.training.launch.out,
            params=self.params,
            state=ended.get(state, "stale"),
            metrics=metrics,
            path=None if last is None else last.path,
            n_checkpoints=len(self.checkpoints),
            failure=failure,
            seconds=time.monotonic() - self.training.started,
            plan=self.plan,
        )

    def _not_launched(self, status: int) -> RunResult:
        """Give the proposal back: nothing of it was tried."""
        failure = self.training.failure(status, launched=False)
        given_back = return_to_queue(self.storage, self.taken.trial_id)
        out = self.training.launch.out
        clear(out)
        seconds = time.monotonic() - self.training.started
        state: State = "fail" if given_back else "stale"
        return RunResult(
            self.number, self.name, out, self.params, state, None, None, 0, failure, seconds, self.plan, launched=False
        )

    def _nothing_measured(self, last: Checkpoint | None) -> str:
        if not self.training.launch.out.is_dir():
            return f"it ended well but its folder {self.training.launch.out} is gone"
        if last is None:
            failed = {f.path: f.reason for f in self.catalogue.failures()}
            mine = [f"{p}: {r}" for p, r in failed.items() if Path(p).is_relative_to(self.training.launch.out)]
            return f"it ended well but left no checkpoint that can be read in {self.training.launch.out}" + (
                f" ({mine[0]})" if mine else ""
            )
        lacking = [o.name for o in self.project.objectives if last.metrics.get(o.name) is None]
        return f"its last checkpoint has no finite {', '.join(lacking)}: {last.path}"
