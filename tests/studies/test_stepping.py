"""Steps that are chosen ahead: what is queued when, by whom, and what a launch waits for."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from epsopt.studies.loop import stepping
from epsopt.studies.loop.asking import StepAsker
from epsopt.studies.loop.claims import claim, finish
from epsopt.studies.loop.lease import Lease
from epsopt.studies.loop.ledger import Ledger
from epsopt.studies.loop.queue import config_of, proposed_trials
from epsopt.studies.loop.stepping import Follower

from .test_following import cheap, follower, quiet, studied  # noqa: F401 - fixtures
from .test_mixing import hook, tiny  # noqa: F401 - fixtures


def waiting(studied) -> list:  # noqa: F811
    return [t for t in proposed_trials(studied[1], "tiny") if t.state == TrialState.WAITING]


def launch(studied) -> int:  # noqa: F811
    """What a worker does with what waits."""
    storage = studied[1]
    return claim(storage, storage.get_study_id_from_name("tiny/proposals"), "me", {}, lambda _: None).trial_id


def until(done, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


class Answers(list):
    """What was answered, in order."""

    def __call__(self, trouble: str | None) -> None:
        self.append(trouble)


def test_what_is_chosen_ahead_is_queued_only_when_a_launch_has_waited_for_a_better_choice(quiet):  # noqa: F811
    answers = Answers()
    with follower(quiet, patience=0.05, answer=answers) as mine:
        mine.look()
        mine.advance()
        ahead = mine._ready
        assert (waiting(quiet), answers) == ([], [])
        mine.ask()  # nobody chooses now: the follower is busy
        until(lambda: answers)
        (trial,) = waiting(quiet)
        assert config_of(trial) == ahead.config
        assert trial.user_attrs["reason"] == ahead.said["reason"]
        mine.advance()
    assert answers == [None], "answered once"
    assert len(waiting(quiet)) == 1


def test_a_choice_that_is_made_in_time_knows_what_ended_meanwhile(quiet):  # noqa: F811
    answers = Answers()
    with follower(quiet, answer=answers) as mine:
        mine.ask()
        mine.advance()
        first = launch(quiet)
        mine.look()
        mine.advance()
        ahead, policy = mine._ready, mine._policy
        finish(quiet[1], first, TrialState.PRUNED, None, {})  # it brought nothing
        mine.ask()
        mine.advance()
    (trial,) = waiting(quiet)
    assert trial.user_attrs["reason"] != ahead.said["reason"], "promises are believed less"
    assert mine._policy is not policy
    assert answers == [None, None]
    assert mine._ready is None


def test_what_was_asked_for_while_a_choice_was_made_is_chosen_again(quiet, monkeypatch):  # noqa: F811
    answers, chosen = Answers(), []
    with follower(quiet, answer=answers) as mine:
        real = mine._choose

        def choose():
            chosen.append(real())
            if len(chosen) == 1:
                mine.ask()
            return chosen[-1]

        monkeypatch.setattr(mine, "_choose", choose)
        mine.advance()
    assert len(chosen) == 2
    assert answers == [None]
    assert len(waiting(quiet)) == 1


def test_a_choice_that_comes_too_late_is_not_queued_too(quiet, monkeypatch):  # noqa: F811
    answers = Answers()
    with follower(quiet, patience=0.05, answer=answers) as mine:
        mine.advance()
        real = mine._choose

        def choose():
            found = real()
            until(lambda: answers)  # the one from before is queued meanwhile
            return found

        monkeypatch.setattr(mine, "_choose", choose)
        mine.ask()
        mine.advance()
    assert answers == [None]
    assert len(waiting(quiet)) == 1


def test_mixtures_are_measured_ahead_and_a_run_is_ready_while_one_is(studied, cheap, monkeypatch):  # noqa: F811
    answers, told = Answers(), []
    real = Follower._measure
    measured = []

    def measure(self, held, scene, placed, step):
        measured.append(self._ready)
        if len(measured) == 2:
            self.ask()
            until(lambda: answers)  # a launch does not wait until it is measured
        real(self, held, scene, placed, step)

    monkeypatch.setattr(Follower, "_measure", measure)
    with follower(studied, patience=0.05, tell=told.append, answer=answers) as mine:
        mine.look(mix=False)
        mine.advance()
        assert (measured, told) == ([], []), "a program that begins is left alone"
        mine.look()
        mine.advance()
        assert len(measured) == 2, "what waits is launched first"
        (trial,) = waiting(studied)
        assert trial.user_attrs["reason"] == measured[1].said["reason"]
    assert all(ready is not None for ready in measured)
    assert len(Ledger.read(studied[1], studied[2], "tiny").mixtures) == len(told) == len(measured)
    assert answers == [None]


def test_where_a_launch_has_waited_long_enough_no_mixture_is_begun(studied, cheap):  # noqa: F811
    with follower(studied, patience=0.0) as mine:
        mine.ask()
        until(lambda: mine._ready is None)
        mine.advance()
    assert len(waiting(studied)) == 1
    assert not Ledger.read(studied[1], studied[2], "tiny").mixtures


def test_two_that_chose_the_same_step_queue_it_once(quiet):  # noqa: F811
    ours, theirs = Answers(), Answers()
    with follower(quiet, answer=ours) as one, follower(quiet, patience=0.05, answer=theirs) as two:
        one.advance()
        two.advance()
        assert one._ready.key == two._ready.key
        one.ask()
        one.advance()
        launch(quiet)
        two.ask()
        time.sleep(0.5)
        assert theirs == [], "it is under way"
        two.advance()
        assert theirs == [None]
    first, second = proposed_trials(quiet[1], "tiny")
    assert config_of(first) != config_of(second) or first.user_attrs.get("init_from") != second.user_attrs["init_from"]


def test_who_is_asked_goes_on_alone_after_a_while_and_measures_nothing(studied, cheap, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stepping, "_ASK_AGAIN", 0.01)
    other = Lease(studied[2])
    assert other.take()
    answers = Answers()
    with follower(studied, patience=0.2, answer=answers) as mine:
        mine.advance()  # ahead it does not wait at all
        assert mine._ready is not None
        mine._ready = None
        began = time.monotonic()
        mine.ask()
        mine.advance()
        assert time.monotonic() - began >= 0.2
    other.require()
    assert answers == [None]
    assert len(waiting(studied)) == 1
    assert not Ledger.read(studied[1], studied[2], "tiny").mixtures


def test_nothing_is_queued_beside_what_waits_or_beyond_the_budget(quiet):  # noqa: F811
    answers = Answers()
    with follower(quiet, until=2.0, patience=0.05, answer=answers) as mine:
        mine.advance()
        spare = mine._ready
        mine.ask()
        mine.advance()
        mine._ready = spare
        mine.ask()
        until(lambda: len(answers) == 2)
        assert len(waiting(quiet)) == 1
        launch(quiet)
        mine._ready = spare
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
    with follower((young, storage, catalogue), answer=answers) as mine:
        monkeypatch.setattr(stepping.Scene, "read", lambda *_: (_ for _ in ()).throw(stepping.EpsoptError("no space")))
        mine.advance()
        assert answers == []
        mine.ask()
        mine.advance()
        assert answers == ["no space"]
    monkeypatch.undo()
    real, times = stepping.Scene.read, []

    def read(*arguments):
        times.append(time.monotonic())
        if len(times) < 4:
            raise StorageInternalError("the database is locked\nand more")
        return real(*arguments)

    monkeypatch.setattr(stepping.Scene, "read", read)
    monkeypatch.setattr(stepping, "_ASK_AGAIN", 0.01)
    with follower(quiet, answer=answers) as mine:
        mine.ask()
        mine.advance()
        assert answers == ["no space", None]
        launch(quiet)
        times.clear()
        monkeypatch.setattr(stepping, "_BORNE", 0.0)
        mine.ask()
        mine.advance()
    assert answers[2] == "the database is locked"


def test_one_that_runs_does_as_it_is_told_until_it_is_closed(quiet):  # noqa: F811
    answers = Answers()
    with follower(quiet, answer=answers) as mine:
        thread = threading.Thread(target=mine.run)
        thread.start()
        mine.look()
        until(lambda: mine._ready is not None)
        mine.ask()
        until(lambda: answers)
        mine.close()
        thread.join(60)
        assert not thread.is_alive()
    assert len(waiting(quiet)) == 1


def test_an_asker_hears_why_nothing_can_be_chosen_and_asks_a_new_process_the_next_time(tmp_path):
    asker = StepAsker(tmp_path / "epsopt.toml", f"sqlite:///{tmp_path / 'none.db'}", until=3.0)
    assert (asker.asks(), asker.news(), asker.trouble(), asker.learns()) == (False, [], None, False)
    asker.start(0)
    assert asker._helper is None
    for _ in range(2):
        asker.start(1)
        assert asker.trouble() is None
        until(lambda: not asker.asks(), 120)
        assert "epsopt.toml: cannot be read" in asker.trouble()
        assert "epsopt.toml: cannot be read" in asker.trouble(), "until it is asked again"
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
    asker = StepAsker(file, catalogue.url, until=1000.0)
    asker.look_ahead(mix=True)
    asker.start(1)
    until(lambda: not asker.asks(), 120)
    assert asker.trouble() is None
    assert len(waiting(quiet)) == 1
    process = asker._helper._process
    asker.finish()
    assert process.returncode == 0
    asker.stop()
