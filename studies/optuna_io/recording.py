"""Keep what a search found and the measured front as Optuna studies, for the dashboard.

``<project>/search …`` holds one trial a predicted point of a search, ``<project>/front`` the measured front and
``<project>/front/predicted`` the last search's points. Measured and predicted values never share a study. Recording
twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from epsopt.figures.fronts import front
from epsopt.optimize.measured_front import complete_values, measured_front
from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.optuna_io.distributions import fits, infer_distributions, searched_names
from epsopt.studies.optuna_io.stored_trials import QUERY
from epsopt.studies.optuna_io.study import delete_study, open_study
from epsopt.studies.optuna_io.study_notes import (
    answer_note,
    front_note,
    predicted_note,
    search_note,
    write_note,
    write_trial_notes,
)
from epsopt.studies.optuna_io.trial_artifacts import artifact_attributes
from epsopt.studies.optuna_io.trials import add_new, replace_trials
from epsopt.studies.protocols import Answer, Measured, Neighbour
from epsopt.zoo.errors import EpsoptError

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DIGITS = 16  # of a digest: the dashboard does not wrap lines
NOT_EVALUATED = "predicted, not evaluated"
DIGEST = "digest"
"""User attribute of a search's study: of its query, by which it is found again."""
CONTENT = "epsopt:content"
"""System attribute of a study that is a view: digest of what it shows."""


def record_search(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    answers: Sequence[Answer],
    query: Mapping[str, Any],
    *,
    checkpoints: Sequence[Measured] = (),
    targets: Sequence[Target] = (),
    trust: str = "",
    pictures: Mapping[str, Callable[[], go.Figure]] | None = None,
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
        targets: for the picture and the study's name.
        trust: a sentence for the note: how far the map can be trusted.
        pictures: draw further ones for the study's first page, by a name that is a valid HTML id; called where the
            study does not have them yet.

    Returns:
        The study's name: what was asked for and the day, as in ``<project>/search coverage ≥ 0.95, 28 Nov``.
    """
    digest = _digest([[o.name, o.maximize] for o in objectives], query)
    name = _search_name(storage, project, objectives, targets, digest)
    near = [n.hyperparameters for answer in answers for n in answer.nearest[:1]]
    chosen = searched_names([c.hyperparameters for c in checkpoints] + near)
    configs = [_nearest_params(answer, chosen) for answer in answers]
    distributions = infer_distributions(configs, {})
    trials = [
        _predicted_trial(objectives, i, answer, config, distributions)
        for i, (answer, config) in enumerate(zip(answers, configs, strict=True))
    ]
    study = open_study(storage, name, objectives)
    study.set_user_attr(DIGEST, digest)
    add_new(storage, storage.get_study_id_from_name(name), trials, "answer")
    if QUERY not in study.user_attrs:  # said last: whatever stopped before this is finished by the next call
        _save_figure(study, objectives, checkpoints, answers, targets)
        for identifier, draw in (pictures or {}).items():
            _save_picture(study, draw(), identifier)
        write_note(study, search_note(project, objectives, answers, targets, query, trust))
        number = {t.user_attrs["answer"]: i for i, t in enumerate(trials)}
        kept = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("answer") in number]
        numbers = {t._trial_id: number[t.user_attrs["answer"]] for t in kept}  # noqa: SLF001 - there is no other id
        write_trial_notes(storage, study, {known: answer_note(i + 1, answers[i]) for known, i in numbers.items()})
        study.set_user_attr(QUERY, dict(query))
    return name


def _search_name(
    storage: RDBStorage, project: str, objectives: Sequence[Objective], targets: Sequence[Target], digest: str
) -> str:
    """Name the study of a query: as it was named before, or by what is asked for and the day."""
    known = {s.study_name: s.user_attrs.get(DIGEST) for s in storage.get_all_studies()}
    former = f"{project}/search/{digest[:8]}"  # of version 0.1
    found = next((name for name, kept in known.items() if kept == digest or name == former), None)
    if found is not None:
        return found
    better = {o.name: "≥" if o.maximize else "≤" for o in objectives}
    asked = ", ".join(f"{t.name} {better.get(t.name, '≥')} {t.value:g}" for t in targets) or "of the front"
    today = datetime.now(UTC).astimezone()
    title = f"{project}/search {asked}, {today.day} {today:%b}"
    if title not in known or known[title] is None:
        return title
    return next(name for i in count(2) if known.get(name := f"{title} ({i})") is None)


def record_front(
    storage: RDBStorage,
    project: str,
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Answer],
    targets: Sequence[Target] = (),
    trust: str = "",
) -> str:
    """Show the measured front in the study ``<project>/front``: for the dashboard's Pareto view.

    Its trials are the measured checkpoints that no other dominates. The predicted points are a study of their own,
    ``<project>/front/predicted``: among measured ones they would pass for best trials. The picture of the first shows
    both. The studies are views: when they would show something else, they are built anew.

    Args:
        storage: the studies (:func:`epsopt.studies.open_storage`).
        project: the project's name, first part of the study's name.
        objectives: the metrics that count, in the order of the trials' values.
        checkpoints: measured checkpoints; one that lacks an objective does not count.
        answers: predicted points, shown beside the front.
        targets: drawn in the picture; none by default.
        trust: a sentence for the note: how far the map can be trusted.

    Returns:
        The name of the measured front's study.
    """
    name = f"{project}/front"
    front, _ = measured_front(objectives, checkpoints)
    predicted = [_predicted_trial(objectives, i, answer, {}, {}) for i, answer in enumerate(answers)]
    shown = [[*t.values, t.user_attrs] for t in predicted]
    _record_predicted(storage, f"{name}/predicted", objectives, answers, predicted)
    chosen = searched_names([c.hyperparameters for c in checkpoints])
    distributions = infer_distributions([{n: c.hyperparameters.get(n) for n in chosen} for c in front], {})
    measured = [_measured_trial(objectives, c, distributions) for c in front]
    more = [[c.sha256 for c in checkpoints], shown, [[t.name, t.value] for t in targets]]
    note = front_note(project, objectives, len(front), len(checkpoints), answers, targets, trust)
    show_trials(
        storage, name, objectives, measured, note, more=more,
        draw=lambda study: _save_figure(study, objectives, checkpoints, answers, targets),
    )  # fmt: skip
    return name


def _record_predicted(
    storage: RDBStorage,
    name: str,
    objectives: Sequence[Objective],
    answers: Sequence[Answer],
    predicted: Sequence[FrozenTrial],
) -> None:
    if predicted:
        show_trials(storage, name, objectives, predicted, predicted_note(name, objectives, answers))
    else:
        delete_study(storage, name)


def show_trials(
    storage: RDBStorage,
    name: str,
    objectives: Sequence[Objective],
    trials: Sequence[FrozenTrial],
    note: str,
    *,
    more: Any = None,
    draw: Callable[[optuna.Study], None] | None = None,
) -> bool:
    """Make a study show these trials and no others, under the same address as before.

    Args:
        storage: the studies (:func:`epsopt.studies.open_storage`).
        name: the study's name; what it holds is a view of something else.
        objectives: of the trials' values.
        trials: from ``optuna.create_trial``, finished.
        note: Markdown.
        more: JSON values of which the picture depends besides.
        draw: saves the study's picture.

    Returns:
        Whether the study showed something else before.
    """
    rows = [[t.values, t.params, t.user_attrs, t.intermediate_values, t.system_attrs] for t in trials]
    digest = _digest([[o.name, o.maximize] for o in objectives], rows, note, more)
    study = open_study(storage, name, objectives, rebuild=True)
    study_id = storage.get_study_id_from_name(name)
    if storage.get_study_system_attrs(study_id).get(CONTENT) == digest:
        return False
    replace_trials(storage, study_id, trials)
    if draw is not None:
        draw(study)
    write_note(study, note)
    storage.set_study_system_attr(study_id, CONTENT, digest)  # last: whatever stops before this is done again
    return True


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
    attributes = measured_attributes(objectives, checkpoint, given.keys() - params.keys())
    values = complete_values(objectives, checkpoint.metrics)
    files = artifact_attributes(checkpoint)
    return trial_of(values, params, distributions, attributes, checkpoint.epoch or 0, files=files)


def measured_attributes(
    objectives: Sequence[Objective], checkpoint: Measured, others: Collection[str]
) -> dict[str, Any]:
    """Return what is recorded of a measured checkpoint besides values and parameters.

    Args:
        objectives: of the study; their metrics are the trial's values.
        checkpoint: which it is.
        others: its hyperparameters that are no parameters of the trial.
    """
    attributes: dict[str, Any] = {
        "kind": "measured",
        "path": checkpoint.path,
        "run": checkpoint.run,
        "epoch": checkpoint.epoch,
        "sha256": checkpoint.sha256[:_DIGITS],
    }
    attributes |= {f"hyperparameter.{n}": _plain(v) for n, v in checkpoint.hyperparameters.items() if n in others}
    names = {o.name for o in objectives}
    return attributes | {f"metric.{n}": v for n, v in checkpoint.metrics.items() if n not in names and v is not None}


def _nearest_params(answer: Answer, chosen: Collection[str]) -> dict[str, Any]:
    """Name the hyperparameters of the nearest checkpoint as such: a predicted point has none of its own."""
    near = answer.nearest[0].hyperparameters if answer.nearest else {}
    return {f"nearest.{n}": v for n, v in near.items() if n in chosen}


def _predicted_trial(
    objectives: Sequence[Objective],
    number: int,
    answer: Answer,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
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
            "nearest_run": nearest.run,
            "nearest_epoch": nearest.epoch,
            "latent_distance": float(nearest.distance),
            **{f"nearest_metric.{n}": v for n, v in nearest.metrics.items()},
            **{f"nearest_hyperparameter.{n}": _plain(v) for n, v in nearest.hyperparameters.items()},
            # A line each: the dashboard does not wrap them.
            **{f"nearest.{i}": _named(n) for i, n in enumerate(answer.nearest, 1)},
        }
    # The key holds the content too: a later, other answer of the same number is not mistaken for this one.
    attributes["answer"] = f"{number}-{_digest(values, attributes)[:8]}"
    files = artifact_attributes(answer.nearest[0]) if answer.nearest else None
    return trial_of(values, params, distributions, attributes, number, files=files)


def _named(neighbour: Neighbour) -> str:
    name = neighbour.run if neighbour.epoch is None else f"{neighbour.run}:{neighbour.epoch}"
    return f"{name}, distance {neighbour.distance:.4g}"


def trial_of(
    values: Sequence[float] | None,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attributes: dict[str, Any],
    position: int,
    intermediate: Mapping[int, float] | None = None,
    files: Mapping[str, str] | None = None,
) -> FrozenTrial:
    """Make a finished trial; one without any parameter gets its position as such.

    Args:
        values: of the objectives.
        params: hyperparameters by name; what its distribution does not hold is left out.
        distributions: of all parameters of the study.
        attributes: of the user.
        position: among the study's trials, from 0.
        intermediate: values by step; Optuna takes them of studies with one objective.
        files: system attributes that name its artifacts.
    """
    held = {n: v for n, v in params.items() if n in distributions and fits(distributions[n], v)}
    if not held:  # the dashboard (0.21) divides by zero on a study without any parameter
        held, distributions = {"position": position}, {"position": IntDistribution(0, max(position, 1))}
    return optuna.create_trial(
        values=values,
        params=held,
        distributions={n: distributions[n] for n in held},
        user_attrs=attributes,
        system_attrs=dict(files or {}),
        intermediate_values=dict(intermediate or {}),
    )


def _save_figure(
    study: optuna.Study,
    objectives: Sequence[Objective],
    checkpoints: Sequence[Measured],
    answers: Sequence[Answer],
    targets: Sequence[Target],
) -> None:
    if len(objectives) > 1:
        figure = front(objectives, checkpoints, answers, targets)
        _save_picture(study, figure, "pareto")


def _save_picture(study: optuna.Study, figure: go.Figure, identifier: str) -> None:
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, figure, graph_object_id=identifier)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
