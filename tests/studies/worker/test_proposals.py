"""What proposals learn from: runs that ended, runs that were cut off, and runs that the map does not know yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from epsopt.optimize import Objective, Parameter, Space, past_runs
from epsopt.optimize.forecast.censored_runs import expected_end
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.studies import record_proposals, take_proposal
from epsopt.studies.export import as_hydra
from epsopt.studies.optuna_io.stored_trials import proposed_trials
from epsopt.studies.optuna_io.trial_leases import finish
from epsopt.studies.project.project import Project
from epsopt.studies.worker import proposals as proposing
from epsopt.studies.worker.proposals import propose_next, queue_random, runs_cut_off, too_few
from epsopt.zoo.errors import EpsoptError, UsageError

from ...sweeps import sweep  # noqa: TID252
from ..fakes import FakeProposal  # noqa: TID252

OBJECTIVES = (Objective("coverage", maximize=True), Objective("structure", maximize=True))
SPACE = Space((Parameter("lr", "float", 1e-4, 1e-2, log=True), Parameter("mode", "categorical", choices=("a", "b"))))
PRUNED, RUNNING = (11, 12), 13


@pytest.fixture
def project(tmp_path, url) -> Project:
    return Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, OBJECTIVES, {}, SPACE, None, tmp_path)


@pytest.fixture
def checkpoints(zoo, project):
    """Fourteen proposed runs, three of which have only their first two epochs."""
    out = []
    for c in zoo[1]:
        if c.run_id < 11 or c.epoch <= 2:
            config = {n: v for n, v in c.hyperparameters.items() if n != "seed"}
            path = str(project.runs / f"proposal_{c.run_id:03d}" / f"{c.epoch}.pt")
            out.append(replace(c, path=path, run=f"proposal_{c.run_id:03d}", hyperparameters=config))
    return out


@pytest.fixture
def proposed(project, storage, checkpoints):
    """Their study: eleven ended by themselves, two were stopped early, one still trains."""
    configs = {c.run_id: c.hyperparameters for c in checkpoints}
    proposals = [FakeProposal(configs[i], point={}, low={}, high={}) for i in range(14)]
    record_proposals(storage, "p", OBJECTIVES, SPACE, proposals)
    for i in range(14):
        taken = take_proposal(storage, "p", SPACE, worker="w")
        if i != RUNNING:
            state = TrialState.PRUNED if i in PRUNED else TrialState.COMPLETE
            finish(storage, taken.trial_id, state, None if i in PRUNED else [0.5, 0.5], {})
    return proposed_trials(storage, "p")


def straight(name: str, start: float, ahead: float, epochs: int = 5) -> RunPath:
    t = np.arange(1.0, epochs + 1)
    z = torch.tensor(np.stack([start + ahead * t / 5, np.full(epochs, start)], axis=1), dtype=torch.float32)
    return RunPath(name, {}, t, z, np.empty((epochs, 0)))


def test_a_cut_off_run_is_moved_on_as_the_runs_near_it_went() -> None:
    whole = [straight(f"{i}", 0.01 * i, 1.0) for i in range(5)] + [
        straight(f"far {i}", 9.0 + i, -4.0) for i in range(5)
    ]
    end = expected_end(straight("cut", 0.02, 1.0, epochs=2), whole)
    assert end.tolist() == pytest.approx([1.02, 0.02], abs=1e-3)
    assert expected_end(straight("cut", 0.02, 1.0, epochs=2), whole[:2]) is None
    assert expected_end(straight("longest", 0.0, 1.0, epochs=5), whole) is None


def test_the_last_checkpoint_of_a_stopped_run_is_not_taken_for_its_end(fitted, checkpoints, project, proposed, zoo):
    cut = runs_cut_off(project, proposed, checkpoints)
    assert cut == {*PRUNED, RUNNING}
    past = {r.name: r for r in past_runs(fitted[0], checkpoints, cut)}
    assert [n for n, r in past.items() if not r.finished] == [f"proposal_{i:03d}" for i in (*PRUNED, RUNNING)]
    assert all(r.metrics == {} for r in past.values() if not r.finished)
    place = fitted[0].memory.keys.index
    missed = []
    for i in (*PRUNED, RUNNING):
        last, true = (fitted[0].memory.latents[place(f"{i:02d}-{epoch}")] for epoch in (2, 5))
        missed.append((float(torch.dist(past[f"proposal_{i:03d}"].z, true)), float(torch.dist(last, true))))
    assert np.mean([ours for ours, _ in missed]) < 0.8 * np.mean([as_it_is for _, as_it_is in missed]), missed


def test_proposals_learn_from_stopped_runs_and_repeat_nothing_that_ran(
    checkpoints, project, storage, proposed, monkeypatch
):
    asked = {}
    monkeypatch.setattr(proposing, "propose", lambda history, *_, **more: asked.update(more, history=history) or [])
    unmeasured = replace(checkpoints[0], run_id=99, sha256="new", hyperparameters={"lr": 2e-3, "mode": "b"})
    unmeasured = replace(unmeasured, run="other", path="/elsewhere/1.pt", metrics={})
    found = propose_next(project, storage, [*checkpoints, unmeasured], OBJECTIVES)
    history = asked["history"]
    assert found.n_past == len(history.curves) == 14
    assert set(history.cut_off) == {f"proposal_{i:03d}" for i in (*PRUNED, RUNNING)}
    assert [len(history.curves[f"proposal_{i:03d}"].steps) for i in (0, *PRUNED)] == [5, 2, 2]
    assert {"lr": 2e-3, "mode": "b"} in asked["avoid"], "it ran, though nothing was measured of it"
    assert asked["pending"] == [], "of the run that trains more is known than its hyperparameters"
    propose_next(project, storage, [c for c in checkpoints if c.run_id != RUNNING], OBJECTIVES)
    assert [c.config for c in asked["pending"]] == [checkpoints[-1].hyperparameters]


def test_a_run_from_a_checkpoint_is_learned_as_one_from_there_and_says_nothing_of_the_space(
    checkpoints, project, storage, proposed, monkeypatch
):
    asked = {}
    monkeypatch.setattr(proposing, "propose", lambda history, *_, **more: asked.update(more, history=history) or [])
    start = checkpoints[7]
    config = {"lr": 0.5, "mode": "a", "init_from": start.path}
    branch = [
        replace(c, run_id=99, run="mine", sha256=f"mine{c.epoch}", path=f"/mine/{c.epoch}.pt", hyperparameters=config)
        for c in checkpoints[:2]
    ]
    propose_next(replace(project, space=None), storage, [*checkpoints, *branch], OBJECTIVES)
    begun = asked["history"].curves["mine"].start
    assert begun.tolist() == [start.metrics["coverage"], start.metrics["structure"]]
    assert asked["history"].base is None, "nothing is known of where the others start"


def test_metrics_besides_the_objectives_follow_them_and_runs_without_epochs_end_where_others_do(
    checkpoints, project, storage, monkeypatch
):
    asked = {}
    monkeypatch.setattr(proposing, "propose", lambda history, *_, **more: asked.update(more, history=history) or [])
    last = replace(checkpoints[4], run_id=99, run="mine", sha256="mine", path="/mine/a.pt", epoch=None)
    propose_next(
        project, storage, [*checkpoints, last], OBJECTIVES[1:], metrics=("coverage", "structure"), record=False
    )
    history = asked["history"]
    assert history.metrics == ("coverage",)
    mine = history.curves["mine"]
    assert mine.steps.tolist() == [5.0]
    assert mine.values.tolist() == [[last.metrics["structure"], last.metrics["coverage"]]]


@pytest.mark.parametrize(
    ("hole", "check", "words"),
    [("{wd}", None, r'"\{wd\}" needs wd'), ("{w d}", as_hydra, "cannot be written as a Hydra override")],
)
def test_proposals_that_cannot_be_launched_or_written_are_not_queued(project, storage, monkeypatch, hole, check, words):
    space = Space((Parameter("w d", "float", 0.0, 1.0),))
    proposals = [FakeProposal({"w d": x}) for x in (0.1, 0.2)]
    for p in proposals:
        p.fixed = {}
    monkeypatch.setattr(proposing, "propose", lambda *_, **__: proposals)
    theirs = replace(project, space=space, command=("{python}", hole))
    with pytest.raises(UsageError, match=words):
        propose_next(theirs, storage, [], OBJECTIVES, check=check)
    assert proposed_trials(storage, "p") == []
    propose_next(replace(theirs, command=None), storage, [], OBJECTIVES)
    assert len(proposed_trials(storage, "p")) == 2, "otherwise they would have been"


def test_runs_that_were_cut_off_do_not_count_as_enough_to_learn_from(checkpoints):
    assert not too_few(SPACE, checkpoints)
    assert too_few(SPACE, checkpoints, cut_off=set(range(7)))


def test_random_configurations_never_repeat_and_a_space_has_an_end(project, storage, checkpoints):
    small = Space((Parameter("n", "int", 1, 6),))
    ran = [replace(checkpoints[0], hyperparameters={"n": 3})]
    young = replace(project, space=small)
    assert len(queue_random(young, storage, small, 4, checkpoints=ran)) == 4
    assert len(queue_random(young, storage, small, 4, checkpoints=ran)) == 1
    tried = [t.system_attrs["fixed_params"]["n"] for t in proposed_trials(storage, "p")]
    assert sorted(tried) == [1, 2, 4, 5, 6]
    said = {t.user_attrs["reason"] for t in proposed_trials(storage, "p")}
    assert said == {"drawn at random: too few runs are known to learn from"}
    with pytest.raises(EpsoptError, match=r"no configuration of the search space is left .* widen \[space\]"):
        queue_random(young, storage, small, 4, checkpoints=ran)


def test_where_nothing_was_cut_off_past_runs_end_where_they_ended(fitted, checkpoints):
    whole = [c for c in checkpoints if c.run_id < 11]
    one, two = past_runs(fitted[0], whole), past_runs(fitted[0], whole, {99})
    assert [(r.name, r.metrics, r.finished) for r in one] == [(r.name, r.metrics, True) for r in two]
    assert Path(whole[0].path).name == "1.pt"


@pytest.fixture
def branching(project, checkpoints, tmp_path) -> tuple[Project, list]:
    """A project whose program takes a start, and whose checkpoints are files."""
    for c in checkpoints:
        Path(c.path).parent.mkdir(parents=True, exist_ok=True)
        Path(c.path).touch()
    return replace(project, command=("{python}", ("--init-from", "{init_from}"))), checkpoints


def branches(found) -> list[tuple]:
    return [(p.init_from, SPACE.key(p.params)) for p in found.proposals if p.init_from is not None]


def test_a_branch_that_waits_or_ran_is_not_proposed_again(branching, storage, proposed):
    project, checkpoints = branching
    seen: list[tuple] = []
    ends = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None]  # of each round's; None: they go on waiting
    for number, state in zip(range(14, 22, 2), ends, strict=True):
        found = propose_next(project, storage, checkpoints, OBJECTIVES, n=2, reuse=True)
        assert found.numbers == (number, number + 1), "all of them are new"
        assert len(branches(found)) == 1
        seen += branches(found)
        while state is not None and (taken := take_proposal(storage, "p", SPACE, worker="w")) is not None:
            finish(storage, taken.trial_id, state, [0.5, 0.5] if state == TrialState.COMPLETE else None, {})
    (last,) = branches(propose_next(project, storage, checkpoints, OBJECTIVES, n=2, reuse=True))
    assert len({*seen, last}) == len(ends) + 1


def test_a_single_proposal_that_is_a_branch_is_another_one_each_time(branching, storage, proposed):
    project, checkpoints = branching
    rounds = [propose_next(project, storage, checkpoints, OBJECTIVES, n=1, reuse=True) for _ in range(3)]
    assert [r.numbers for r in rounds] == [(14,), (15,), (16,)]
    assert len({b for r in rounds for b in branches(r)}) == 3


@pytest.mark.parametrize("name", sweep(["init_from", "base"]))
def test_a_branch_of_the_catalogue_is_not_proposed_again(branching, name):
    project, checkpoints = branching
    first = propose_next(project, None, checkpoints, OBJECTIVES, n=1, reuse=True)
    ((start, _),) = branches(first)
    config = {**first.proposals[0].params, name: start}
    ran = replace(checkpoints[0], run_id=99, run="mine", sha256="new", path="/mine/1.pt", hyperparameters=config)
    second = propose_next(project, None, [*checkpoints, ran], OBJECTIVES, n=1, reuse=True)
    assert branches(first) != branches(second)
    relative = {**config, name: str(Path("..") / Path(start).relative_to(project.runs))}
    beside = replace(ran, path=str(project.runs / "mine" / "1.pt"), hyperparameters=relative)
    third = propose_next(project, None, [*checkpoints, beside], OBJECTIVES, n=1, reuse=True)
    assert branches(first) != branches(third)
