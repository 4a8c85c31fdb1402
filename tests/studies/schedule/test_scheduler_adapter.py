"""The policy put together from the database: the same next step for whoever asks, and merges as steps."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from epsopt.optimize.merge.weight_space_gp import MergeCandidate, WeightSpace
from epsopt.optimize.planned_epochs import config_with_epochs, length_choices
from epsopt.optimize.schedule.run_acquisition import Candidate
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage
from epsopt.studies.optuna_io.queue import record_step
from epsopt.studies.optuna_io.refit_lease import LeaseLost
from epsopt.studies.optuna_io.run_folders import folder_of
from epsopt.studies.optuna_io.stored_trials import config_of, proposed_trials
from epsopt.studies.optuna_io.trial_leases import claim, finish, release
from epsopt.studies.schedule import budget as ledger_module
from epsopt.studies.schedule import scheduler_adapter as following
from epsopt.studies.schedule import scheduler_service as stepping
from epsopt.studies.schedule import weight_geometry as placing
from epsopt.studies.schedule.budget import (
    Budget,
    Ledger,
    MeasuredMerge,
    begun_short,
    plan_of,
    save_measured_merge,
    written,
)
from epsopt.studies.schedule.scheduler_adapter import (
    chosen_run,
    failed,
    known,
    make_scheduler,
    running,
    suggested,
)
from epsopt.studies.schedule.scheduler_service import SchedulerService
from epsopt.studies.schedule.study_snapshot import StudySnapshot
from epsopt.studies.schedule.weight_geometry import WeightGeometry, as_start, front_lineage_tree, place, shaping
from epsopt.studies.worker.proposals import history_of
from epsopt.zoo import Catalogue, ingest, load_weights
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import is_recombined
from epsopt.zoo.errors import UsageError

from ..merge.test_weight_space_merge import CALM, UP, hook, tiny, weights  # noqa: F401, TID252 - fixtures

COMMAND = ("train", "--lr", "{lr}", ("--epochs", "{epochs}"), ("--init-from", "{init_from}"))


@pytest.fixture
def studied(tiny, monkeypatch):  # noqa: F811
    """Runs of two epochs from one base, as many as suffice, a hook, and a program that takes every option."""
    monkeypatch.setattr(following, "FIRST_RUNS", 4)
    project, catalogue = tiny
    project = replace(project, command=COMMAND)
    return project, open_storage(project.storage), catalogue


@pytest.fixture
def quiet(studied, monkeypatch):
    """The same without a hook; the runs that are there suffice to learn from."""
    monkeypatch.setattr(following, "SHORT_RUNS", 4)
    project, storage, catalogue = studied
    return replace(project, evaluate=None), storage, catalogue


@pytest.fixture
def cheap(monkeypatch) -> float:
    """What measuring a merge costs: so little that merges come first."""
    monkeypatch.setattr(ledger_module, "EVALUATION", 0.1)
    return 0.1


def service(studied, until: float = 1000.0, within: float = 600.0, **options) -> SchedulerService:
    project, storage, catalogue = studied
    return SchedulerService(project, storage, catalogue, until=until, within=within, **options)


def follow(studied, n: int = 1, **options) -> None:
    """Ask for so many steps, one after another; all that waited before are under way then."""
    storage = studied[1]
    with service(studied, **options) as mine:
        for _ in range(n):
            if any(t.state == TrialState.WAITING for t in proposed_trials(storage, "tiny")):
                claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None)
            mine.ask()
            mine.advance()


def remember(catalogue, *merges: MeasuredMerge) -> None:
    for merge in merges:
        save_measured_merge(catalogue, "tiny", merge)


def plans(studied) -> list:
    return [plan_of(t.user_attrs) for t in proposed_trials(studied[1], "tiny")]


def test_a_merge_is_measured_there_and_then_and_the_next_step_knows_it(studied, cheap):
    project, storage, catalogue = studied
    messages: list[str] = []
    follow(studied, until=1.0, notify=messages.append)  # its hook has no bounds: stretching goes on for ever
    merged = [c for c in catalogue.checkpoints() if is_recombined(c)]
    ledger = Ledger.read(storage, catalogue, "tiny")
    assert merged
    assert len(merged) == len(ledger.merges) == len(messages)
    assert messages[0].startswith("merged_001/merged_000 ")
    for text, merge in zip(messages, ledger.merges, strict=True):
        assert ("joined the front, hypervolume +" in text) == (merge.realized_gain > 0.0)
    assert ledger.merges[0].cost == cheap, "nobody knows yet how long an epoch takes"
    assert ledger.merges[0].seconds > 0.0
    snapshot = StudySnapshot.read(project, storage, catalogue)
    with WeightDecoder(project.evaluate) as decoder:
        placed = place(decoder, project, snapshot.checkpoints, snapshot.lineage_tree)
    assert {c.sha256 for c in merged} <= {c.sha256 for c in placed.checkpoints}
    assert known(snapshot, placed).merged.shape == (len(merged), 2)


def test_a_base_that_runs_name_is_read_with_them(quiet, tmp_path):
    project, _, _ = quiet
    with Catalogue(f"sqlite:///{tmp_path / 'new.db'}") as catalogue:
        storage = open_storage(catalogue.url)
        for i in range(4):  # as a worker does, run by run
            ingest(catalogue, project.runs / f"run_{i}", root=project.runs, jobs=1)
        assert StudySnapshot.read(project, storage, catalogue).base is None
        follow((project, storage, catalogue))
        snapshot = StudySnapshot.read(project, storage, catalogue)
    assert snapshot.base.key == ""
    assert snapshot.base.values[0] == 0.0
    assert len(snapshot.curves) == 4, "the base is no run"
    assert all(c.start[0] == 0.0 for c in snapshot.curves.values())
    (trial,) = snapshot.ledger.trials
    plan = plan_of(trial.user_attrs)
    assert (plan.kind == "branch") == ("init_from" in trial.user_attrs)


def test_without_a_hook_nothing_is_mixed(studied):
    project, storage, catalogue = studied
    follow((replace(project, evaluate=None), storage, catalogue))
    assert not any(is_recombined(c) for c in catalogue.checkpoints())
    assert len(plans(studied)) == 1


def test_a_hook_that_fails_is_reported_in_a_line_and_a_run_is_chosen(studied, cheap, tmp_path, monkeypatch):
    (tmp_path / "broken_hook.py").write_text('def evaluate(state):\n    raise ValueError("no such layer")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    project, storage, catalogue = studied
    messages: list[str] = []
    broken = replace(project, evaluate="broken_hook:evaluate")
    follow((broken, storage, catalogue), notify=messages.append)
    assert len(messages) == 1
    assert messages[0].startswith("no merge was measured: the evaluate hook 'broken_hook:evaluate'")
    assert len(plans(studied)) == 1
    assert not Ledger.read(storage, catalogue, "tiny").merges


@pytest.mark.parametrize("calls", [0, 1])
def test_who_was_taken_for_dead_writes_nothing_more(studied, cheap, calls, monkeypatch):
    project, storage, catalogue = studied
    before, left = len(catalogue.checkpoints()), [calls]

    def files() -> set:
        return set(project.runs.rglob("*"))

    there = files()
    with service(studied) as dead:

        def require(_lease) -> None:
            if not left[0]:
                dead.close()
                raise LeaseLost("another learner took over")
            left[0] -= 1

        monkeypatch.setattr("epsopt.studies.optuna_io.refit_lease.Lease.assert_held", require)
        dead.ask()
        dead.advance()
    written_down = Ledger.read(storage, catalogue, "tiny")
    assert (len(written_down.trials), len(written_down.merges)) == (0, calls)
    assert len(catalogue.checkpoints()) - before == calls
    assert (files() == there) == (calls == 0)


def test_whoever_puts_the_policy_together_comes_to_the_same_next_step(studied, tmp_path):
    project, storage, catalogue = studied
    follow(studied, 2)
    steps = []
    for _ in range(2):
        snapshot = StudySnapshot.read(project, storage, catalogue)
        step = make_scheduler(snapshot).next(known(snapshot, None), running(snapshot))
        steps.append(
            (step.kind, step.predicted_gain, step.gain_per_epoch, dict(step.candidate.config), step.candidate.start)
        )
    assert steps[0][:4] == steps[1][:4]
    assert (steps[0][4] and steps[0][4].key) == (steps[1][4] and steps[1][4].key)
    with sqlite3.connect(tmp_path / "epsopt.db") as one, sqlite3.connect(tmp_path / "other.db") as two:
        one.backup(two)  # as another machine would see it
    url = f"sqlite:///{tmp_path / 'other.db'}"
    with Catalogue(url) as other:
        follow((project, open_storage(url), other))
    follow(studied)
    there, here = (proposed_trials(open_storage(u), "tiny")[2] for u in (url, project.storage))
    assert config_of(there) == config_of(here)
    assert there.user_attrs["step"] == here.user_attrs["step"]
    assert config_of(here) != config_of(proposed_trials(storage, "tiny")[1]), "what waits is not proposed again"


def test_a_step_is_queued_with_what_a_proposal_is_queued_with(quiet):
    project, storage, catalogue = quiet
    snapshot = StudySnapshot.read(project, storage, catalogue)
    step = make_scheduler(snapshot).next(known(snapshot, None), running(snapshot))
    follow(quiet)
    (trial,) = proposed_trials(storage, "tiny")
    said, names = trial.user_attrs, ("up", "calm")
    assert said["level"] == step.expected.level == 0.9
    assert [said[f"predicted.{n}"] for n in names] == [step.expected.point[n] for n in names]
    assert [said[f"interval.{n}"] for n in names] == [[step.expected.low[n], step.expected.high[n]] for n in names]
    assert said["joins_front"] == step.expected.joins_front
    config = {name: snapshot.curves[run_id].config for run_id, name in names_of(snapshot).items()}
    near = [n["run"] for n in said["nearest_runs"]]
    assert near == sorted(config, key=lambda n: abs(config[n]["lr"] - step.candidate.config["lr"]))[:3]
    assert said["nearest_runs"][0]["distance"] <= said["nearest_runs"][-1]["distance"]
    assert said["reason"].startswith(f"a {step.kind} of 2 epochs")
    start = Path(said["init_from"]) if step.kind == "branch" else None
    assert start is None or f" from {start.parent.name}:{int(start.stem[-3:])}, " in said["reason"]
    added = (
        f"expected to add {step.predicted_gain:.2g} to the hypervolume, {step.predicted_gain / step.cost:.2g} an epoch"
    )
    assert said["reason"].endswith(f"{added}, and to join the front ({step.expected.joins_front:.0%})")
    assert "\n" not in said["reason"]


def test_of_a_run_that_is_given_less_than_it_was_chosen_for_its_own_end_is_predicted(quiet):
    project, storage, catalogue = quiet
    snapshot = StudySnapshot.read(project, storage, catalogue, 4.0)
    step = make_scheduler(snapshot).next(known(snapshot, None), running(snapshot))
    follow(quiet, until=1.0, length=4.0)
    (trial,) = proposed_trials(storage, "tiny")
    assert plan_of(trial.user_attrs).epochs == 1 < step.cost
    cut = suggested(snapshot, step, replace(step.candidate, epochs=1.0))
    assert trial.user_attrs["predicted.up"] == cut.point["up"] != step.expected.point["up"]
    assert trial.user_attrs["reason"] == cut.reason
    assert f"expected to add {step.predicted_gain / step.cost:.2g} to" in cut.reason
    assert cut.reason.startswith(f"a {step.kind} of 1 epoch")


def test_of_a_look_nothing_is_predicted_but_why_it_is_taken_is_said(studied, monkeypatch):
    monkeypatch.setattr(following, "FIRST_RUNS", 9)
    follow(studied)
    (trial,) = proposed_trials(studied[1], "tiny")
    assert plan_of(trial.user_attrs).kind == "exploration"
    assert not any(n.startswith(("predicted.", "interval.", "joins_front")) for n in trial.user_attrs)
    assert trial.user_attrs["reason"].startswith("an exploration run of up to 2 epochs: too few runs")
    assert len(trial.user_attrs["nearest_runs"]) == 3


def test_the_realized_gain_of_steps_is_weighed_against_the_predicted(quiet):
    _, storage, catalogue = quiet
    follow(quiet)
    (trial,) = proposed_trials(storage, "tiny")
    kind = plan_of(trial.user_attrs).kind
    reliability = make_scheduler(StudySnapshot.read(*quiet)).reliability.of(kind, 1.0)
    study = storage.get_study_id_from_name("tiny/proposals")
    taken = claim(storage, study, "me", {}, lambda _: None)
    assert running(StudySnapshot.read(*quiet))[0].epochs == plan_of(trial.user_attrs).epochs
    assert make_scheduler(StudySnapshot.read(*quiet)).reliability.of(kind, 1.0) == reliability, "it has not ended"
    finish(storage, taken.trial_id, TrialState.PRUNED, None, {})
    scheduler = make_scheduler(StudySnapshot.read(*quiet))
    assert scheduler.reliability.of(kind, 1.0) < reliability
    assert scheduler.last_kind == kind
    assert running(StudySnapshot.read(*quiet)) == []
    merges = [MeasuredMerge(0.5, 0.0, 0.5, 1.0, "between")] * 10
    remember(catalogue, *merges, MeasuredMerge(0.1, 0.1, 0.5, 1.0, "beyond"))
    reliability = make_scheduler(StudySnapshot.read(*quiet)).reliability
    assert reliability.of("between", 1.0) < 0.1
    assert reliability.of("beyond", 1.0) == pytest.approx((0.1 + 0.05 * 0.3) / 0.15), "each kind has its own"


def test_what_was_interrupted_counts_once_as_a_step_and_its_epochs_are_paid_once(quiet):
    _, storage, catalogue = quiet
    follow(quiet)
    study = storage.get_study_id_from_name("tiny/proposals")
    budget = Budget(20, storage, catalogue, "tiny")
    before = make_scheduler(StudySnapshot.read(*quiet))
    first = claim(storage, study, "me", {}, lambda _: None)
    curve = [{"epoch": e, "path": f"/a/{e}.pt", "metrics": {}} for e in (1, 2)]
    storage.set_trial_user_attr(first.trial_id, "checkpoints", curve)
    release(storage, study, first.trial_id, "interrupted")
    assert (budget.spent, budget.left()) == (2, 18)
    again = claim(storage, study, "you", {}, lambda _: None)
    assert budget.resumed(again.attributes) == 2
    more = [{"epoch": 3, "path": "/b/3.pt", "metrics": {}}]
    finish(storage, again.trial_id, TrialState.PRUNED, None, {"checkpoints": more})
    assert budget.spent == 3, "it went on from where the first attempt ended"
    after = make_scheduler(StudySnapshot.read(*quiet))
    assert (before.explorations, before.last_kind) == (after.explorations, after.last_kind)
    assert len(after.reliability.predicted) == 1


def test_merges_cost_what_their_seconds_are_in_epochs(studied):
    project, storage, catalogue = studied
    remember(catalogue, MeasuredMerge(0.1, 0.1, 0.5, 3.0))
    assert Ledger.read(storage, catalogue, "tiny").evaluation == 0.5
    record_step(storage, "tiny", project.objectives, project.space, {"lr": 0.5}, None, {})
    taken = claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None)
    finish(storage, taken.trial_id, TrialState.COMPLETE, [0.0, 0.0], {"checkpoints": [{"epoch": 1, "path": "/1"}]})
    ledger = Ledger.read(storage, catalogue, "tiny")
    (trial,) = ledger.trials
    epoch = max((trial.datetime_complete - trial.datetime_start).total_seconds(), 1e-3)
    assert ledger.evaluation == pytest.approx(3.0 / epoch)
    assert ledger.spent == 1.5


def test_no_run_is_given_more_than_is_left(quiet):
    follow(quiet, 9, until=5.0, length=4.0)
    epochs = [p.epochs for p in plans(quiet)]
    assert sum(epochs) == 5
    assert max(epochs) <= 4
    follow(quiet, 9, until=5.0, length=4.0)
    assert len(plans(quiet)) == len(epochs)


def test_a_hyperparameter_may_say_how_long_a_run_is_within_its_range():
    space = Space((Parameter("epochs", "int", 3, 9), Parameter("lr", "float")))
    assert config_with_epochs(space, {"epochs": 7, "lr": 0.1}, "epochs", 5) == {"epochs": 5, "lr": 0.1}
    assert config_with_epochs(space, {"epochs": 7, "lr": 0.1}, "epochs", 2) == {"epochs": 3, "lr": 0.1}
    assert config_with_epochs(space, {"epochs": 7, "lr": 0.1}, None, 2) == {"epochs": 7, "lr": 0.1}
    listed = Space((Parameter("epochs", "categorical", choices=(6, 8, 10)), Parameter("lr", "float")))
    assert config_with_epochs(listed, {"epochs": 10, "lr": 0.1}, "epochs", 3) == {"epochs": 6, "lr": 0.1}
    assert length_choices(listed.parameters[0]) == (6.0, 8.0, 10.0)
    assert length_choices(Parameter("epochs", "categorical", choices=("few", 8))) == ()


def test_a_program_that_takes_no_epochs_gets_whole_branches(studied):
    project, storage, catalogue = studied
    deaf = replace(project, command=("train", "{lr}", ("--init-from", "{init_from}")), evaluate=None)
    snapshot = StudySnapshot.read(deaf, storage, catalogue)
    assert (snapshot.takes_epochs, snapshot.epochs_parameter, snapshot.length) == (False, None, 2.0)
    assert make_scheduler(snapshot).branch_epochs == 2.0
    rigid = StudySnapshot.read(replace(deaf, command=("train", "{lr}")), storage, catalogue)
    assert make_scheduler(rigid).branch_epochs is None


def test_lengths_are_counted_in_checkpoints_where_a_trainer_counts_steps(quiet):
    project, storage, catalogue = quiet
    snapshot = StudySnapshot.read(project, storage, catalogue)
    assert (snapshot.spacing, make_scheduler(snapshot).branch_epochs) == (1.0, 2.0)
    longer = {i: replace(c, steps=60.0 * np.arange(1.0, len(c.steps) + 1)) for i, c in snapshot.curves.items()}
    by_steps = replace(snapshot, curves=longer, asked_length=300.0)
    scheduler = make_scheduler(by_steps)
    assert (by_steps.spacing, scheduler.branch_epochs) == (60.0, 180.0)
    step = scheduler.next(known(by_steps, None))
    config = next(iter(longer.values())).config
    for wanted, room, given in ((300.0, 1000, 300), (300.0, 200, 180), (180.0, 1000, 180), (180.0, 40, 40)):
        chosen = chosen_run(by_steps, step, Candidate(config, None, wanted), room)
        assert plan_of(chosen.attributes).epochs == given
    # A whole run's last checkpoint may come after its end, wherever that is.
    uneven = replace(by_steps, asked_length=250.0)
    assert plan_of(chosen_run(uneven, step, Candidate(config, None, 250.0), 1000).attributes).epochs == 250


def test_runs_that_were_given_less_do_not_say_how_long_a_run_is(quiet):
    follow(quiet, 2, until=2.0, length=6.0)
    project, storage, catalogue = quiet
    trials = proposed_trials(storage, "tiny")
    short = {folder_of(project, t) for t, p in zip(trials, plans(quiet), strict=True) if p.epochs < 6}
    assert short
    assert begun_short(project, trials) == short
    checkpoints = catalogue.checkpoints()
    history, _ = history_of(project, trials, checkpoints, project.objectives)
    brief = replace(next(iter(history.curves.values())), steps=np.array([1.0]), values=np.zeros((1, 2)))
    begun = {f"brief {i}": brief for i in range(30)}
    assert replace(history, curves={**history.curves, **begun}).length == 1.0
    assert replace(history, curves={**history.curves, **begun}, shorter=begun).length == history.length == 2.0


def test_where_the_files_are_gone_runs_start_where_runs_start(quiet):
    project, storage, catalogue = quiet
    for path in project.runs.glob("run_*/*.pt"):
        path.unlink()
    follow((project, storage, catalogue))
    (trial,) = proposed_trials(storage, "tiny")
    assert trial.user_attrs["step"]["kind"] == "run"
    assert "init_from" not in trial.user_attrs


def test_where_nothing_says_how_long_a_run_is_that_is_an_error(tmp_path, studied):
    with Catalogue(f"sqlite:///{tmp_path / 'new.db'}") as empty:
        storage = open_storage(empty.url)
        with pytest.raises(UsageError, match=r"how long is a whole run.*--length EPOCHS"):
            make_scheduler(StudySnapshot.read(studied[0], storage, empty))
        snapshot = StudySnapshot.read(studied[0], storage, empty, 6.0)
        assert make_scheduler(snapshot).next(known(snapshot, None)).kind == "exploration"


def made(run: int, lineage: int, sha: str, up: float, calm: float, signature: str = "s", **config) -> Checkpoint:
    return Checkpoint(
        run, run, f"run_{run}", f"/{sha}.pt", sha, 1, {"up": up, "calm": calm}, config, signature, lineage, 9
    )


def test_runs_that_name_another_run_s_checkpoint_are_of_its_family():
    checkpoints = [made(0, 1, "base", 0.0, 0.0), made(1, 2, "a", 0.5, 0.5), made(2, 3, "branch", 0.9, 0.9)]
    lineages = [Lineage(1, "s", "/base.pt", False, "base"), Lineage(2, "s", "/base.pt", True, "base"),
                Lineage(3, "s", "/a.pt", True, "a")]  # fmt: skip
    lineage_tree = front_lineage_tree(checkpoints, lineages, [UP, CALM])
    assert (lineage_tree.base.sha256, lineage_tree.declared, lineage_tree.lineages) == ("base", True, {1, 2, 3})
    strangers = [*lineages[:2], Lineage(3, "s", "/x.pt", True, "x")]
    apart = [*checkpoints, made(3, 1, "c", 0.1, 1.5)]
    assert front_lineage_tree(apart, strangers, [UP, CALM]) is None, "the front is of two"
    assert front_lineage_tree(checkpoints[:1], [], [UP, CALM]) is None


def test_what_lies_far_out_is_of_the_family_that_it_was_mixed_from_and_other_families_merges_are_not():
    checkpoints = [
        made(0, 1, "base", 0.0, 0.0), made(1, 1, "a", 0.5, 0.5), made(2, 2, "far", 0.1, 0.1, recombined=True),
        made(3, 2, "from far", 0.4, 0.6), made(4, 3, "stranger", -1.0, -1.0),
        made(5, 3, "its merge", -0.9, -0.9, recombined=True),
    ]  # fmt: skip
    lineages = [Lineage(1, "s", "/base.pt", True, "base"), Lineage(2, "s", "/far.pt", False, "far"),
                Lineage(3, "s", "/x.pt", False, "stranger")]  # fmt: skip
    lineage_tree = front_lineage_tree(checkpoints, lineages, [UP, CALM])
    assert (lineage_tree.base.sha256, lineage_tree.lineages) == ("base", {1, 2})
    declared = [lineages[0], replace(lineages[1], declared=True), lineages[2]]
    assert front_lineage_tree(checkpoints, declared, [UP, CALM]).lineages == {1, 2}, "a run says that it started there"
    assert front_lineage_tree(checkpoints[2:4], lineages, [UP, CALM]) is None, "nothing says of which family it is"


def test_hyperparameters_that_shape_the_network_are_kept_by_those_that_start_from_it():
    space = Space((Parameter("width", "int", 1, 64), Parameter("lr", "float"), Parameter("batch", "int", 1, 64)))
    runs = [
        made(0, 1, "a", 0.0, 0.0, "s", width=8, lr=0.1, batch=16),
        made(1, 2, "b", 0.0, 0.0, "t", width=9, batch=16),
    ]
    (width,) = shaping(runs, space)
    assert as_start(runs[0], [UP, CALM], [width]).fixed == {"width": 8}
    assert as_start(replace(runs[0], hyperparameters={"width": 99}), [UP, CALM], [width]).fixed == {}
    assert shaping(runs[:1], space) == []


def test_a_choice_of_a_network_is_kept_with_the_sizes_that_several_of_its_networks_have():
    space = Space((
        Parameter("model", "categorical", choices=("gru", "mlp")),
        Parameter("batch", "categorical", choices=(16, 32)),
        Parameter("hidden", "int", 1, 64, active_when=("model", ("gru",))),
        Parameter("width", "int", 1, 64, active_when=("model", ("mlp",))),
        Parameter("act", "categorical", choices=("relu", "tanh"), active_when=("model", ("mlp",))),
        Parameter("lr", "float"),
    ))  # fmt: skip
    said = [
        ("g8", {"model": "gru", "hidden": 8, "batch": 16}), ("g8", {"model": "gru", "hidden": 8, "batch": 32}),
        ("g9", {"model": "gru", "hidden": 9, "batch": 16}), ("m8", {"model": "mlp", "width": 8, "batch": 16}),
        ("m9", {"model": "mlp", "width": 9, "batch": 32, "act": "tanh"}),
    ]  # fmt: skip
    runs = [made(i, i, f"{i}", 0.0, 0.0, network, lr=0.1 * i, **given) for i, (network, given) in enumerate(said)]
    kept = shaping(runs, space)
    assert [p.name for p in kept] == ["model", "hidden", "width", "act"]
    assert as_start(runs[-1], [UP, CALM], kept).fixed == {"model": "mlp", "width": 9, "act": "tanh"}
    once = [c for c in runs if c.sha256 != "1"]
    assert [p.name for p in shaping(once, space)] == ["model", "hidden", "width", "act"], "no network came twice"


def test_what_an_adapter_s_own_configuration_repeats_is_kept_by_those_that_start_from_it():
    space = Space((Parameter("rank", "int", 1, 64), Parameter("alpha", "float", 1.0, 64.0), Parameter("lr", "float")))
    said = [(4, 8.0, 0.1), (8, 8.0, 0.2), (8, 32.0, 0.1)]
    runs = [
        made(i, i, f"{i}", 0.0, 0.0, "one", rank=r, r=r, alpha=alpha, lora_alpha=alpha, lr=lr)
        for i, (r, alpha, lr) in enumerate(said)
    ]
    kept = shaping(runs, space)
    assert [p.name for p in kept] == ["rank", "alpha"], "whatever the rank, a change of weights is one of a network"
    assert as_start(runs[0], [UP, CALM], kept).fixed == {"rank": 4, "alpha": 8.0}
    other = [replace(c, hyperparameters={**c.hyperparameters, "r": 4}) for c in runs]
    assert [p.name for p in shaping(other, space)] == ["alpha"]


def test_one_run_that_diverged_does_not_move_what_is_just_not_good_enough(studied):
    project, storage, catalogue = studied
    snapshot = StudySnapshot.read(project, storage, catalogue)
    far = replace(snapshot.checkpoints[0], metrics={"up": -1e9, "calm": -1e9})
    moved = replace(snapshot, checkpoints=(*snapshot.checkpoints, far))
    front_range = np.ptp(snapshot.measured, axis=0)
    assert np.all(snapshot.reference - moved.reference <= front_range)
    assert np.all(moved.reference >= snapshot.measured.min(axis=0) - front_range)


def test_epochs_are_counted_where_no_checkpoint_says_its_own(studied):
    project, storage, _ = studied
    record_step(storage, "tiny", project.objectives, project.space, {"lr": 0.5}, None,
                {"checkpoints": [{"epoch": None}, {"epoch": None}]})  # fmt: skip
    (trial,) = proposed_trials(storage, "tiny")
    assert written(trial) == [1, 2]


@pytest.mark.parametrize(("epochs", "paid"), [([(0, 1), (1, 2)], 2), ([(0, 0), (1, 1)], 1), ([(0, 0)], 1), ([], 0)])
def test_what_a_run_paid_counts_from_its_first_epoch_whatever_its_files_call_it(quiet, epochs, paid):
    _, storage, catalogue = quiet
    follow(quiet)
    taken = claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None)
    curve = [{"epoch": e, "trained": n, "path": f"/{e}.pt", "metrics": {}} for e, n in epochs]
    finish(storage, taken.trial_id, TrialState.COMPLETE, [0.0, 0.0], {"checkpoints": curve})
    ledger = Ledger.read(storage, catalogue, "tiny")
    assert ledger.spent == paid, "one that only left its start behind would be launched for ever if it cost nothing"


def names_of(snapshot: StudySnapshot) -> dict[int, str]:
    """The name of each run that has a curve."""
    names = {c.run_id: c.run for c in snapshot.checkpoints}
    return {run_id: names[run_id] for run_id in snapshot.curves}


def branched(studied) -> None:
    """A run from the last checkpoint of another; its head stays where it was."""
    project, _, catalogue = studied
    before = project.runs / "run_1" / "epoch_002.pt"
    for epoch in (1, 2):
        state = load_weights(before)
        state["body.0.weight"][0, 0] += 0.2 * epoch
        path = project.runs / "branch" / f"epoch_{epoch:03d}.pt"
        path.parent.mkdir(exist_ok=True)
        about = {"config": {"lr": 0.5, "init_from": "../run_1/epoch_002.pt"}, "metrics": {"up": 0.3, "calm": 0.9}}
        torch.save({"model_state_dict": state, "epoch": epoch, **about}, path)
    assert not ingest(catalogue, project.runs / "branch", root=project.runs, jobs=1).failed


def placed(studied) -> tuple[StudySnapshot, WeightGeometry]:
    snapshot = StudySnapshot.read(*studied)
    with WeightDecoder(studied[0].evaluate) as decoder:
        found = place(decoder, studied[0], snapshot.checkpoints, snapshot.lineage_tree)
    assert found is not None
    return snapshot, found


def test_curves_say_how_far_each_block_moved_from_where_the_run_started(studied):
    branched(studied)
    snapshot, found = placed(studied)
    base = load_weights(studied[0].runs / "base" / "epoch_000.pt")
    curves = dict(zip(names_of(snapshot).values(), known(snapshot, found).curves, strict=True))
    assert known(snapshot, None).curves[0].moved is None
    for name, curve in curves.items():
        start = base if name != "branch" else load_weights(studied[0].runs / "run_1" / "epoch_002.pt")
        assert curve.moved.shape == (2, 3)
        for epoch, row in enumerate(curve.moved, start=1):
            state = load_weights(studied[0].runs / name / f"epoch_{epoch:03d}.pt")
            blocks = [n for n, t in base.items() if t.is_floating_point()]
            far = [float((state[n] - start[n]).double().norm() / base[n].double().norm()) for n in blocks]
            assert row == pytest.approx(far, rel=1e-4, abs=1e-7)
    assert curves["branch"].moved[:, 2].tolist() == [0.0, 0.0]
    ends = [c.metrics["up"] for c in snapshot.checkpoints if c.run == "run_1"]
    assert curves["branch"].start[0] == ends[-1], "relative to its own folder"


def test_of_runs_that_are_not_placed_whole_nothing_is_said(studied, monkeypatch):
    monkeypatch.setattr(placing, "MOST_BYTES", 0)
    monkeypatch.setattr(placing, "MOST_SOURCES", 5)
    snapshot, found = placed(studied)
    there = {c.sha256 for c in found.checkpoints}
    assert len(there) == 5
    whole = {name: all(c.sha256 in there for c in rows) for name, rows in snapshot.trained.items()}
    said = dict(zip(snapshot.curves, (c.moved is not None for c in known(snapshot, found).curves), strict=True))
    assert said == whole
    assert {True, False} == set(said.values())


def test_what_rounding_leaves_of_a_block_that_began_as_zeros_is_no_movement():
    one, two = made(0, 1, "a", 0.0, 0.0), made(1, 1, "b", 0.0, 0.0)
    products = np.full((2, 2, 2), 0.01)
    products[0, 1, 1] = 0.04
    products[1, 1, 1] += 1e-17
    found = WeightGeometry((one, two), WeightSpace(products, np.array([1.0, 0.0])), None, {}, "base")
    assert found.moved([two], "a")[0].tolist() == [pytest.approx(np.sqrt(0.03)), 0.0]
    assert found.moved([two], "base")[0, 0] == pytest.approx(0.2)
    assert found.moved([two], "elsewhere") is None
    assert found.moved([two, made(2, 1, "c", 0.0, 0.0)], "a") is None


def test_merges_on_a_run_s_way_are_known_with_it(studied):
    branched(studied)
    snapshot, found = placed(studied)
    sha = {(c.run, c.epoch): c.sha256 for c in snapshot.checkpoints}
    stands = {c.sha256: i for i, c in enumerate(found.checkpoints)}

    def merge(path: str, **shares: float) -> MeasuredMerge:
        row = np.zeros((2, len(found.checkpoints)))
        for name, share in shares.items():
            row[:, stands[sha[name, 2]]] = share
        nothing = np.zeros(2)
        chosen = MergeCandidate(row, 0.1, nothing, nothing, nothing, "between")
        return MeasuredMerge(0.1, 0.0, 0.5, 1.0, "between", path, *stepping.way_between(found, chosen))

    merged = {c.run: c for c in snapshot.checkpoints if c.epoch == 1}  # what they measured is of no matter here
    remember(
        studied[2],
        merge(merged["run_0"].path, run_2=0.3), merge(merged["run_2"].path, run_1=0.25, branch=0.75),
        merge(merged["run_3"].path, run_2=0.5, run_3=0.5), merge("/gone.pt", run_2=0.9),
        MeasuredMerge(0.1, 0.0, 0.5, 1.0, "beyond", merged["run_0"].path),
    )  # fmt: skip
    snapshot = StudySnapshot.read(*studied)
    curves = {name: snapshot.curves[run_id] for run_id, name in names_of(snapshot).items()}
    ways = {name: c.on_way for name, c in curves.items() if c.on_way is not None}
    assert set(ways) == {"run_2", "branch"}
    for name, share, like in (("run_2", 0.3, "run_0"), ("branch", 0.75, "run_2")):
        assert (ways[name].steps.tolist(), ways[name].shares.tolist()) == ([2.0], [share])
        assert ways[name].values[0].tolist() == [merged[like].metrics["up"], merged[like].metrics["calm"]]


def test_what_is_remembered_of_a_merge_comes_back_as_it_was(studied):
    _, storage, catalogue = studied
    merges = (
        MeasuredMerge(0.1, 0.2, 0.3, 0.4, "between", "/m.pt", ("a", "b"), 0.7), MeasuredMerge(0.1, 0.2, 0.3, 0.4),
    )  # fmt: skip
    remember(catalogue, *merges)
    assert Ledger.read(storage, catalogue, "tiny").merges == merges
    assert merges[0].on_way("b") == ("a", 0.7)
    assert merges[0].on_way("a") == ("b", pytest.approx(0.3))
    assert merges[0].on_way("c") is merges[1].on_way("a") is None


def test_merges_that_are_measured_are_remembered_with_kind_and_place(studied, cheap):
    project, storage, catalogue = studied
    follow(studied)
    (plan,) = plans(studied)
    assert plan.kind in ("run", "branch"), "in the end it is a run"
    snapshot, ledger = StudySnapshot.read(project, storage, catalogue), Ledger.read(storage, catalogue, "tiny")
    by_path = {c.path: c for c in snapshot.checkpoints}
    known_ones = {c.sha256 for c in snapshot.checkpoints}
    assert ledger.merges
    for merge in ledger.merges:
        assert is_recombined(by_path[merge.path])
        assert (merge.ends is None) == (merge.share is None)
        assert merge.kind == "between" or merge.ends is None
        assert merge.ends is None or set(merge.ends) <= known_ones
    assert any(m.ends for m in ledger.merges)


def test_a_merge_far_out_does_not_make_all_that_was_trained_alike(studied):
    snapshot, _ = placed(studied)
    far = replace(
        snapshot.checkpoints[-1], id=99, sha256="far", path="/far.pt", metrics={"up": -8e3, "calm": 0.9},
        hyperparameters={"recombined": True},
    )  # fmt: skip
    worse = replace(snapshot, checkpoints=(*snapshot.checkpoints, far))
    messages = known(worse, None).merged
    trained = [c.metrics["up"] for c in snapshot.checkpoints]
    assert messages.tolist() == [[pytest.approx(min(*trained, snapshot.reference[0])), pytest.approx(0.9)]]
    assert messages[0, 0] <= worse.reference[0], "it counts for nothing that it is not"
    assert worse.clipped_values(replace(far, hyperparameters={})).tolist() == [-8e3, 0.9], (
        "what was trained stays as it is"
    )
    least = replace(snapshot.project, objectives=(replace(UP, maximize=False), CALM))
    assert np.isnan(replace(worse, project=least).clipped_values(replace(far, metrics={"up": 8e3}))[1])
    assert replace(worse, project=least).clipped_values(replace(far, metrics={"up": 8e3, "calm": 0.9}))[0] < 8e3


def ended(studied, config: dict, state: TrialState, init_from: str | None = None, **said: object) -> int:
    """A run of the study that is over."""
    project, storage, _ = studied
    number = record_step(storage, "tiny", project.objectives, project.space, config, init_from, {})
    study = storage.get_study_id_from_name("tiny/proposals")
    taken = claim(storage, study, "me", {}, lambda _: None, number)
    finish(storage, taken.trial_id, state, [0.1, 0.9] if state == TrialState.COMPLETE else None, said)
    return number


def test_runs_that_ended_before_anything_was_measured_are_known_as_failed(studied):
    project, storage, _ = studied
    start = next(c.path for c in StudySnapshot.read(*studied).checkpoints if c.run == "run_1")
    unmeasured = [{"epoch": e, "path": f"/x/{e}.pt", "metrics": {"up": None, "calm": None}} for e in (1, 2, 3)]
    ended(studied, {"lr": 0.91}, TrialState.FAIL, checkpoints=[])
    ended(studied, {"lr": 0.92}, TrialState.FAIL, start, checkpoints=unmeasured)
    ended(studied, {"lr": 0.93}, TrialState.FAIL, checkpoints=[], not_started=True)
    ended(studied, {"lr": 0.94}, TrialState.PRUNED, checkpoints=[])
    ended(studied, {"lr": 0.95}, TrialState.COMPLETE, checkpoints=[])
    ended(studied, {"lr": 0.96}, TrialState.FAIL, checkpoints=[], folder=str(project.runs / "run_2"))
    study = storage.get_study_id_from_name("tiny/proposals")
    record_step(storage, "tiny", project.objectives, project.space, {"lr": 0.97}, None, {})
    release(storage, study, claim(storage, study, "me", {}, lambda _: None).trial_id, "interrupted")
    claim(storage, study, "me", {}, lambda _: "is none of this space")
    snapshot = StudySnapshot.read(*studied)
    found = failed(snapshot)
    assert [(c.config["lr"], c.epochs, c.start.key) for c in found] == [(0.91, 1.0, ""), (0.92, 3.0, start)]
    messages = known(snapshot, None)
    assert [c.config for c in messages.failed] == [c.config for c in found]
    assert messages.spent == sum(c.steps[-1] for c in snapshot.curves.values()) + 4.0
    step = make_scheduler(snapshot).next(messages, running(snapshot))
    assert all(abs(step.candidate.config["lr"] - lr) > 0.005 for lr in (0.91, 0.92))


def test_an_attempt_that_measured_something_speaks_for_those_after_it(studied):
    project, storage, _ = studied
    record_step(storage, "tiny", project.objectives, project.space, {"lr": 0.9}, None, {})
    study = storage.get_study_id_from_name("tiny/proposals")
    first = claim(storage, study, "me", {}, lambda _: None)
    storage.set_trial_user_attr(first.trial_id, "folder", str(project.runs / "run_2"))
    release(storage, study, first.trial_id, "interrupted")
    finish(storage, claim(storage, study, "me", {}, lambda _: None).trial_id, TrialState.FAIL, None, {})
    assert failed(StudySnapshot.read(*studied)) == []


def test_a_step_whose_program_could_not_be_started_says_nothing_of_reliability(quiet):
    _, storage, _ = quiet
    follow(quiet)
    (trial,) = proposed_trials(storage, "tiny")
    kind = plan_of(trial.user_attrs).kind
    reliability = make_scheduler(StudySnapshot.read(*quiet)).reliability.of(kind, 1.0)
    taken = claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None)
    finish(storage, taken.trial_id, TrialState.FAIL, None, {"not_started": True})
    assert make_scheduler(StudySnapshot.read(*quiet)).reliability.of(kind, 1.0) == reliability


def test_an_exploration_run_with_its_epochs_in_a_hyperparameter_is_not_chosen_again(studied):
    project, storage, catalogue = studied
    space = Space((*project.space.parameters, Parameter("epochs", "int", 1, 40)))
    young = replace(project, space=space, evaluate=None, command=("train", "{lr}", "{epochs}"))
    follow((young, storage, catalogue), 4, length=4.0)
    trials = proposed_trials(storage, "tiny")
    assert [plan_of(t.user_attrs).kind for t in trials] == ["exploration"] * 4
    assert {config_of(t)["epochs"] for t in trials} == {4}
    assert len({config_of(t)["lr"] for t in trials}) == 4
    for trial in trials:
        assert trial.user_attrs["exploration_config"]["lr"] == config_of(trial)["lr"]
