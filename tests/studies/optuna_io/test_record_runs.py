from __future__ import annotations

import math
import threading
from dataclasses import replace

import optuna
import pytest
from optuna_dashboard._note import get_note

from epsopt.studies import open_storage, record_runs
from epsopt.zoo.errors import UsageError

from ..fakes import COVERAGE, DIST_CORR, RAD_HIER, make_zoo  # noqa: TID252

TWO = [COVERAGE, DIST_CORR]


def load(storage, name):
    return optuna.load_study(study_name=name, storage=storage)


def test_each_run_is_one_trial_with_what_its_last_checkpoint_measured(storage):
    zoo = make_zoo(6, 5)
    recorded = record_runs(storage, "p", [COVERAGE, RAD_HIER], zoo)
    study = load(storage, "p/runs")
    assert (recorded.study, recorded.runs, recorded.left_out, recorded.changed) == ("p/runs", 6, 0, True)
    assert study.metric_names == ["coverage", "rad_hier"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert sum("encoder_lr_scale" in c.hyperparameters for c in zoo[4::5]) == 1, "one run's own: nothing to compare"
    for trial, last in zip(study.trials, zoo[4::5], strict=True):
        assert trial.state.name == "COMPLETE"
        assert trial.values == [last.metrics["coverage"], last.metrics["rad_hier"]]
        assert trial.params == {n: v for n, v in last.hyperparameters.items() if n != "encoder_lr_scale"}
        assert (trial.user_attrs["path"], trial.user_attrs["epoch"]) == (last.path, 4)
        assert (trial.user_attrs["checkpoints"], trial.user_attrs["metric.dist_corr"]) == (5, last.metrics["dist_corr"])
    assert "**last checkpoint**" in get_note(study)


def test_each_objective_has_the_curves_of_all_runs_by_epoch(storage):
    zoo = make_zoo(4, 5)
    record_runs(storage, "p", TWO, zoo)
    for objective in TWO:
        trials = load(storage, f"p/runs/{objective.name}").trials
        for i, trial in enumerate(trials):
            own = [c.metrics[objective.name] for c in zoo[5 * i : 5 * i + 5]]
            assert trial.intermediate_values == dict(enumerate(own))
            assert trial.value == own[-1]
        assert len(trials) == 4


def test_one_objective_needs_one_study(storage):
    record_runs(storage, "p", [COVERAGE], make_zoo(3, 4))
    assert optuna.get_all_study_names(storage) == ["p/runs"]
    assert all(len(t.intermediate_values) == 4 for t in load(storage, "p/runs").trials)


def test_checkpoints_without_epochs_are_a_curve_in_their_order(storage):
    zoo = [replace(c, epoch=None) for c in make_zoo(2, 3)]
    record_runs(storage, "p", [COVERAGE], zoo)
    assert [list(t.intermediate_values) for t in load(storage, "p/runs").trials] == [[0, 1, 2]] * 2


def test_recording_twice_changes_nothing_and_more_epochs_change_the_runs(storage):
    zoo = make_zoo(4, 5)
    record_runs(storage, "p", TWO, zoo)
    before = [t._trial_id for t in load(storage, "p/runs").trials]
    assert not record_runs(storage, "p", TWO, zoo).changed
    assert [t._trial_id for t in load(storage, "p/runs").trials] == before
    more = replace(zoo[-1], epoch=5, sha256="f" * 64, metrics={**zoo[-1].metrics, "coverage": 0.123})
    study = storage.get_study_id_from_name("p/runs")
    assert record_runs(storage, "p", TWO, [*zoo, more]).changed
    assert load(storage, "p/runs").trials[-1].values[0] == 0.123
    assert load(storage, "p/runs/coverage").trials[-1].intermediate_values[5] == 0.123
    assert storage.get_study_id_from_name("p/runs") == study


def test_runs_of_one_name_stay_apart(storage):
    zoo = [replace(c, run="same") for c in make_zoo(3, 2)]
    assert record_runs(storage, "p", TWO, zoo).runs == 3


def test_runs_without_a_finite_objective_are_counted_and_left_out(storage):
    zoo = make_zoo(5, 1)
    zoo[0].metrics["coverage"] = None
    zoo[1].metrics["coverage"] = math.nan
    del zoo[2].metrics["coverage"]
    zoo[3].metrics["coverage"] = math.inf
    recorded = record_runs(storage, "p", TWO, zoo)
    assert (recorded.runs, recorded.left_out) == (1, 4)
    assert len(load(storage, "p/runs/dist_corr").trials) == 5, "its curve is there where it was measured"


def test_constants_seeds_and_paths_are_attributes_and_no_parameters(storage):
    zoo = make_zoo(4, 1)
    for i, c in enumerate(zoo):
        c.hyperparameters = {"lr": 0.1 * (i + 1), "width": 64, "seed": i, "init_from": f"runs/base_{i}.pt"}
    record_runs(storage, "p", TWO, zoo)
    for study in ("p/runs", "p/runs/coverage"):
        for i, trial in enumerate(load(storage, study).trials):
            assert list(trial.params) == ["lr"]
            assert trial.user_attrs["hyperparameter.width"] == 64
            assert trial.user_attrs["hyperparameter.seed"] == i
            assert trial.user_attrs["hyperparameter.init_from"] == f"runs/base_{i}.pt"


def test_what_the_base_alone_has_or_lacks_is_no_parameter(storage):
    zoo = make_zoo()
    for c in zoo:
        i = int(c.run.removeprefix("run-"))
        base = {"base_lr": 0.3, "stage": "base", "lr": 0.3}
        tuned = {"lr": 0.1 * i, "projection": "base", **({"warmup": True} if i > 3 else {})}
        c.hyperparameters = tuned if i else base
    study = record_runs(storage, "p", TWO, zoo).study
    trials = optuna.load_study(study_name=study, storage=storage).trials
    assert {name for t in trials for name in t.params} == {"lr", "warmup"}
    assert trials[0].user_attrs["hyperparameter.base_lr"] == 0.3


def test_a_value_that_optuna_cannot_hold_as_a_parameter_is_kept_as_an_attribute(storage):
    zoo = make_zoo(3, 1)
    zoo[0].hyperparameters |= {"mixed": "text", "layers": [64, 32], "none": None, "flag": True}
    zoo[1].hyperparameters |= {"mixed": 3, "flag": False}
    record_runs(storage, "p", TWO, zoo)
    first, second, _ = load(storage, "p/runs").trials
    assert first.user_attrs["hyperparameter.mixed"] == "text"
    assert first.user_attrs["hyperparameter.layers"] == "[64, 32]"
    assert first.params["flag"] is True
    assert not any(name.endswith("none") for name in first.user_attrs)
    assert second.user_attrs["hyperparameter.mixed"] == 3


def test_changed_objectives_leave_no_curves_of_former_ones(storage):
    zoo = make_zoo(2)
    record_runs(storage, "p", TWO, zoo)
    mine = optuna.create_study(storage=storage, study_name="p/runs/mine")
    record_runs(storage, "p", [COVERAGE, RAD_HIER], zoo)
    assert load(storage, "p/runs").metric_names == ["coverage", "rad_hier"]
    assert set(optuna.get_all_study_names(storage)) == {"p/runs", "p/runs/coverage", "p/runs/rad_hier", mine.study_name}


def test_the_study_of_checkpoints_of_version_0_1_gives_way(storage):
    optuna.create_study(storage=storage, study_name="p/measured")
    record_runs(storage, "p", TWO, make_zoo(2))
    assert "p/measured" not in optuna.get_all_study_names(storage)


def test_no_objective_says_what_to_add_to_the_project_file(storage):
    with pytest.raises(UsageError, match=r"objectives\.NAME"):
        record_runs(storage, "p", [], make_zoo(1))


def test_threads_that_record_at_once_show_each_run_once(url):
    zoo = make_zoo()
    open_storage(url)
    threads = [threading.Thread(target=lambda: record_runs(open_storage(url), "p", TWO, zoo)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = load(open_storage(url), "p/runs").trials
    assert [(t.number, t.user_attrs["run"]) for t in trials] == [(i, f"run-{i:03d}") for i in range(6)]
