"""A worker with a fake training program: every way in which a run can end, and how workers make up for each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from epsopt.optimize.objectives import Target
from epsopt.optimize.schedule.decision import Decision
from epsopt.optimize.space import Parameter, Space
from epsopt.studies import open_storage, record_proposals
from epsopt.studies.optuna_io.queue import was_tried
from epsopt.studies.optuna_io.trial_leases import OF_ONE_ATTEMPT, fail_stale_trials
from epsopt.studies.project.project import Project
from epsopt.studies.schedule.budget import Budget, was_started
from epsopt.studies.worker import worker as worker_module
from epsopt.studies.worker.target_monitor import Goal
from epsopt.studies.worker.worker import Worker, WorkerConfig
from epsopt.zoo import Catalogue
from epsopt.zoo.errors import CatalogueError, EpsoptError, UsageError
from epsopt.zoo.ingestion import ingest as ingestion

from ...sweeps import sweep  # noqa: TID252
from ..fakes import COVERAGE, DIST_CORR, FakeProposal  # noqa: TID252

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "fake_training.py"
MODES = ("ok", "fail", "diverges", "deaf", "unmeasured", "late", "saves", "clears", "vanishes")
SPACE = Space(
    (
        Parameter("lr", "float", 0.0, 1.0),
        Parameter("mode", "categorical", choices=MODES),
        Parameter("epochs", "int", 1, 100),
        Parameter("seconds", "float", 0.0, 10.0),
        Parameter("hold", "int", -1, 100),
    )
)
COMMAND = (
    "{python}", "-I", "-S", str(PROGRAM), "--out", "{out}", "--lr", "{lr}", "--mode", "{mode}", "--epochs", "{epochs}",
    "--seconds", "{seconds}", "--hold", "{hold}", ("--init-from", "{init_from}"), ("--resume-from", "{resume_from}"),
)  # fmt: skip
ORDERS = WorkerConfig(watch=0.03, stale_after=60, grace=5)


@dataclass(frozen=True)
class Loop:
    """A project with a queue."""

    project: Project

    @property
    def storage(self):
        return open_storage(self.project.storage)

    def queue(self, *configs: dict, init_from: str | None = None) -> None:
        defaults = {"lr": 0.5, "mode": "ok", "epochs": 1, "seconds": 0.0, "hold": -1}
        proposals = [
            FakeProposal({**defaults, "lr": 0.5 + i / 100, **c}, init_from=init_from) for i, c in enumerate(configs)
        ]
        record_proposals(self.storage, "p", self.project.objectives, SPACE, proposals)

    def work(self, orders: WorkerConfig = ORDERS, **more):
        with Catalogue(self.project.storage) as catalogue:
            return Worker(self.project, self.storage, catalogue, orders, **more).work()

    def trials(self, study: str = "p/proposals"):
        return optuna.load_study(study_name=study, storage=self.storage).trials

    def states(self) -> list[str]:
        return [t.state.name for t in self.trials()]


@pytest.fixture
def loop(tmp_path, url) -> Loop:
    return Loop(
        Project(
            "p", tmp_path / "epsopt.toml", tmp_path / "runs", url, (COVERAGE, DIST_CORR), {}, SPACE, COMMAND, tmp_path
        )
    )


def test_a_run_becomes_a_finished_trial_and_all_its_checkpoints_are_measured(loop):
    loop.queue({"epochs": 3}, {"epochs": 2})
    ended = loop.work(replace(ORDERS, jobs=2))
    assert sorted((e.number, e.state, e.n_checkpoints) for e in ended) == [(0, "complete", 3), (1, "complete", 2)]
    trial = loop.trials()[0]
    assert trial.values == pytest.approx([0.85, 0.15])
    assert [c["epoch"] for c in trial.user_attrs["checkpoints"]] == [1, 2, 3]
    assert trial.user_attrs["path"].endswith("proposal_000/epoch_003.safetensors")
    assert Path(trial.user_attrs["folder"], "stdout.txt").read_text() == "training\n"
    with Catalogue(loop.project.storage) as catalogue:
        assert [(c.run, c.epoch) for c in catalogue.checkpoints()] == [
            ("proposal_000", 1), ("proposal_000", 2), ("proposal_000", 3), ("proposal_001", 1), ("proposal_001", 2),
        ]  # fmt: skip
    assert [t.user_attrs["checkpoints"] for t in loop.trials("p/runs")] == [3, 2]


def test_a_run_that_fails_says_why_and_the_worker_goes_on(loop):
    loop.queue({"mode": "fail"}, {"mode": "unmeasured"}, {})
    ended = sorted(loop.work(), key=lambda e: e.number)
    assert [e.state for e in ended] == ["fail", "fail", "complete"]
    assert ended[0].failure == "exit status 3: ValueError: lr is no good"
    assert "no finite coverage, dist_corr" in ended[1].failure
    assert loop.trials()[0].user_attrs["failure"] == ended[0].failure
    assert loop.states() == ["FAIL", "FAIL", "COMPLETE"]
    assert not any("not_started" in t.user_attrs for t in loop.trials())


def script(folder: Path, text: str, mode: int = 0o755) -> str:
    """A program of the project's own, executable or not."""
    (folder / "run.sh").write_text(text)
    (folder / "run.sh").chmod(mode)
    return "./run.sh"


PARSES = "import argparse; argparse.ArgumentParser().parse_args()"


@pytest.mark.parametrize(
    ("command", "words"),
    sweep(
        [
            (("no-such-program", "{lr}"), "no-such-program: there is no such program"),
            (("{python}", "nothere.py", "{lr}"), "can't open file '.*nothere.py'"),
            (("./run.sh", "{lr}"), "run.sh: it is no program that may be executed"),
            (("{python}", "{momentum}"), "needs momentum"),
            (("{python}", "-c", PARSES, "--nonsense", "1"), "unrecognized arguments: --nonsense 1"),
            (("{python}", "-m", "nothere.train", "{lr}"), "nothere"),
            (("{python}", ".", "{lr}"), "__main__"),
            (("bash", "nothere.sh", "{lr}"), "nothere.sh: No such file"),
            (("./other/run.sh", "{lr}"), "other/run.sh: there is no such program"),
        ],
        quick=5,
        several=True,
    ),
)
def test_a_command_that_cannot_be_launched_ends_the_work_and_uses_up_nothing(loop, tmp_path, command, words):
    script(tmp_path, "#!/bin/sh\nexit 0\n", mode=0o644)
    loop.queue({}, {})
    before = [(t.number, t.user_attrs, t.system_attrs) for t in loop.trials()]
    broken = Loop(replace(loop.project, command=command))
    with pytest.raises(EpsoptError, match=f"(?s)cannot be launched: .*{words}.*what is queued stays queued"):
        broken.work()
    assert loop.states() == ["WAITING", "WAITING"]
    assert [(t.number, t.user_attrs, t.system_attrs) for t in loop.trials()] == before
    assert [t.datetime_start for t in loop.trials()] == [None, None]
    assert not list(loop.project.runs.glob("*")), "no folder of a run is left behind"


def test_once_the_command_is_mended_the_same_proposals_run(loop):
    loop.queue({})
    for _ in range(2):
        with pytest.raises(EpsoptError, match=r"nothere\.sh"):
            Loop(replace(loop.project, command=("bash", "nothere.sh", "{lr}"))).work()
    (ended,) = loop.work()
    assert (ended.number, ended.name, ended.state) == (0, "proposal_000", "complete")


@pytest.mark.parametrize(
    ("text", "status"), [("exit 2", 2), ("nothere --fast", 127), ("echo x: No module named y >&2; exit 3", 3)]
)
def test_a_program_that_left_a_checkpoint_was_launched_however_it_ends(loop, tmp_path, text, status):
    arguments = [part for part in COMMAND if isinstance(part, str)][1:]
    said = script(tmp_path, f'#!/bin/sh\npython="$1"; shift\n"$python" "$@"\n{text}\n')
    loop.queue({})
    (ended,) = Loop(replace(loop.project, command=(said, "{python}", *arguments))).work()
    assert (ended.state, ended.n_checkpoints) == ("fail", 1)
    assert f"exit status {status}" in ended.failure


def test_what_runs_is_left_to_end_where_no_more_can_be_launched(loop, tmp_path):
    loop.queue({"seconds": 1.0, "mode": "late"}, {"lr": 0.9}, {})
    # The second of the programs finds that its script is gone.
    said = script(tmp_path, '#!/bin/sh\ncase "$*" in *"--lr 0.9"*) exec nothere;; esac\nexec "$@"\n')
    once = Loop(replace(loop.project, command=(said, *COMMAND)))
    with pytest.raises(EpsoptError, match="cannot be launched"):
        once.work(replace(ORDERS, jobs=2))
    assert loop.states() == ["COMPLETE", "WAITING", "WAITING"]


def test_a_trial_that_could_not_be_launched_in_an_earlier_version_says_so(loop):
    loop.queue({})
    number = loop.trials()[0]._trial_id
    loop.storage.set_trial_user_attr(number, "not_started", value=True)
    assert was_started(loop.trials()[0]) is False


def test_proposals_of_another_search_space_are_dropped_and_named_and_the_others_run(loop):
    loop.queue({}, {"hold": 50}, {})
    narrower = tuple(replace(p, high=9) if p.name == "hold" else p for p in SPACE.parameters)
    events = []
    changed = Loop(replace(loop.project, space=Space(narrower)))
    with Catalogue(loop.project.storage) as catalogue:
        budget = Budget(5, loop.storage, catalogue, "p")
        ended = Worker(changed.project, loop.storage, catalogue, ORDERS, notify=events.append, budget=budget).work()
        assert [e.state for e in ended] == ["complete", "complete"]
        assert budget.spent == 2
    assert [e.text for e in events if e.kind == "refused"] == [
        "proposal 1 has hold = 50, expected a value of [-1, 9]; it is dropped"
    ]
    dropped = loop.trials()[1]
    assert was_started(dropped) is False
    assert was_tried(dropped) is False
    loop.queue({}, {"hold": 50}, {})  # the space is as before again
    assert [(t.number, t.state.name) for t in loop.trials()][3:] == [(3, "WAITING")]


def test_metrics_that_are_written_beside_a_checkpoint_after_it_are_seen_while_it_runs(loop):
    loop.queue({"mode": "late", "epochs": 100, "seconds": 0.2, "hold": 3})

    class Looks(StopsAt):
        def should_stop(self, run, checkpoints_so_far):
            measured = sum("coverage" in c.metrics for c in checkpoints_so_far)
            return Verdict(measured >= 2, 0.02, "two are enough")

    (ended,) = loop.work(pruner=Looks(0))
    assert (ended.state, ended.failure) == ("pruned", "two are enough")
    curve = loop.trials()[0].user_attrs["checkpoints"]
    assert [c["metrics"]["coverage"] for c in curve[:2]] == pytest.approx([0.95, 0.9])


def test_metrics_that_come_with_the_end_of_the_program_are_seen(loop):
    loop.queue({"mode": "late", "epochs": 1, "seconds": 0.3})
    (ended,) = loop.work()
    assert (ended.state, loop.trials()[0].values) == ("complete", pytest.approx([0.95, 0.05]))


def test_a_log_that_grows_costs_no_reading_of_checkpoints(loop, monkeypatch):
    loop.queue({"epochs": 100, "seconds": 0.1, "hold": 3})
    opened: list[str] = []
    read_files = ingestion.read_files
    monkeypatch.setattr(
        ingestion, "read_files", lambda pool, files, *a, **k: opened.extend(str(p) for p, _ in files)
        or read_files(pool, files, *a, **k),
    )  # fmt: skip
    events: list[float | None] = []

    class Grows(StopsAt):
        def should_stop(self, run, checkpoints_so_far):
            events.append(checkpoints_so_far[0].metrics.get("loss"))
            (run.training.launch.out / "metrics.csv").write_text(f"epoch,loss\n1,{len(events)}\n")
            return Verdict(len(events) > 5, 0.02, "enough")

    (ended,) = loop.work(pruner=Grows(0))
    assert events == [None, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(opened) == len(set(opened)) == ended.n_checkpoints


def test_a_program_may_begin_with_removing_its_folder(loop):
    loop.queue({"mode": "clears", "epochs": 2}, {})
    ended = loop.work(replace(ORDERS, jobs=2))
    assert sorted((e.number, e.state, e.n_checkpoints) for e in ended) == [(0, "complete", 2), (1, "complete", 1)]


def test_a_run_whose_folder_is_gone_in_the_end_has_failed_and_others_go_on(loop):
    loop.queue({"mode": "vanishes", "seconds": 0.3}, {})
    ended = sorted(loop.work(replace(ORDERS, jobs=2)), key=lambda e: e.number)
    assert [e.state for e in ended] == ["fail", "complete"]
    assert "proposal_000 is gone" in ended[0].failure
    assert loop.trials()[0].user_attrs["failure"] == ended[0].failure


def test_a_pruner_that_fails_prunes_nothing_and_its_failure_is_reported_once(loop):
    class Breaks(StopsAt):
        def should_stop(self, run, checkpoints_so_far):
            raise FloatingPointError("no forecast")

    events: list[str] = []
    loop.queue({"epochs": 3, "seconds": 0.2}, {"epochs": 2, "seconds": 0.2})
    ended = loop.work(pruner=Breaks(0), notify=lambda e: events.append(e.text) if e.kind == "failure" else None)
    assert [e.state for e in ended] == ["complete", "complete"]
    assert events == ["runs go on, since whether to stop them cannot be decided: FloatingPointError: no forecast"]


def test_a_run_whose_weights_are_nan_is_stopped_where_runs_may_be_and_has_failed(loop):
    class Never(StopsAt):
        def should_stop(self, run, checkpoints_so_far):
            return Verdict(False, 0.5, "go on")

    loop.queue({"mode": "diverges", "epochs": 100, "hold": 2})
    (ended,) = loop.work(pruner=Never(0))
    assert (ended.state, ended.n_checkpoints) == ("fail", 2)
    assert "its weights are NaN" in ended.failure
    assert loop.trials()[0].user_attrs["failure"] == ended.failure
    loop.queue({"mode": "diverges", "epochs": 3})
    (ended,) = loop.work()
    assert (ended.state, ended.n_checkpoints) == ("fail", 3), "pruning is off"
    assert "no finite coverage" in ended.failure or "no coverage" in ended.failure


def test_failures_in_a_row_end_the_worker_with_a_sentence_and_leave_the_queue(loop):
    loop.queue(*({"mode": "fail"} for _ in range(5)))
    with pytest.raises(EpsoptError, match="3 runs in a row failed, the last one: exit status 3: ValueError"):
        loop.work()
    assert loop.states() == ["FAIL"] * 3 + ["WAITING"] * 2


@dataclass(frozen=True)
class Verdict:
    stop: bool
    probability: float
    reason: str


class StopsAt:
    """A stopper that has seen enough at some epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.seen: list[tuple[str, int]] = []

    def should_stop(self, run, checkpoints_so_far) -> Verdict:
        self.seen.append((run.name, len(checkpoints_so_far)))
        assert [c.epoch for c in checkpoints_so_far] == list(range(1, len(checkpoints_so_far) + 1))
        return Verdict(len(checkpoints_so_far) >= self.epoch, 0.02, "it joins the front with probability 0.02")


@pytest.mark.parametrize("mode", ["ok", "deaf"])
def test_a_bad_run_is_stopped_and_what_it_measured_is_kept(loop, mode):
    loop.queue({"epochs": 100, "hold": 3, "mode": mode})
    pruner = StopsAt(2)
    (ended,) = loop.work(replace(ORDERS, grace=0.2), pruner=pruner)
    assert ended.state == "pruned"
    assert 2 <= ended.n_checkpoints <= 3
    trial = loop.trials()[0]
    assert (trial.state.name, trial.values) == ("PRUNED", None)
    assert trial.user_attrs["pruned.probability"] == 0.02
    assert trial.user_attrs["measured.coverage"] == pytest.approx(1 - 0.05 * ended.n_checkpoints)
    assert [t.user_attrs["checkpoints"] for t in loop.trials("p/runs")] == [ended.n_checkpoints]
    optuna.load_study(study_name="p/proposals", storage=loop.storage).ask({})  # samplers can live with it


class Controls(StopsAt):
    """A stopper that would stop, but leaves this run to finish."""

    def should_stop(self, run, checkpoints_so_far) -> Decision:
        found = super().should_stop(run, checkpoints_so_far)
        return Decision(stop=False, probability=found.probability, reason=found.reason, control=found.stop)


def test_a_run_that_is_left_to_finish_keeps_what_was_thought_of_it(loop):
    class GoesOn(Controls):
        def should_stop(self, run, checkpoints_so_far) -> Decision:
            found = super().should_stop(run, checkpoints_so_far)
            if found.control:
                (run.training.launch.out / "go").touch()
            return found

    loop.queue({"epochs": 6, "hold": 2}, {"lr": 0.9})
    first, second = loop.work(pruner=GoesOn(2))
    assert (first.state, first.n_checkpoints, second.state) == ("complete", 6, "complete")
    said = loop.trials()[0].user_attrs
    assert (said["control.probability"], said["control.checkpoints"]) == (0.02, 2)
    assert "control.probability" not in loop.trials()[1].user_attrs


def test_a_worker_that_was_taken_for_dead_stops_its_run_gently_and_tells_nothing(loop):
    loop.queue({"epochs": 100, "hold": 2})
    events: list[str] = []

    def give_away() -> None:  # as another worker does that has not heard of this one for too long
        while not (loop.project.runs / "proposal_000" / "epoch_001.safetensors").exists():
            time.sleep(0.02)
        storage = loop.storage
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
        fail_stale_trials(storage, storage.get_study_id_from_name("p/proposals"), 600)

    thread = threading.Thread(target=give_away)
    thread.start()
    (ended,) = loop.work(replace(ORDERS, stale_after=2, runs=1), notify=lambda event: events.append(event.text))
    thread.join()
    assert ended.state == "stale"
    assert events[-1] == "proposal_000: given to another worker meanwhile; stopped"
    assert loop.states() == ["FAIL", "WAITING"]
    assert "measured.coverage" not in loop.trials()[0].user_attrs


def test_a_run_may_start_from_a_checkpoint(loop):
    loop.queue({}, init_from="/zoo/best model.pt")
    loop.queue({})
    loop.work()
    given = [(Path(t.user_attrs["folder"]) / "argv").read_bytes().split(b"\0") for t in loop.trials()]
    assert given[0][-2:] == [b"--init-from", b"/zoo/best model.pt"]
    assert b"--init-from" not in given[1]


def test_a_folder_that_a_former_database_left_is_not_written_to(loop):
    loop.queue({})
    (loop.project.runs / "proposal_000").mkdir(parents=True)
    (ended,) = loop.work()
    assert ended.name == "proposal_000-2"
    assert not any((loop.project.runs / "proposal_000").iterdir())


def test_a_folder_of_runs_that_cannot_be_made_is_one_sentence(loop, tmp_path):
    loop.queue({})
    (tmp_path / "full").write_text("not a folder")
    broken = Loop(replace(loop.project, runs=tmp_path / "full" / "runs"))
    for _ in range(3):
        with pytest.raises(EpsoptError, match=r"full/runs: the folder of runs cannot be made: Not a directory"):
            broken.work()
    assert loop.states() == ["WAITING"]
    (ended,) = loop.work()
    assert ended.state == "complete"


@pytest.mark.parametrize(("epochs", "state"), [(1, "complete"), (100, "pruned")])
def test_a_proposal_whose_last_epoch_spends_the_budget_is_left_to_end_by_itself(loop, epochs, state):
    loop.queue({"epochs": epochs, "mode": "late", "seconds": 3.0})  # it lives on for a while after each checkpoint
    with Catalogue(loop.project.storage) as catalogue:
        budget = Budget(1, loop.storage, catalogue, "p")
        (ended,) = Worker(loop.project, loop.storage, catalogue, ORDERS, budget=budget).work()
    assert ended.state == state
    assert (ended.failure is None) == (state == "complete")


def test_a_number_of_runs_is_kept_to(loop):
    loop.queue({}, {}, {})
    assert len(loop.work(replace(ORDERS, runs=2, jobs=2))) == 2
    assert loop.states() == ["COMPLETE", "COMPLETE", "WAITING"]


def test_without_a_train_command_or_a_queue_the_worker_says_what_to_do(loop):
    with pytest.raises(EpsoptError, match="epsopt propose"):
        loop.work()
    with pytest.raises(UsageError, match=r"\[train\]"):
        Loop(replace(loop.project, command=None)).work()


class FakeLearner:
    """Queues what it is asked for, as a learner does in its own process."""

    def __init__(self, loop: Loop, most: int) -> None:
        self.loop, self.left, self.asked = loop, most, []

    def is_proposing(self) -> bool:
        return False

    def is_fitting(self) -> bool:
        return False

    def start(self, propose: int, *, merge: bool = True) -> None:
        self.asked.append(propose)
        new = [{"lr": 0.001 * self.left + 0.01 * i} for i in range(min(propose, self.left))]
        self.left -= len(new)
        self.loop.queue(*new)

    def proposal_failure(self) -> str | None:
        return None if self.left or not self.asked else "nothing can be proposed"

    def fit_failure(self) -> str | None:
        return None

    def messages(self) -> list[str]:
        return []

    def reconsider(self, *, merge: bool) -> None:
        pass

    def finish(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_a_worker_asks_for_proposals_when_none_is_queued_and_learns_after_each_batch(loop):
    learner = FakeLearner(loop, 10)
    ended = loop.work(replace(ORDERS, runs=5, ask=3, learn_after=3), learner=learner)
    assert len(ended) == 5
    assert [a for a in learner.asked if a] == [3, 2]
    assert learner.asked[-1] == 0, "it learns from the last ones too"


class EndlessLearner(FakeLearner):
    """Never ends learning; whoever waits for it waits for ever."""

    def is_fitting(self) -> bool:
        return 0 in self.asked


def test_work_ends_when_its_runs_have_ended_and_leaves_the_map_to_learn(loop):
    loop.queue({}, {})
    events: list[str] = []
    learner = EndlessLearner(loop, 1)
    ended = loop.work(
        replace(ORDERS, learn_after=1), learner=learner,
        notify=lambda event: events.append(event.text) if event.kind == "fitting" else None,
    )  # fmt: skip
    assert len(ended) == 2
    assert learner.asked == [0]
    assert events[-1].startswith("the map still learns in the background and is left to it")


class SlowLearner(FakeLearner):
    """Proposes what it is asked for a few looks later; learning never ends while the worker has something to do."""

    def __init__(self, loop: Loop, most: int = 99) -> None:
        super().__init__(loop, most)
        self.events: list[tuple[str, str]] = []
        self.can_merge: list[bool] = []  # whether merges might be measured, of each time that it was asked
        self.looks, self.wanted, self.learning = 0, 0, False

    def notify(self, event) -> None:
        self.events.append((event.kind, event.text.partition(":")[0]))

    def let_go(self) -> None:
        """Let programs that hold go on."""
        (self.loop.project.runs / "go").touch()

    def is_proposing(self) -> bool:
        self.looks -= 1
        if self.looks == 0:
            super().start(self.wanted)
        return self.looks > 0

    def is_fitting(self) -> bool:
        if self.learning and len([t for t in self.events if t[0] == "ended"]) == 6:
            self.learning = False
            self.events.append(("learned", ""))
        return self.learning

    def start(self, propose: int, *, merge: bool = True) -> None:
        if propose:
            self.looks, self.wanted = 3, propose
            self.can_merge.append(merge)
            self.let_go()
        else:
            self.learning = True


def test_no_launch_waits_for_learning_and_the_next_proposals_are_asked_for_while_programs_run(loop):
    learner = SlowLearner(loop)
    loop.queue({"lr": 0.9, "hold": 1})  # until it is asked
    loop.work(replace(ORDERS, runs=6, ask=2, learn_after=1), learner=learner, notify=learner.notify)
    kinds = [kind for kind, _ in learner.events]
    assert kinds.index("proposing") < kinds.index("ended"), "asked while the first one ran"
    assert kinds.count("started") == 6
    assert kinds.index("fitting") < len(kinds) - 1 - kinds[::-1].index("started"), "runs began while it learned"
    assert kinds.index("learned") > kinds.index("ended")
    assert kinds[-1] in ("learned", "fitting")
    between = kinds[kinds.index("fitting") : kinds.index("learned")]
    assert between.count("started") >= 4, kinds
    assert learner.asked == [2, 2, 1]


class Plenty:
    """A budget that is never spent."""

    settled: str | None = None

    def available(self, *, waiting: bool = False) -> int:
        return 9

    def left(self) -> int:
        return 9

    def resumed(self, attributes) -> int:
        return 0


def test_with_a_budget_a_step_is_asked_for_when_a_slot_is_free_and_chosen_ahead_while_programs_run(loop):
    class Ahead(SlowLearner):
        def reconsider(self, *, merge: bool) -> None:
            self.events.append(("ahead", merge))
            if merge:  # a checkpoint is seen
                self.let_go()

        def finish(self) -> None:
            self.events.append(("finish", ""))

    learner = Ahead(loop)
    loop.queue({"lr": 0.9, "epochs": 3, "hold": 1})
    loop.work(replace(ORDERS, runs=3, ask=8), learner=learner, notify=learner.notify, budget=Plenty())
    assert [k for k, _ in learner.events if k != "ahead"] == [
        "started",
        "ended",
        "proposing",
        "started",
        "ended",
        "proposing",
        "started",
        "ended",
        "finish",
    ]
    assert learner.asked == [1, 1]
    kinds = [k for k, _ in learner.events]
    first = kinds[: kinds.index("ended")]
    assert 2 <= first.count("ahead") <= 4, "when it begins, and with each checkpoint that is seen while it runs"
    assert learner.can_merge == [True, True], "asked for when nothing runs beside it"
    assert first[0] == "started"
    can_merge = [merge for kind, merge in learner.events[: kinds.index("ended")] if kind == "ahead"]
    assert can_merge == [False, *[True] * (len(can_merge) - 1)], "nothing is measured beside a program that begins"
    last = kinds[len(kinds) - kinds[::-1].index("started") :]
    assert "ahead" not in last, "nothing will be launched after it"


def test_a_budget_that_has_settled_begins_no_further_step_and_what_runs_goes_on(loop):
    budget = Plenty()

    class Settles(SlowLearner):
        def start(self, propose: int, *, merge: bool = True) -> None:
            if propose:
                self.asked.append(propose)
                budget.settled = "The front has settled."
                self.let_go()

    learner = Settles(loop)
    loop.queue({"lr": 0.9, "epochs": 2, "hold": 0})
    ended = loop.work(replace(ORDERS, jobs=2, runs=None, ask=8), learner=learner, budget=budget)
    assert learner.asked == [1], "asked once, and not again"
    assert [e.state for e in ended] == ["complete"]


def test_no_merge_is_measured_before_a_step_while_another_program_begins(loop):
    learner = SlowLearner(loop)
    loop.queue({"lr": 0.9, "epochs": 2, "hold": 0})  # until it is asked
    loop.work(replace(ORDERS, jobs=2, runs=2, ask=8), learner=learner, budget=Plenty())
    assert learner.can_merge == [False]


def test_each_run_says_how_long_its_slot_was_empty_and_a_retry_has_a_wait_of_its_own(loop):
    loop.queue({"mode": "fail"}, {}, {})
    loop.work(replace(ORDERS, jobs=2))
    waited = [t.user_attrs["idle_seconds"] for t in loop.trials()]
    assert len(waited) == 3
    assert all(w >= 0.0 for w in waited)
    assert "idle_seconds" in OF_ONE_ATTEMPT


class Exhausted(FakeLearner):
    """Finds nothing new until two runs have ended, then one proposal, then nothing any more."""

    def start(self, propose: int, *, merge: bool = True) -> None:
        (self.loop.project.runs / "go").touch()
        self.failed = not (propose and self.left and self.loop.states().count("COMPLETE") >= 2)
        if not self.failed:
            super().start(1)
        elif propose:
            self.asked.append(propose)

    def proposal_failure(self) -> str | None:
        return "nothing new is left" if self.asked and self.failed else None


def test_what_cannot_be_proposed_is_asked_for_again_when_more_is_known_and_not_for_ever(loop):
    loop.queue({}, {"hold": 0})  # until it is asked
    learner = Exhausted(loop, 1)
    with pytest.raises(EpsoptError, match="nothing new is left"):
        loop.work(replace(ORDERS, ask=8), learner=learner)
    assert loop.states() == ["COMPLETE"] * 3
    assert len(learner.asked) == 4, "ahead and when the slot was free, each twice"


def test_what_keeps_a_learner_from_proposing_ends_the_worker(loop):
    events: list[str] = []
    with pytest.raises(EpsoptError, match="nothing can be proposed"):
        loop.work(
            replace(ORDERS, runs=5, ask=3), learner=FakeLearner(loop, 2),
            notify=lambda event: events.append(event.text) if event.kind == "failure" else None,
        )  # fmt: skip
    assert events == ["nothing could be proposed: nothing can be proposed"]
    assert loop.states() == ["COMPLETE", "COMPLETE"]


class FailingLearner(FakeLearner):
    """Fails whenever it learns, the second time for another reason; the third time it does not."""

    def start(self, propose: int, *, merge: bool = True) -> None:
        self.asked.append(propose)

    def fit_failure(self) -> str | None:
        return dict(enumerate([None, "no hook", "no space"])).get(len(self.asked))


def test_what_keeps_a_learner_from_learning_is_reported_once_and_the_work_goes_on(loop):
    loop.queue({}, {}, {})
    events: list[str] = []
    learner = FailingLearner(loop, 1)
    ended = loop.work(
        replace(ORDERS, learn_after=1), learner=learner,
        notify=lambda event: events.append(event.text) if event.kind == "failure" else None,
    )  # fmt: skip
    assert [e.state for e in ended] == ["complete"] * 3
    assert events == [f"learning in the background failed: {why}" for why in ("no hook", "no space")]


def test_the_work_ends_when_a_checkpoint_meets_all_targets_and_what_else_runs_is_queued_again(loop):
    # Coverage falls by lr / 10 with each epoch, structure grows by as much: the third epoch of lr 1 has both.
    loop.queue({"lr": 0.1, "epochs": 100, "hold": 2}, {"lr": 1.0, "epochs": 100, "hold": 3}, {})
    events: list[tuple[str, str]] = []
    with Catalogue(loop.project.storage) as catalogue:
        goal = Goal(catalogue, loop.project.objectives, [Target("dist_corr", 0.3), Target("coverage", 0.6)])
        worker = Worker(
            loop.project, loop.storage, catalogue, replace(ORDERS, jobs=2), goal=goal,
            notify=lambda event: events.append((event.kind, event.text)),
        )  # fmt: skip
        (ended,) = worker.work()
    assert (worker.reached.run, worker.reached.epoch) == ("proposal_001", 3)
    assert (ended.name, ended.state) == ("proposal_001", "pruned")
    assert loop.states() == ["FAIL", "PRUNED", "WAITING", "WAITING"]
    assert loop.trials()[1].user_attrs["pruned.reason"] == "since it meets the targets"
    assert loop.trials()[0].user_attrs["failure"] == "another run reached the targets"
    assert ("reached", f"proposal_001:3 meets the targets: {worker.reached.path}") in events
    interrupted = loop.trials()[0].user_attrs["checkpoints"][-1]["path"]
    loop.work(replace(ORDERS, runs=2), pruner=StopsAt(1))
    given = [(Path(t.user_attrs["folder"]) / "argv").read_text().split("\0") for t in loop.trials()]
    assert given[3][-2:] == ["--resume-from", interrupted]
    assert not any("--resume-from" in words for words in given[:3])


@pytest.mark.parametrize("first", [{"epochs": 100, "hold": 3}, {"epochs": 3}])
def test_the_first_of_two_runs_may_be_the_one_that_meets_the_targets_by_its_end_too(loop, first):
    loop.queue({"lr": 1.0, **first}, {"lr": 0.1, "epochs": 100, "hold": 2})
    with Catalogue(loop.project.storage) as catalogue:
        goal = Goal(catalogue, loop.project.objectives, [Target("dist_corr", 0.3), Target("coverage", 0.6)])
        worker = Worker(loop.project, loop.storage, catalogue, replace(ORDERS, jobs=2), goal=goal)
        (ended,) = worker.work()
    assert (worker.reached.run, worker.reached.epoch, ended.name) == ("proposal_000", 3, "proposal_000")
    assert loop.states() == [{"pruned": "PRUNED", "complete": "COMPLETE"}[ended.state], "FAIL", "WAITING"]
    assert loop.trials()[1].user_attrs["failure"] == "another run reached the targets"


def test_what_reached_the_targets_before_ends_the_work_before_it_begins(loop):
    loop.queue({"epochs": 2})
    loop.work()
    loop.queue({"lr": 0.7})
    with Catalogue(loop.project.storage) as catalogue:
        goal = Goal(catalogue, loop.project.objectives, [Target("dist_corr", 0.1)])
        worker = Worker(loop.project, loop.storage, catalogue, ORDERS, goal=goal)
        assert worker.work() == []
        assert (worker.reached.run, worker.reached.epoch) == ("proposal_000", 2)
        with pytest.raises(UsageError, match="there is no such metric"):
            Goal(catalogue, loop.project.objectives, [Target("accuracy", 0.1)])
    assert loop.states() == ["COMPLETE", "WAITING"]


@pytest.fixture
def heard():
    """Ctrl-C as a terminal delivers it: a background job inherits an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_stops_the_programs_and_queues_their_proposals_again(loop):
    loop.queue({"seconds": 5.0, "epochs": 100}, {"seconds": 5.0, "epochs": 100}, {})
    attempts = [loop.project.runs / f"proposal_00{i}" / "attempts" for i in range(2)]

    def interrupt() -> None:
        while not all(a.exists() and a.read_text() for a in attempts):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        loop.work(replace(ORDERS, jobs=2))
    assert loop.states() == ["FAIL", "FAIL", "WAITING", "WAITING", "WAITING"]
    for attempt in attempts:
        with pytest.raises(ProcessLookupError):
            os.kill(int(attempt.read_text()), 0)


@pytest.mark.usefixtures("heard")
def test_what_a_program_saves_when_it_is_asked_to_end_is_read_and_gone_on_from(loop):
    loop.queue({"seconds": 0.3, "epochs": 100, "mode": "saves"})
    first = loop.project.runs / "proposal_000" / "epoch_001.safetensors"

    def interrupt() -> None:
        while not first.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        loop.work(replace(ORDERS, watch=1e6))  # it has seen nothing yet
    before, again = loop.trials()
    written = sorted(str(p) for p in first.parent.glob("*.safetensors"))
    assert len(written) >= 2
    assert [c["path"] for c in before.user_attrs["checkpoints"]] == written
    assert again.user_attrs["resume_from"] == written[-1]
    assert sum(t.user_attrs["checkpoints"] for t in loop.trials("p/runs")) == len(written)


def test_a_database_that_never_answers_again_ends_the_worker_with_a_sentence(loop, monkeypatch):
    loop.queue({"seconds": 10.0, "epochs": 100})
    gone = threading.Event()
    events: list[str] = []

    def refuse(*_args: object, **_more: object) -> None:
        if gone.is_set():
            raise StorageInternalError("connection refused\nand more")

    for name in ("fail_stale_trials", "release", "unfinished"):
        real = getattr(worker_module, name)
        monkeypatch.setattr(worker_module, name, lambda *a, real=real, **k: refuse() or real(*a, **k))

    def notify(event) -> None:
        events.append(event.text)
        if event.kind == "started":
            gone.set()

    with pytest.raises(CatalogueError, match=r"^the database does not answer: connection refused$"):
        loop.work(replace(ORDERS, stale_after=2), notify=notify)
    assert not list((loop.project.runs / "proposal_000").glob("epoch_100*")), "it waited for the program's own end"
    assert events[1:] == ["the database does not answer: connection refused"]
    (process,) = (loop.project.runs / "proposal_000" / "attempts").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.studies.worker.test_worker import COMMAND, ORDERS, SPACE, Loop
from tests.studies.fakes import COVERAGE, DIST_CORR
from epsopt.studies.project.project import Project
folder, url = Path(sys.argv[2]), sys.argv[3]
two = (COVERAGE, DIST_CORR)
Loop(Project("p", folder / "epsopt.toml", folder / "runs", url, two, {}, SPACE, COMMAND, folder)).work()
"""


def test_what_a_killed_worker_ran_is_run_by_another_one(loop, tmp_path):
    loop.queue({"epochs": 3, "mode": "saves", "hold": 0})
    root = Path(__file__).parents[3]
    worker = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(tmp_path), loop.project.storage])
    attempts = loop.project.runs / "proposal_000" / "attempts"
    while not attempts.exists() or not attempts.read_text():
        assert worker.poll() is None
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    last = attempts.with_name("epoch_001.safetensors")
    while (
        not last.exists()
    ):  # its guardian tells the program to end, which saves once more; nobody is there to see that
        time.sleep(0.05)
    with loop.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    (loop.project.runs / "go").touch()
    events: list[str] = []
    (ended,) = loop.work(notify=lambda event: events.append(event.text))
    assert (ended.number, ended.state) == (1, "complete")
    assert "stopped answering; queued again as proposal 1" in events[0]
    before, again = loop.trials()
    assert (before.state.name, again.state.name) == ("FAIL", "COMPLETE")
    assert [c["path"] for c in before.user_attrs["checkpoints_after_loss"]] == [str(last)]
    assert again.user_attrs["resume_from"] == str(last)
    written = list(loop.project.runs.glob("*/*.safetensors"))
    assert sum(t.user_attrs["checkpoints"] for t in loop.trials("p/runs")) == len(written) > 1
