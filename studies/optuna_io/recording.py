"""Keep what was measured and what was found as Optuna studies.

``<project>/measured`` holds one trial a measured checkpoint, ``<project>/search/<key>`` one a predicted point
of a search, ``<project>/front`` the measured front and ``<project>/front/predicted`` the last search's points, for the
dashboard. Measured and predicted values never share a study. Recording twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from epsopt.figures.fronts import front
from epsopt.optimize.measured_front import complete_values, measured_front
from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.optuna_io.distributions import fits, infer_distributions
from epsopt.studies.optuna_io.study import delete_study, open_study
from epsopt.studies.optuna_io.study_notes import front_note, measured_note, predicted_note, search_note, write_note
from epsopt.studies.optuna_io.trials import add_new, known_distributions, known_keys
from epsopt.studies.protocols import Answer, Measured
from epsopt.zoo.errors import EpsoptError

NOT_EVALUATED = "predicted, not evaluated"
TOGETHER = 5000
"""Measured checkpoints that are recorded in one transaction."""
CONTENT = "epsopt:content"  # system attribute of the front study: digest of what it shows


@dataclass(frozen=True)
class Recorded:
    """What recording did.

    Attributes:
        study: the study's name.
        added: trials that are new in it.
        known: what was in it before.
        left_out: checkpoints that lack an objective, and so cannot be compared.
    """

    study: str
    added: int
    known: int
    left_out: int


def record_measured(
    storage: RDBStorage, project: str, objectives: Sequence[Objective], checkpoints: Sequence[Measured]
) -> Recorded:
    """Record every measured checkpoint as a finished trial of the study ``<project>/measured``.

    The hyperparameters of its run are the trial's parameters where Optuna can hold them as such, else user
    attributes ``hyperparameter.NAME``. Checkpoints are identified by their sha256, so that one that runs share is
    recorded once. When the project's objectives have changed, the study is built anew: everything in it comes from the
    catalogue.

    Args:
        storage: the studies (:func:`open_storage`).
        project: the project's name, first part of the study's name.
        objectives: the metrics that count, in the order of the trials' values.
        checkpoints: checkpoints of the catalogue; one that lacks an objective is not recorded.

    Returns:
        The study's name, and how many trials were added.
    """
    name = f"{project}/measured"
    study = open_study(storage, name, objectives, rebuild=True)
    study_id = storage.get_study_id_from_name(name)
    known = known_keys(storage, study_id, "sha256")
    complete = [c for c in checkpoints if complete_values(objectives, c.metrics) is not None]
    # Runs that share a file measured it once: the first one's row stands for it.
    fresh = list({c.sha256: c for c in reversed(complete) if c.sha256 not in known}.values())[::-1]
    added = 0
    if fresh:
        before = known_distributions(storage, study_id)
        distributions = infer_distributions([c.hyperparameters for c in complete], before)
        # In parts: nobody else can write to the database meanwhile, and a hundred thousand take more than a minute.
        for start in range(0, len(fresh), TOGETHER):
            trials = [_measured_trial(objectives, c, distributions) for c in fresh[start : start + TOGETHER]]
            added += add_new(storage, study_id, trials, "sha256")
        write_note(study, measured_note(project, objectives))
    return Recorded(name, added, len(known), len(checkpoints) - len(complete))


def record_search(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    answers: Sequence[Answer],
    query: Mapping[str, Any],
    *,
    checkpoints: Sequence[Measured] = (),
    targets: Sequence[Target] = (),
) -> str:
    """Record the answers of a search, one finished trial each, in a study of its own.

    Args:
        storage: as open_storage gives it.
        project: the project's name.
        objectives: named and directed; a trial's values are the predicted ones.
        answers: the predicted frontier, each with intervals and its nearest real checkpoints.
        query: everything that decides the answers (targets, engine, seed, key of the surrogate), as JSON
            values. The same query is the same study, and a second recording of it changes nothing.
        checkpoints: measured ones, for the picture.
        targets: for the picture.

    Returns:
        The study's name, ``<project>/search/<first 8 hex digits of a hash of the query>``.
    """
    key = _digest([[o.name, o.maximize] for o in objectives], query)[:8]
    name = f"{project}/search/{key}"
    distributions = infer_distributions([_nearest_params(answer) for answer in answers], {})
    trials = [_predicted_trial(objectives, i, answer, distributions) for i, answer in enumerate(answers)]
    study = open_study(storage, name, objectives)
    add_new(storage, storage.get_study_id_from_name(name), trials, "answer")
    if "query" not in study.user_attrs:  # said last: whatever stopped before this is finished by the next call
        _save_figure(study, objectives, checkpoints, answers, targets)
        write_note(study, search_note(project, objectives, answers, query))
        study.set_user_attr("query", dict(query))
    return name


def record_front(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Answer],
    targets: Sequence[Target] = (),
) -> str:
    """Show the measured front in the study ``<project>/front``: for the dashboard's Pareto view.

    Its trials are the measured checkpoints that no other dominates. The predicted points are a study of their own,
    ``<project>/front/predicted``: among measured ones they would pass for best trials. The picture of the first shows
    both. The studies are views: when they would show something else, they are built anew.

    Args:
        storage: the studies (:func:`open_storage`).
        project: the project's name, first part of the study's name.
        objectives: the metrics that count, in the order of the trials' values.
        checkpoints: measured checkpoints; one that lacks an objective does not count.
        answers: predicted points, shown beside the front.
        targets: drawn in the picture; none by default.

    Returns:
        The name of the measured front's study.
    """
    name = f"{project}/front"
    front, _ = measured_front(objectives, checkpoints)
    predicted = [_predicted_trial(objectives, i, answer) for i, answer in enumerate(answers)]
    shown = [[*t.values, t.user_attrs] for t in predicted]
    _record_predicted(storage, f"{name}/predicted", objectives, answers, predicted)
    digest = _digest(
        "measured only",  # unlike studies that versions from before left
        [[o.name, o.maximize] for o in objectives],
        [c.sha256 for c in checkpoints],
        shown,
        [[t.name, t.value] for t in targets],
    )
    study = _view(storage, name, objectives, digest)
    if study is None:
        return name
    study_id = storage.get_study_id_from_name(name)
    distributions = infer_distributions([c.hyperparameters for c in front], {})
    measured = [_measured_trial(objectives, c, distributions) for c in front]
    add_new(storage, study_id, measured, "sha256")
    _save_figure(study, objectives, checkpoints, answers, targets)
    write_note(study, front_note(project, objectives, len(front), len(checkpoints), answers, targets))
    storage.set_study_system_attr(study_id, CONTENT, digest)
    return name


def _record_predicted(
    storage: RDBStorage,
    name: str,
    objectives: Sequence[Objective],
    answers: Sequence[Answer],
    predicted: Sequence[FrozenTrial],
) -> None:
    if not predicted:
        delete_study(storage, name)
        return
    digest = _digest([[o.name, o.maximize] for o in objectives], [[*t.values, t.user_attrs] for t in predicted])
    study = _view(storage, name, objectives, digest)
    if study is None:
        return
    study_id = storage.get_study_id_from_name(name)
    add_new(storage, study_id, predicted, "answer")
    write_note(study, predicted_note(name, objectives, answers))
    storage.set_study_system_attr(study_id, CONTENT, digest)


def _view(storage: RDBStorage, name: str, objectives: Sequence[Objective], digest: str) -> optuna.Study | None:
    """Return the empty study of a view that is to be built anew; None: it shows this already."""
    study = open_study(storage, name, objectives, rebuild=True)
    study_id = storage.get_study_id_from_name(name)
    if storage.get_study_system_attrs(study_id).get(CONTENT) == digest:
        return None
    if study.get_trials(deepcopy=False):
        delete_study(storage, name)
        study = open_study(storage, name, objectives)
    return study


def predicted_attributes(predicted: Any) -> dict[str, Any]:
    """Return what is recorded of predicted metrics: intervals, and the probability of meeting the targets."""
    attributes: dict[str, Any] = {
        f"interval.{name}": [float(predicted.low[name]), float(predicted.high[name])]
        for name in predicted.point
        if name in predicted.low and name in predicted.high
    }
    if predicted.probability is not None:
        attributes["probability"] = float(predicted.probability)
    return attributes


def _measured_trial(
    objectives: Sequence[Objective], checkpoint: Measured, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    given = {n: v for n, v in checkpoint.hyperparameters.items() if v is not None}
    params = {n: v for n, v in given.items() if n in distributions and fits(distributions[n], v)}
    attributes: dict[str, Any] = {
        "kind": "measured",
        "path": checkpoint.path,
        "run": checkpoint.run,
        "epoch": checkpoint.epoch,
        "sha256": checkpoint.sha256,
    }
    attributes |= {f"hyperparameter.{n}": _plain(v) for n, v in given.items() if n not in params}
    names = {o.name for o in objectives}
    attributes |= {f"metric.{n}": v for n, v in checkpoint.metrics.items() if n not in names and v is not None}
    values = complete_values(objectives, checkpoint.metrics)
    return _trial(values, params, distributions, attributes, checkpoint.epoch or 0)


def _nearest_params(answer: Answer) -> dict[str, Any]:
    """Name the hyperparameters of the nearest checkpoint as such: a predicted point has none of its own."""
    return {f"nearest.{n}": v for n, v in answer.nearest[0].hyperparameters.items()} if answer.nearest else {}


def _predicted_trial(
    objectives: Sequence[Objective],
    number: int,
    answer: Answer,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> FrozenTrial:
    values = complete_values(objectives, answer.point)
    if values is None or any(complete_values(objectives, end) is None for end in (answer.low, answer.high)):
        raise EpsoptError(
            f"answer {number} has no finite prediction and interval of every objective: fit the surrogate again"
        )
    attributes: dict[str, Any] = {"kind": "predicted", "provenance": NOT_EVALUATED}
    attributes |= predicted_attributes(answer)
    if answer.nearest:
        nearest = answer.nearest[0]
        attributes |= {
            "nearest_path": nearest.path,
            "latent_distance": float(nearest.distance),
            "nearest_metrics": dict(nearest.metrics),
            "nearest_hyperparameters": {n: _plain(v) for n, v in nearest.hyperparameters.items()},
            "nearest": [
                {"path": n.path, "run": n.run, "epoch": n.epoch, "distance": float(n.distance)} for n in answer.nearest
            ],
        }
    # The key holds the content too: a later, other answer of the same number is not mistaken for this one.
    attributes["answer"] = f"{number}-{_digest(values, attributes)[:8]}"
    if distributions is None:
        return optuna.create_trial(values=values, user_attrs=attributes)
    return _trial(values, _nearest_params(answer), distributions, attributes, number)


def _trial(
    values: Sequence[float] | None,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attributes: dict[str, Any],
    position: int,
) -> FrozenTrial:
    held = {n: v for n, v in params.items() if n in distributions and fits(distributions[n], v)}
    if not held:  # the dashboard (0.21) divides by zero on a study without any parameter
        held, distributions = {"position": position}, {"position": IntDistribution(0, max(position, 1))}
    return optuna.create_trial(
        values=values, params=held, distributions={n: distributions[n] for n in held}, user_attrs=attributes
    )


def _save_figure(
    study: optuna.Study,
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Answer],
    targets: Sequence[Target],
) -> None:
    if len(objectives) > 1:
        from optuna_dashboard import save_plotly_graph_object

        figure = front(objectives, checkpoints, answers, targets)
        save_plotly_graph_object(study, figure, graph_object_id="pareto")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
