"""Early stopping as a callback of PyTorch Lightning: ``Trainer(callbacks=[EpsoptPruning()])``.

Nothing of Lightning is imported: a callback is whatever answers to the names of Lightning's hooks, so that this one
serves ``lightning`` and ``pytorch_lightning`` alike, and costs nothing where neither is installed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from epsopt.optimize.forecast.learning_curve_gp import Curve
from epsopt.optimize.objectives import Objective, Target
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.schedule.pruner import MOST_RATIO, Pruner
from epsopt.optimize.space import Space
from epsopt.studies.project.project import Project, load_project
from epsopt.studies.prune.catalogue_pruner import CataloguePruner
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.layouts.log_rows import flat

_LOG = logging.getLogger(__name__)
_LEAST_APART = 0.25  # of an epoch, between decisions within one
_DIRECTIONS = {"maximize": True, "minimize": False}


class EpsoptPruning:
    """Ends a training that will add hardly anything to the measured front, as ``epsopt work --prune-below`` does.

    After each validation, or each training epoch where there is none, the objectives are read from
    ``trainer.callback_metrics``; where validation runs more than four times an epoch, after four of them. Process zero
    decides, all processes obey. The run's curve is kept in Lightning's checkpoints, so that a resumed run is judged by
    all of it. Nothing is stopped while validation is only tried out (sanity checks, ``fast_dev_run``). Where the
    callback cannot decide, whatever the reason, it logs a warning and the training goes on.

    Lightning calls its first epoch 0, in checkpoints and so in the catalogue; here, as in all that is learned from
    them, a checkpoint counts by the epochs that lie behind it, the first by 1; a validation within an epoch counts by
    the share of it that is done.

    Args:
        source: what judges the run. A project file or the folder that holds it (None: the ``epsopt.toml`` in the
            current folder or above it); the database URL of a catalogue, with `objectives`; or a
            :class:`~epsopt.optimize.Pruner` that has learned already.
        objectives: ``{"val/acc": "maximize"}``, where the source is a URL.
        metrics: names under which objectives are logged, where those differ: ``{"coverage": "val/coverage"}``.
        config: hyperparameters of this run; by default ``hparams`` of the model and its data module, by the names that
            the catalogue has (nested ones with dots).
        run: name of this run, which decides whether it is a control run; by default where its checkpoints are.
        length: epochs of this run; by default ``max_epochs``.
        targets: ``{"coverage": 0.95}``: a run goes on, too, while it may reach all of them.
        not_finite: so many evaluations in a row with an objective that is NaN or infinite stop the run; 0 never does.
            A single one says nothing: it counts as not measured.
        options: ``gain_ratio``, ``grace``, ``control_share``, and what else
            :class:`~epsopt.optimize.Pruner` takes.

    Attributes:
        run: name of the run; None before the training starts, unless it was given.
        curve: measured values by epoch, from 0, then by objective; NaN where one was not finite.
        objectives: what counts; none before the training starts.
        judge: what decides; None in all processes but the first one.
        own: folders that this training writes its checkpoints into.
        decision: the last one; None before the first.
        stopped: why the run was stopped; None if it was not.

    Raises:
        UsageError: options that make no sense. At the start of the training: no project, no objectives, or a
            hyperparameter of the search space that this run does not have.
        EmptyCatalogue: at the start of the training: there is no catalogue.
    """

    def __init__(
        self,
        source: str | Path | Project | Pruner | None = None,
        *,
        objectives: Mapping[str, str] | None = None,
        metrics: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        run: str | None = None,
        length: float | None = None,
        targets: Mapping[str, float] | None = None,
        not_finite: int = 3,
        **options: Any,
    ) -> None:
        wrong = [f"{n}: {d!r}" for n, d in (objectives or {}).items() if d not in _DIRECTIONS]
        if wrong:
            raise UsageError(f"the direction of an objective is 'maximize' or 'minimize', not {', '.join(wrong)}")
        if isinstance(source, str) and "://" in source and not objectives:
            raise UsageError(
                "a catalogue does not say which of its metrics count: give "
                'EpsoptPruning(URL, objectives={"val/acc": "maximize"}), or the project file instead of the URL'
            )
        if isinstance(source, Pruner) and (objectives or targets or options):
            raise UsageError("a Pruner has its objectives, targets and options already: give them to it")
        _check_options(options, objectives, targets)
        self._source, self._given, self._config = source, dict(objectives or {}), config
        self._metrics = {objective: [name] for objective, name in (metrics or {}).items()}
        self.run, self._length = run, length
        self._targets, self._not_finite, self._options = dict(targets or {}), not_finite, options
        self.judge: Pruner | CataloguePruner | None = None
        self.objectives: tuple[Objective, ...] = ()
        self.own: tuple[Path, ...] = ()
        self.curve: dict[float, dict[str, float]] = {}  # by epoch, the first is 0, then by objective
        self._odd = 0  # evaluations in a row that were not finite
        self._warned: set[str] = set()
        self.decision: Decision | None = None
        self.stopped: str | None = None

    # What Lightning calls. ----------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Answer to every other hook with nothing: Lightning calls them all, and new versions have new ones."""
        if name.startswith("on_") or name in ("setup", "teardown"):
            return _nothing
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @property
    def state_key(self) -> str:
        """The name under which Lightning's checkpoints keep what ``state_dict`` returns."""
        return "StopHopeless"  # the former name of this class: a run that began under it can be resumed

    @property
    def _legacy_state_key(self) -> type:
        return type(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the run's name and curve: texts and numbers, which ``weights_only=True`` reads."""
        curve = {f"{epoch:g}": dict(values) for epoch, values in self.curve.items()}
        return {"run": self.run, "curve": curve, "not_finite": self._odd}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was kept.

        Args:
            state_dict: what :meth:`state_dict` returned; keys that are missing change nothing.
        """
        self.run = state_dict.get("run") or self.run
        self.curve = {float(epoch): dict(values) for epoch, values in state_dict.get("curve", {}).items()}
        self._odd = int(state_dict.get("not_finite", 0))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the catalogue, in process zero.

        Args:
            trainer: Lightning's trainer.
            pl_module: the module that is trained; its saved hyperparameters are the run's.

        Raises:
            UsageError: the project, the catalogue or an option is not what is expected; raised in all processes.
        """
        self.stopped = self.decision = None
        self.own = _places(trainer)
        if self._config is None:
            self._config = _hyperparameters(trainer, pl_module)
        failed = _failure(self._begin) if trainer.is_global_zero else None
        name = self.run or (str(self.own[0]) if self.own else uuid4().hex)
        # All processes fail together: one that went on alone would wait for the others for ever.
        begun = trainer.strategy.broadcast((failed, self.objectives, self._metrics, name))
        failed, self.objectives, self._metrics, self.run = begun
        if failed is not None:
            raise failed

    def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
        """Decide, if validation is part of each epoch or there is none.

        Args:
            trainer: Lightning's trainer.
            _module: not used.
        """
        if _once_an_epoch(trainer):
            self._look(trainer, float(trainer.current_epoch))

    def on_validation_end(self, trainer: Any, _module: Any) -> None:
        """Decide, if validation is more or less frequent than epochs.

        Args:
            trainer: Lightning's trainer.
            _module: not used.
        """
        if _once_an_epoch(trainer):
            return
        when = trainer.current_epoch + _share_done(trainer) - 1.0
        if when in self.curve or all(abs(when - before) >= _LEAST_APART for before in self.curve) or when % 1 == 0:
            self._look(trainer, when)

    # ----------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.judge, self.objectives = self.open_judge()
        _check(self._config or {}, self.judge.space)

    def open_judge(self) -> tuple[Pruner | CataloguePruner, tuple[Objective, ...]]:
        """Open what the callback was given: a pruner, the catalogue at a URL, or the project's.

        Returns:
            What decides, and the objectives that it decides by.

        Raises:
            UsageError: no project is there, or it names no objective.
            EmptyCatalogue: there is no catalogue.
        """
        if isinstance(self._source, Pruner):
            return self._source, self._source.objectives
        options = {**self._options, "targets": _targets(self._targets)}
        if isinstance(self._source, str) and "://" in self._source:
            objectives = tuple(Objective(n, maximize=_DIRECTIONS[d]) for n, d in self._given.items())
            return CataloguePruner(Catalogue.existing(self._source), None, objectives, **options), objectives
        project = self._source if isinstance(self._source, Project) else load_project(self._source)
        if not project.objectives:
            raise UsageError(
                f"{project.file}: no objective is named: add a table [objectives.NAME] with "
                'direction = "maximize" or "minimize"'
            )
        for theirs, ours in project.rename.items():
            self._metrics.setdefault(ours, []).append(theirs)
        catalogue = Catalogue.existing(project.storage, **project.how_to_read)
        options = {"bounds": project.bounds, **options}
        judge = CataloguePruner(catalogue, project.space, project.objectives, **options)
        return judge, project.objectives

    def _look(self, trainer: Any, epoch: float) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run or str(getattr(trainer.state.fn, "value", "")) != "fit":
            return
        self.decision = None
        failed = _failure(lambda: self._read(trainer, epoch))
        if failed is None and trainer.is_global_zero:
            failed = _failure(lambda: self.decide(trainer))
        failed, self.decision = trainer.strategy.broadcast((failed, self.decision))
        if failed is not None:
            # Hours of training are worth more than what it may save to stop them.
            if trainer.is_global_zero and str(failed) not in self._warned:
                self._warned.add(str(failed))
                _LOG.warning("epsopt: %s goes on, nothing is decided: %s", _short(self.run), failed, exc_info=failed)
            return
        if self.decision is not None and self.decision.stop:
            self.stopped = self.decision.reason
            trainer.should_stop = True
        if trainer.is_global_zero and self.decision is not None:
            _LOG.log(
                logging.WARNING if self.decision.stop else logging.INFO,
                "epsopt: %s after epoch %g: %s",
                f"{_short(self.run)} {'is stopped' if self.decision.stop else 'goes on'}",
                epoch,
                self.decision.reason,
            )

    def _read(self, trainer: Any, epoch: float) -> None:
        """Take down what was measured last."""
        logged = {name: _float(value) for name, value in trainer.callback_metrics.items()}
        values = {o.name: logged[self._logged_as(o.name, logged)] for o in self.objectives}
        finite = {name: value if math.isfinite(value) else math.nan for name, value in values.items()}
        self._odd = self._odd + 1 if any(map(math.isnan, finite.values())) else 0
        self.curve[epoch] = finite

    def _logged_as(self, objective: str, logged: Mapping[str, float]) -> str:
        """Find what an objective is logged as: as was said, or as the catalogue names it, or by a renamed name."""
        names: list[str] = [*self._metrics.get(objective, []), objective]
        found = next((n for n in names if n in logged), None)
        if found is None:
            raise UsageError(
                f"the objective {objective} is not among the logged metrics ({', '.join(sorted(logged)) or 'none'}): "
                f'log it with self.log("{names[0]}", ...) in validation_step or training_step, or say under which name '
                f'it is logged: EpsoptPruning(metrics={{"{objective}": "NAME"}})'
            )
        return found

    def decide(self, trainer: Any) -> None:
        """Set `decision` by the run's curve so far.

        Args:
            trainer: Lightning's trainer.
        """
        import torch  # Lightning has it loaded

        # Callbacks run without gradients, after a validation in inference mode; the model of curves learns by them.
        with torch.inference_mode(False), torch.enable_grad():
            self.decision = self._decision(trainer)

    def _decision(self, trainer: Any) -> Decision:
        if self._not_finite and self._odd >= self._not_finite:
            names = [o.name for o in self.objectives if math.isnan(self.curve[max(self.curve)][o.name])]
            reason = f"{', '.join(names) or 'an objective'} was NaN or infinite {self._odd} times in a row"
            return Decision(stop=True, probability=0.0, reason=reason)
        epochs = sorted(e for e in self.curve if -1.0 < e <= trainer.current_epoch)
        if not epochs:
            return Decision(stop=False, probability=math.nan, reason="it has only begun")
        rows = [[self.curve[e].get(o.name, math.nan) for o in self.objectives] for e in epochs]
        so_far = Curve(dict(self._config or {}), np.array(epochs, dtype=np.float64) + 1.0, np.array(rows))
        length = self._length
        if length is None and (trainer.max_epochs or -1) > 0:
            length = float(trainer.max_epochs)
        run = str(self.run)
        if isinstance(self.judge, CataloguePruner):
            return self.judge.judge(run, so_far, length=length, own=self.own)
        if self.judge is None:
            raise UsageError("EpsoptPruning decides in trainer.fit: on_fit_start was not called")
        return self.judge.should_stop(run, so_far, length=length)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open database behind: spawned processes open their own."""
        return {**self.__dict__, "judge": None}


def _targets(given: Mapping[str, float]) -> list[Target]:
    return [Target(name, value) for name, value in given.items()]


def _check_options(
    options: Mapping[str, Any], objectives: Mapping[str, str] | None, targets: Mapping[str, float] | None
) -> None:
    """Refuse, in every process, what process zero alone would stumble over when the training begins."""
    known = [n for n, p in signature(Pruner).parameters.items() if p.kind == p.KEYWORD_ONLY and n != "targets"]
    if "threshold" in options:
        raise UsageError(
            "EpsoptPruning has no option threshold since version 0.2: pruning by the probability of joining the front "
            f"lost more than pruning at random; give gain_ratio, from 0 to {MOST_RATIO}, instead"
        )
    for name in options:
        if name not in known:
            raise UsageError(f"EpsoptPruning has no option {name}: known are {', '.join(known)}")
    # Without a URL nobody knows the objectives yet; then those of the targets are taken for them.
    counts = [Objective(n, maximize=True) for n in objectives or targets or ()]
    Pruner(Space(()), counts, 1.0, targets=_targets(targets or {}), **options)


def _failure(step: Callable[[], object]) -> EpsoptError | None:
    """Take a step of process zero; return why it failed, whatever it was: the other processes wait to hear of it."""
    try:
        step()
    except EpsoptError as error:
        return error
    except Exception as error:  # noqa: BLE001 - see above
        failed = EpsoptError(f"early stopping failed: {type(error).__name__}: {error}")
        failed.__cause__ = error
        return failed
    return None


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing, as a hook."""


def _once_an_epoch(trainer: Any) -> bool:
    """Whether metrics are whole at the end of each training epoch: it ends with a validation, or there is none."""
    if not getattr(trainer, "enable_validation", True):
        return True
    interval = trainer.val_check_interval
    # As Lightning has it: 1.0 is once an epoch, 1 is after every batch.
    return isinstance(interval, float) and interval == 1.0 and trainer.check_val_every_n_epoch == 1


def _share_done(trainer: Any) -> float:
    """How much of the current epoch is done; all of it where that is not known."""
    batches = getattr(trainer, "num_training_batches", None)
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    done = getattr(loop, "batch_idx", None)
    if not isinstance(batches, int | float) or not isinstance(done, int) or not 0 < batches < math.inf:
        return 1.0
    return min((done + 1) / batches, 1.0)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # no single number
        return math.nan


def _hyperparameters(trainer: Any, module: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in (getattr(trainer, "datamodule", None), module):
        found |= flat(dict(getattr(part, "hparams", None) or {}))
    return found


def _short(run: str | None) -> str:
    parts = Path(run or "the run").parts
    return parts[-2] if parts[-1] == "checkpoints" and len(parts) > 1 else parts[-1]


def _check(config: Mapping[str, Any], space: Space | None) -> None:
    """Refuse a run of which less is known than a declared search space wants."""
    if space is None or space.accepts(config):
        return
    lacking = ", ".join(p.name for p in space.active(config) if not p.is_of_kind(config.get(p.name)))
    raise UsageError(
        f"nothing usable is known of this run's {lacking}: call self.save_hyperparameters() in the model, or give "
        "EpsoptPruning(config={...}) with the hyperparameters by the names of the search space; there are: "
        f"{', '.join(sorted(config)) or 'none'}"
    )


def _places(trainer: Any) -> tuple[Path, ...]:
    """Where this run keeps its checkpoints, and the checkpoint that it was resumed from."""
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    return tuple(Path(str(p)).absolute() for p in (folder, trainer.ckpt_path) if p and "://" not in str(p))
