"""Steps that are chosen ahead: what is queued when, by whom, and what a launch waits for."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from epsopt.studies.optuna_io.queue import record_step
from epsopt.studies.optuna_io.refit_lease import Lease
from epsopt.studies.optuna_io.stored_trials import config_of, proposed_trials
from epsopt.studies.optuna_io.trial_leases import claim, finish
from epsopt.studies.schedule import scheduler_service as stepping
from epsopt.studies.schedule.budget import Ledger, MeasuredMerge, save_measured_merge
from epsopt.studies.schedule.scheduler_client import StepAsker, StepTask
from epsopt.studies.schedule.scheduler_service import SchedulerService
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.errors import EpsoptError

from ..merge.test_weight_space_merge import hook, tiny  # noqa: F401, TID252 - fixtures
from .test_scheduler_adapter import cheap, quiet, service, studied  # noqa: F401 - fixtures


def waiting(studied) -> list:  # noqa: F811
    return [t for t in proposed_trials(studied[1], "tiny") if t.state == TrialState.WAITING]


def launch(studied) -> int:  # noqa: F811
    """What a worker does with what waits."""
    storage = studied[1]
    return claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None).trial_id


def until(done, seconds: float = 1800.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def waited() -> bool:
    """Whether every launch that may wait for less than a second has waited for so long."""
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    return not [timer for timer in timers if timer.interval < 1.0]


class Answers(list):
    """What was answered, in order."""

    def __call__(self, failure: str | None) -> None:
        self.append(failure)


def test_what_is_chosen_ahead_is_queued_only_when_a_launch_has_waited_for_a_better_choice(quiet):  # noqa: F811
    answers = Answers()
    with service(quiet, within=0.05, answer=answers) as mine:
        mine.reconsider()
        mine.advance()
        ahead = mine.ready
        assert (waiting(quiet), answers) == ([], [])
        mine.ask()  # nobody chooses now: the follower is busy
        until(lambda: answers)
        (trial,) = waiting(quiet)
        assert config_of(trial) == ahead.config
        assert trial.user_attrs["reason"] == ahead.attributes["reason"]
        mine.advance()
    assert answers == [None], "answered once"
    assert len(waiting(quiet)) == 1


def test_a_choice_that_is_made_in_time_knows_what_ended_meanwhile(quiet):  # noqa: F811
    answers = Answers()
    with service(quiet, answer=answers) as mine:
        mine.ask()
        mine.advance()
        first = launch(quiet)
        mine.reconsider()
        mine.advance()
        ahead = mine.ready
        finish(quiet[1], first, TrialState.PRUNED, None, {})  # it gained nothing
        mine.ask()
        mine.advance()
    (trial,) = waiting(quiet)
    assert trial.user_attrs["reason"] != ahead.attributes["reason"], "predictions count for less"
    assert answers == [None, None]
    assert mine.ready is None


def test_what_was_asked_for_while_a_choice_was_made_is_chosen_again(quiet, monkeypatch):  # noqa: F811
    answers, chosen = Answers(), []
    with service(quiet, answer=answers) as mine:
        real = mine.choose

        def choose(**how):
            chosen.append(real(**how))
            if len(chosen) == 1:
                mine.ask()
            return chosen[-1]

        monkeypatch.setattr(mine, "choose", choose)
        mine.advance()
    assert len(chosen) == 2
    assert answers == [None]
    assert len(waiting(quiet)) == 1


def test_a_choice_that_comes_too_late_is_not_queued_too(quiet, monkeypatch):  # noqa: F811
    answers = Answers()
    with service(quiet, within=0.05, answer=answers) as mine:
        mine.advance()
        real = mine.choose

        def choose(**how):
            found = real(**how)
            until(lambda: answers)  # the one from before is queued meanwhile
            return found

        monkeypatch.setattr(mine, "choose", choose)
        mine.ask()
        mine.advance()
    assert answers == [None]
    assert len(waiting(quiet)) == 1


def test_merges_are_measured_ahead_and_a_run_is_ready_while_one_is(studied, cheap, monkeypatch):  # noqa: F811
    answers, texts = Answers(), []
    real = SchedulerService.measure_merge
    measured = []

    def measure(self, held, snapshot, placed, step):
        measured.append(self.ready)
        if len(measured) == 2:
            self.ask()
            until(lambda: answers)  # a launch does not wait until it is measured
        real(self, held, snapshot, placed, step)

    monkeypatch.setattr(SchedulerService, "measure_merge", measure)
    with service(studied, within=0.05, notify=texts.append, answer=answers) as mine:
        mine.reconsider(merge=False)
        mine.advance()
        assert (measured, texts) == ([], []), "a program that begins is left alone"
        mine.reconsider()
        mine.advance()
        assert len(measured) == 2, "what waits is launched first"
        (trial,) = waiting(studied)
        assert trial.user_attrs["reason"] == measured[1].attributes["reason"]
    assert all(ready is not None for ready in measured)
    assert len(Ledger.read(studied[1], studied[2], "tiny").merges) == len(texts) == len(measured)
    assert answers == [None]


def test_where_a_launch_has_waited_long_enough_no_merge_is_begun(studied, cheap):  # noqa: F811
    with service(studied, within=0.0) as mine:
        mine.ask()
        mine.advance()
    assert len(waiting(studied)) == 1
    assert not Ledger.read(studied[1], studied[2], "tiny").merges


def test_a_launch_that_nothing_was_ready_for_takes_the_next_choice_if_it_has_waited(studied, cheap, monkeypatch):  # noqa: F811
    chosen = []
    with service(studied, within=0.0) as mine:
        real = mine.choose

        def choose(**how):
            chosen.append(real(**how))
            mine.ask()
            return chosen[-1]

        monkeypatch.setattr(mine, "choose", choose)
        mine.advance()  # begun ahead, of something: a merge would come first
    assert chosen[0].merge is not None
    assert len(chosen) == 1
    assert len(waiting(studied)) == 1
    assert not Ledger.read(studied[1], studied[2], "tiny").merges


@pytest.mark.parametrize("asked", [False, True])
def test_one_that_is_closed_while_it_chooses_begins_nothing_more(studied, cheap, monkeypatch, asked):  # noqa: F811
    answers = Answers()
    with service(studied, within=0.05, answer=answers) as mine:
        mine.ready = mine.choose(ahead=True).run
        real = mine.choose

        def choose(**how):
            found = real(**how)
            mine.close()
            return found

        monkeypatch.setattr(mine, "choose", choose)
        if asked:
            monkeypatch.setattr(mine, "within", 600.0)
            mine.ask()
        mine.advance()
        monkeypatch.setattr(mine, "within", 0.0)
        mine.ask()
        until(waited)
    assert (waiting(studied), answers) == ([], [])
    assert not Ledger.read(studied[1], studied[2], "tiny").merges


def test_a_run_is_not_given_what_a_merge_before_it_will_take(studied, monkeypatch):  # noqa: F811
    monkeypatch.setattr("epsopt.studies.schedule.budget.EVALUATION", 0.1)
    with service(studied, until=2.05) as mine:
        chosen = mine.choose(ahead=False)
    assert chosen.merge is not None
    assert chosen.run.attributes["step"]["epochs"] == 1
    with service(studied, until=1.05) as mine:
        assert mine.choose(ahead=False).run is None


def test_a_merge_that_fails_leaves_no_weights_behind(studied, cheap, monkeypatch):  # noqa: F811
    decoded = []
    real = WeightDecoder.decode
    monkeypatch.setattr(WeightDecoder, "decode", lambda *a: decoded.append(real(*a)) or decoded[-1])
    monkeypatch.setattr(stepping, "require_objectives", lambda *_: (_ for _ in ()).throw(EpsoptError("no coverage")))
    texts = []
    with service(studied, notify=texts.append) as mine:
        mine.advance()
        assert len(decoded) == 1
        assert not decoded[0].path.exists()
    assert texts == ["no merge was measured: no coverage"]
    assert not list(studied[0].runs.glob("merged*"))


def test_two_that_chose_the_same_step_queue_it_once(quiet):  # noqa: F811
    ours, theirs = Answers(), Answers()
    with service(quiet, answer=ours) as one, service(quiet, within=0.05, answer=theirs) as two:
        one.advance()
        two.advance()
        assert one.ready.key == two.ready.key
        one.ask()
        one.advance()
        launch(quiet)
        two.ask()
        until(waited)
        assert theirs == [], "it is under way"
        two.advance()
        assert theirs == [None]
    first, second = proposed_trials(quiet[1], "tiny")
    assert config_of(first) != config_of(second) or first.user_attrs.get("init_from") != second.user_attrs["init_from"]


def test_while_somebody_else_measures_a_run_is_launched_and_nothing_measured(studied, cheap):  # noqa: F811
    other = Lease(studied[2])
    assert other.acquire()
    answers = Answers()
    with service(studied, answer=answers) as mine:
        mine.advance()
        assert mine.ready is not None
        mine.ask()
        mine.advance()
    other.assert_held()
    assert answers == [None]
    assert len(waiting(studied)) == 1
    assert not Ledger.read(studied[1], studied[2], "tiny").merges


def test_what_somebody_else_did_meanwhile_is_known_before_anything_is_done(studied, cheap, monkeypatch):  # noqa: F811
    project, storage, catalogue = studied
    chosen = []
    with service(studied) as mine:
        real = mine.choose

        def choose(**how):
            chosen.append(real(**how))
            if len(chosen) == 1:
                save_measured_merge(catalogue, "tiny", MeasuredMerge(0.1, 0.0, 0.1, 1.0))
            elif len(chosen) == 2:
                record_step(storage, "tiny", project.objectives, project.space, {"lr": 0.5}, None, {})
                launch(studied)
            return chosen[-1]

        monkeypatch.setattr(mine, "choose", choose)
        measured: list[int] = []

        def measure(*_) -> None:
            measured.append(len(chosen))
            raise EpsoptError("it is enough")

        monkeypatch.setattr(mine, "measure_merge", measure)
        mine.ask()
        mine.advance()
    assert chosen[0].merge is not None
    assert len(chosen) > 2
    assert not {1, 2} & set(measured), "the first knew too little, and so did the second"
    assert len(waiting(studied)) == 1


def test_nothing_is_queued_beside_what_waits_or_beyond_the_budget(quiet):  # noqa: F811
    answers = Answers()
    with service(quiet, until=2.0, within=0.05, answer=answers) as mine:
        mine.advance()
        spare = mine.ready
        mine.ask()
        mine.advance()
        mine.ready = spare
        mine.ask()
        until(lambda: len(answers) == 2)
        assert len(waiting(quiet)) == 1
        launch(quiet)
        mine.ready = spare
        mine.ask()
        until(lambda: len(answers) == 3)
        assert waiting(quiet) == []
        mine.ask()
        mine.advance()
    assert answers == [None] * 4


def test_what_keeps_it_from_choosing_is_answered_when_it_was_asked_and_a_database_that_hiccups_is_borne(
    quiet,  # noqa: F811
    monkeypatch,
):
    answers = Answers()
    project, storage, catalogue = quiet
    young = replace(project, space=None)
    with service((young, storage, catalogue), answer=answers) as mine:
        monkeypatch.setattr(stepping.StudySnapshot, "read", lambda *_: (_ for _ in ()).throw(EpsoptError("no space")))
        mine.advance()
        assert answers == []
        mine.ask()
        mine.advance()
        assert answers == ["no space"]
    with service((young, storage, catalogue), answer=answers) as mine:

        def early(*_):
            mine.ask()
            raise EpsoptError("early")

        monkeypatch.setattr(stepping.StudySnapshot, "read", early)
        monkeypatch.setattr(mine, "queue_ready", lambda _: None)
        real_done = mine.finish

        def done(failure=None, asks=None):
            if failure == "early":
                monkeypatch.undo()
            return real_done(failure, asks)

        monkeypatch.setattr(mine, "finish", done)
        mine.project = project
        mine.advance()
        assert answers == ["no space", None], "what failed before it was asked for is no answer"
        launch(quiet)
        answers.pop()
    real, times = stepping.StudySnapshot.read, []

    def read(*arguments):
        times.append(time.monotonic())
        if len(times) < 4:
            raise StorageInternalError("the database is locked\nand more")
        return real(*arguments)

    monkeypatch.setattr(stepping.StudySnapshot, "read", read)
    monkeypatch.setattr(stepping, "ASK_AGAIN", 0.01)
    with service(quiet, answer=answers) as mine:
        mine.ask()
        mine.advance()
        assert answers == ["no space", None]
        launch(quiet)
        times.clear()
        monkeypatch.setattr(stepping, "SILENT_FOR_AT_MOST", 0.0)
        mine.ask()
        mine.advance()
    assert answers[2] == "the database is locked"


def test_one_that_runs_does_what_it_is_asked_until_it_is_closed(quiet):  # noqa: F811
    answers = Answers()
    with service(quiet, answer=answers) as mine:
        thread = threading.Thread(target=mine.run)
        thread.start()
        mine.reconsider()
        until(lambda: mine.ready is not None)
        mine.ask()
        until(lambda: answers)
        mine.close()
        thread.join(60)
        assert not thread.is_alive()
    assert len(waiting(quiet)) == 1


def test_an_asker_hears_why_nothing_can_be_chosen_and_asks_a_new_process_the_next_time(tmp_path):
    asker = StepAsker(StepTask(str(tmp_path / "epsopt.toml"), f"sqlite:///{tmp_path / 'none.db'}", 3.0))
    assert (asker.is_proposing(), asker.messages(), asker.proposal_failure(), asker.is_fitting()) == (
        False,
        [],
        None,
        False,
    )
    asker.start(0)
    assert asker.helper is None
    for _ in range(2):
        asker.start(1)
        assert asker.proposal_failure() is None
        until(lambda: not asker.is_proposing(), 120)
        assert "epsopt.toml: there is no such project file" in asker.proposal_failure()
        assert "epsopt.toml: there is no such project file" in asker.proposal_failure(), "until it is asked again"
    asker.finish()
    asker.stop()


def test_an_asker_is_answered_by_a_process_that_ends_with_it(quiet, tmp_path):  # noqa: F811
    project, _, catalogue = quiet
    file = tmp_path / "epsopt.toml"
    file.write_text(
        f"""[project]
name = "tiny"
runs = "{project.runs}"
storage = "{catalogue.url}"
[objectives.up]
direction = "maximize"
[objectives.calm]
direction = "maximize"
[space.lr]
type = "float"
low = 0.0
high = 1.0
[train]
command = ["train", "--lr", "{{lr}}"]
"""
    )
    asker = StepAsker(StepTask(str(file), catalogue.url, 1000.0))
    asker.reconsider(merge=True)
    asker.start(1)
    until(lambda: not asker.is_proposing(), 120)
    assert asker.proposal_failure() is None
    assert len(waiting(quiet)) == 1
    process = asker.helper.process
    asker.finish()
    assert process.returncode == 0
    assert (asker.messages(), asker.proposal_failure(), asker.fit_failure()) == ([], None, None), "that is no failure"
    asker.stop()
    for asked in (True, False):
        asker = StepAsker(StepTask(str(file), catalogue.url, 1000.0))
        asker.reconsider(merge=False)
        process = asker.helper.process
        process.send_signal(signal.SIGSTOP)
        if asked:
            asker.start(1)
        process.kill()
        process.wait()
        asker.is_proposing(), asker.messages()
        proposal, fit = asker.proposal_failure(), asker.fit_failure()
        assert "was killed by SIGKILL (most likely memory ran out)" in ((proposal if asked else fit) or "")
        assert (fit if asked else proposal) is None
        asker.reconsider(merge=False)
        assert (asker.helper is None) == (not asked), "what dies of looking ahead does not do it again at once"
        asker.stop()


@pytest.mark.parametrize(("least", "queued"), [(1e9, 0), (1e-9, 1)])
def test_no_step_is_queued_when_what_is_left_is_expected_to_add_too_little(quiet, least, queued):  # noqa: F811
    answers, sentences = Answers(), Answers()
    with service(quiet, min_gain=least, answer=answers, settled=sentences) as mine:
        mine.ask()
        mine.advance()
    assert answers == [None]
    assert (len(waiting(quiet)), len(sentences)) == (queued, 1 - queued)
    assert [s.endswith("no further step begins.") for s in sentences] == [True] * (1 - queued)


def test_a_launch_waits_for_what_says_whether_to_go_on(quiet):  # noqa: F811
    answers = Answers()
    with service(quiet, within=0.05, min_gain=1e9, answer=answers) as mine:
        mine.reconsider()
        mine.advance()
        mine.ask()
        until(waited)
        assert (waiting(quiet), answers) == ([], [])
        mine.advance()
    assert (waiting(quiet), answers) == ([], [None])
