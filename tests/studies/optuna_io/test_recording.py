from __future__ import annotations

import math

import optuna
import pytest
from optuna_dashboard._note import get_note, get_note_from_system_attrs
from sqlalchemy import text

from epsopt.figures import front
from epsopt.optimize.objectives import Objective, Target
from epsopt.studies import record_front, record_runs, record_search
from epsopt.studies.optuna_io.stored_trials import searched_targets
from epsopt.studies.optuna_io.trials import add_new, replace_trials
from epsopt.zoo.errors import EpsoptError

from ..fakes import COVERAGE, DIST_CORR, RAD_HIER, FakeAnswer, make_answers, make_zoo  # noqa: TID252

TWO = [COVERAGE, DIST_CORR]
QUERY = {"targets": {"coverage": 0.95}, "engine": "gradient", "surrogate": "abc"}


def load(storage, name):
    return optuna.load_study(study_name=name, storage=storage)


def test_the_targets_of_the_last_search_are_read_back(storage):
    zoo = make_zoo()
    assert searched_targets(storage, "p") is None
    for value in (0.5, 0.9):
        query = {"targets": {"coverage": value}}
        record_search(
            storage, "p", [COVERAGE, DIST_CORR], make_answers(zoo), query, targets=[Target("coverage", value)]
        )
    record_search(storage, "other", [COVERAGE, DIST_CORR], make_answers(zoo), {"targets": {"coverage": 0.1}})
    assert searched_targets(storage, "p") == {"coverage": 0.9}


def test_trials_added_at_once_are_what_optunas_own_add_trial_would_have_written(storage):
    trials = [
        optuna.create_trial(
            values=[1.5, value],
            params={"x": 0.5, "n": 3, "c": "b", "flag": False},
            distributions={
                "x": optuna.distributions.FloatDistribution(1e-3, 1, log=True),
                "n": optuna.distributions.IntDistribution(1, 9),
                "c": optuna.distributions.CategoricalDistribution(["a", "b"]),
                "flag": optuna.distributions.CategoricalDistribution([True, False]),
            },
            user_attrs={"key": str(value), "list": [1, None, "ü"], "dict": {"a": 1.0}},
            system_attrs={"note": "x"},
            intermediate_values={0: 0.5, 3: value, 4: math.nan},
        )
        for value in (2.0, math.inf, -math.inf)
    ]
    ours = optuna.create_study(storage=storage, study_name="ours", directions=["maximize"] * 2)
    theirs = optuna.create_study(storage=storage, study_name="theirs", directions=["maximize"] * 2)
    theirs.add_trials(trials)
    assert add_new(storage, storage.get_study_id_from_name("ours"), trials, "key") == 3
    for a, b in zip(ours.trials, theirs.trials, strict=True):
        for field in ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs",
                      "datetime_start", "datetime_complete", "intermediate_values"):  # fmt: skip
            assert repr(getattr(a, field)) == repr(getattr(b, field)), field
    assert [t.number for t in ours.best_trials] == [t.number for t in theirs.best_trials]


def test_replaced_trials_are_the_only_ones_and_leave_nothing_behind(storage):
    study = optuna.create_study(storage=storage, study_name="view")
    other = optuna.create_study(storage=storage, study_name="other")
    for one in (study, other):
        one.add_trials([optuna.create_trial(value=float(i), intermediate_values={1: 2.0}) for i in range(3)])
    new = [optuna.create_trial(value=7.0, params={}, user_attrs={"key": "a"}, intermediate_values={0: 1.0, 1: 7.0})]
    study_id = storage.get_study_id_from_name("view")
    replace_trials(storage, study_id, new)
    (left,) = load(storage, "view").trials
    assert (left.number, left.value, left.intermediate_values) == (0, 7.0, {0: 1.0, 1: 7.0})
    assert storage.get_study_id_from_name("view") == study_id, "an address in a browser still shows it"
    assert len(other.trials) == 3
    with storage.engine.begin() as connection:
        rows = connection.execute(text("select count(*) from trial_intermediate_values")).scalar()
    assert rows == 3 + 2


def test_trials_may_be_replaced_by_none(storage):
    study = optuna.create_study(storage=storage, study_name="view")
    study.add_trial(optuna.create_trial(value=1.0))
    replace_trials(storage, storage.get_study_id_from_name("view"), [])
    assert load(storage, "view").trials == []


def test_a_search_is_a_study_with_a_trial_for_every_point(storage):
    zoo = make_zoo()
    answers = make_answers(zoo)
    name = record_search(storage, "p", TWO, answers, QUERY, checkpoints=zoo)
    study = load(storage, name)
    assert name.startswith("p/search of the front, ")
    assert study.metric_names == ["coverage", "dist_corr"]
    assert study.user_attrs["query"] == QUERY
    assert len(study.trials) == len(answers)
    for trial, answer in zip(study.trials, answers, strict=True):
        near = answer.nearest[0]
        assert trial.values == [answer.point["coverage"], answer.point["dist_corr"]]
        assert trial.user_attrs["provenance"] == "predicted, not evaluated"
        assert trial.user_attrs["interval.coverage"] == [answer.low["coverage"], answer.high["coverage"]]
        assert trial.user_attrs["probability"] == answer.probability
        assert trial.user_attrs["nearest_path"] == near.path
        assert trial.user_attrs["latent_distance"] == near.distance
        for name, value in near.metrics.items():
            assert trial.user_attrs[f"nearest_metric.{name}"] == value
        for name, value in near.hyperparameters.items():
            assert trial.user_attrs[f"nearest_hyperparameter.{name}"] == value
        assert trial.user_attrs["nearest.1"].startswith(f"{near.run}:{near.epoch}, distance 0.")
        shared = {n: v for n, v in near.hyperparameters.items() if n != "encoder_lr_scale"}  # which one run alone has
        assert trial.params == {f"nearest.{n}": v for n, v in shared.items()}


def test_each_answer_says_what_is_predicted_beside_what_its_nearest_checkpoint_measured(storage):
    zoo = make_zoo()
    answers = make_answers(zoo)
    study = load(storage, record_search(storage, "p", TWO, answers, QUERY, checkpoints=zoo))
    kept = storage.get_study_system_attrs(storage.get_study_id_from_name(study.study_name))
    for i, (trial, answer) in enumerate(zip(study.trials, answers, strict=True), 1):
        note = get_note_from_system_attrs(kept, trial._trial_id)["body"]
        assert note.startswith(f"# Answer {i}\n")
        assert "Predicted, not evaluated." in note
        assert f"probability {answer.probability:.2f}" in note
        near = answer.nearest[0]
        assert f"`{near.path}`" in note
        assert f"{answer.point['coverage']:.4g} (" in note
        assert f"| {near.metrics['coverage']:.4g} |" in note


def test_the_same_query_is_the_same_study_and_another_one_is_not(storage):
    answers = make_answers(make_zoo())
    first = record_search(storage, "p", TWO, answers, QUERY)
    assert record_search(storage, "p", TWO, answers, dict(reversed(QUERY.items()))) == first
    assert len(load(storage, first).trials) == len(answers)
    other = record_search(storage, "p", TWO, answers, {**QUERY, "surrogate": "def"})
    assert other == f"{first} (2)"
    assert record_search(storage, "p", TWO, answers, {**QUERY, "surrogate": "def"}) == other


def test_a_search_is_named_by_what_it_asks_for_and_keeps_its_name(storage):
    answers = make_answers(make_zoo())
    targets = [Target("coverage", 0.95), Target("rad_hier", -0.5)]
    name = record_search(storage, "p", [COVERAGE, RAD_HIER], answers, QUERY, targets=targets)
    assert name.startswith("p/search coverage ≥ 0.95, rad_hier ≤ -0.5, ")
    former = record_search(storage, "q", TWO, answers, QUERY)
    key = load(storage, former).user_attrs["digest"]
    optuna.delete_study(study_name=former, storage=storage)
    optuna.create_study(storage=storage, study_name=f"q/search/{key[:8]}", directions=["maximize"] * 2)
    assert record_search(storage, "q", TWO, answers, QUERY) == f"q/search/{key[:8]}", "as version 0.1 named it"


def test_further_pictures_are_drawn_once(storage):
    zoo, drawn = make_zoo(), []
    for _ in range(2):
        pictures = {"map": lambda: drawn.append(1) or front(TWO, zoo, [])}
        record_search(storage, "p", TWO, make_answers(zoo), QUERY, checkpoints=zoo, pictures=pictures)
    assert drawn == [1]


def test_a_recording_that_was_cut_off_is_finished_by_the_next(storage, monkeypatch):
    answers = make_answers(make_zoo())
    with monkeypatch.context() as patch:
        patch.setattr(
            "epsopt.studies.optuna_io.recording.write_note", lambda *_: (_ for _ in ()).throw(OSError("power cut"))
        )
        with pytest.raises(OSError, match="power cut"):
            record_search(storage, "p", TWO, answers, QUERY)
    study = load(storage, record_search(storage, "p", TWO, answers, QUERY))
    assert len(study.trials) == len(answers)
    assert "none of them was evaluated" in get_note(study)


def test_a_point_without_a_finite_prediction_is_refused(storage):
    whole, broken = {"coverage": 1.0, "dist_corr": 1.0}, {"coverage": math.nan, "dist_corr": 1.0}
    for answer in (FakeAnswer(broken, whole, whole, None), FakeAnswer(whole, {}, whole, None)):
        with pytest.raises(EpsoptError, match="finite prediction and interval"):
            record_search(storage, "p", TWO, [answer], QUERY)
    assert optuna.get_all_study_names(storage) == []


def test_the_front_study_holds_measured_checkpoints_alone_and_predictions_have_their_own(storage):
    zoo = make_zoo()
    answers = make_answers(zoo)
    name = record_front(storage, "p", TWO, zoo, answers, [Target("coverage", 0.95)])
    study = load(storage, name)
    front = {c.path for c in zoo if not any(dominates(d, c) for d in zoo)}
    assert {t.user_attrs["path"] for t in study.trials} == front
    assert len(study.best_trials) == len(front), "no prediction beats what was measured"
    predicted = load(storage, "p/front/predicted")
    assert [t.user_attrs["kind"] for t in predicted.trials] == ["predicted"] * len(answers)
    assert "**Predicted, not evaluated.**" in get_note(predicted)
    note = get_note(study)
    assert "**Predicted, not evaluated.**" in note
    assert "`coverage` ≥ 0.95" in note
    assert zoo[0].path in note


def dominates(a, b):
    pairs = [(a.metrics[o.name], b.metrics[o.name]) for o in TWO]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def test_the_front_study_is_left_alone_until_it_would_show_something_else(storage):
    zoo = make_zoo()
    record_front(storage, "p", TWO, zoo, make_answers(zoo))
    before = load(storage, "p/front").trials
    record_front(storage, "p", TWO, zoo, make_answers(zoo))
    assert [t._trial_id for t in load(storage, "p/front").trials] == [t._trial_id for t in before]
    record_front(storage, "p", TWO, zoo, make_answers(zoo, 2))
    assert len(load(storage, "p/front/predicted").trials) == 2
    record_front(storage, "p", TWO, zoo, [])
    assert "p/front/predicted" not in optuna.get_all_study_names(storage)


def test_the_picture_names_objectives_and_shows_intervals_and_targets():
    zoo = make_zoo()
    figure = front([COVERAGE, RAD_HIER], zoo, make_answers(zoo), [Target("rad_hier", -0.5)])
    text = figure.to_json()
    assert figure.layout.xaxis.title.text == "coverage (higher is better)"
    assert figure.layout.yaxis.title.text == "rad_hier (lower is better)"
    predicted = next(t for t in figure.data if t.name.startswith("predicted, not evaluated"))
    assert list(predicted.error_y.array) == pytest.approx([0.03] * 4)
    assert list(predicted.error_y.arrayminus) == pytest.approx([0.04] * 4)
    assert "rad_hier \\u2264 -0.5" in text or "rad_hier ≤ -0.5" in text
    assert '"bdata"' not in text  # the dashboard's plotly does not read it


def test_three_objectives_are_a_matrix_and_one_is_its_value_over_training():
    zoo = make_zoo()
    figure = front([COVERAGE, DIST_CORR, RAD_HIER], zoo, make_answers(zoo))
    titles = {axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()]} - {None}
    assert len(titles) == 3
    assert sum(trace.name.startswith("predicted") for trace in figure.data) == 3, "every pair of objectives"
    assert front([COVERAGE], zoo, []).layout.xaxis.title.text == "epoch"


def test_a_large_zoo_keeps_its_front_in_the_picture():
    zoo = make_zoo(200, 20)
    figure = front(TWO, zoo, [])
    sizes = {trace.name.split(" (")[0]: len(trace.x) for trace in figure.data}
    assert sizes["measured"] <= 1500
    complete = sum(not any(dominates(d, c) for d in zoo) for c in zoo[:400])
    assert sizes["measured front"] >= complete


def test_names_are_text_in_pictures_and_notes_never_markup(storage):
    zoo = make_zoo(2)
    for checkpoint in zoo:
        checkpoint.run = "<img src=x onerror=alert(1)>"
        checkpoint.metrics["a<b>`|"] = checkpoint.metrics["coverage"]
    hostile = Objective("a<b>`|", maximize=True)
    assert "<img" not in front([hostile, DIST_CORR], zoo, []).to_json()
    name = record_front(storage, "p", [hostile, DIST_CORR], zoo, [])
    assert "`a<b>'\\|`" in get_note(load(storage, name))


def test_a_study_without_any_hyperparameter_still_has_a_parameter_for_the_dashboard(storage):
    zoo = make_zoo(1, 2)
    for checkpoint in zoo:
        checkpoint.hyperparameters = {}
    record_runs(storage, "p", TWO, zoo)
    point = {"coverage": 1.0, "dist_corr": 1.0}
    name = record_search(storage, "p", TWO, [FakeAnswer(point, point, point, None)], QUERY)
    assert all(t.params for study in ("p/runs", "p/runs/coverage", name) for t in load(storage, study).trials)
