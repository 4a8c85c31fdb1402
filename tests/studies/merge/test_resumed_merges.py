"""Several evaluations at a time, each kept as soon as it is measured: an interrupted merge measures nothing twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from epsopt.optimize import Objective
from epsopt.optimize.merge import lineage_search, simplex_gp
from epsopt.studies.merge.merge_sources import choose_sources
from epsopt.studies.merge.resume import resumable, resumed_sentences
from epsopt.studies.merge.simplex_merge import merge_checkpoints
from epsopt.studies.merge.weight_space_merge import merge_in_weight_space
from epsopt.studies.project.project import Project
from epsopt.zoo import Catalogue, ingest, load_weights
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.kept_evaluations import KeptEvaluations
from epsopt.zoo.errors import HookError, UsageError

from ...sweeps import sweep  # noqa: TID252

HOOK = """
import os
from pathlib import Path
import torch
LOG = Path(__file__).with_name("log")
BROKEN = Path(__file__).with_name("broken")

def measured(state, slot):
    with LOG.open("a") as file:
        file.write(f"{os.getpid()} {slot} {float(state['weight'][0]):.9f}\\n")
    done = len(LOG.read_text().splitlines())
    if BROKEN.exists() and done in eval(BROKEN.read_text()):
        raise RuntimeError("out of memory")
    one, two = state["weight"].tolist()
    return {"up": 1.0 - (one - 0.7) ** 2, "right": 1.0 - (two - 0.7) ** 2}

def evaluate(state, *, slot):
    return measured(state, slot)

def corrects(state, slot):
    return measured(state, slot), {"bn.running_var": torch.full((2,), float(state["weight"][0]) + 2.0)}
"""
OBJECTIVES = (Objective("up", maximize=True), Objective("right", maximize=True))


class Merging:
    """A project of two checkpoints whose hook writes down what it measures."""

    def __init__(self, folder: Path, catalogue: Catalogue, hooks: Path) -> None:
        self.catalogue, self.hooks, self.folder = catalogue, hooks, folder
        self.checkpoints = catalogue.checkpoints()
        self.hook = "evaluate"

    def __call__(self, *, fresh: bool = False, jobs: int = 1, budget: int = 6, search: bool = False, seed: int = 0):
        runs, url = self.folder / "runs", f"sqlite:///{self.folder / 'epsopt.db'}"
        project = Project("p", self.folder / "epsopt.toml", runs, url, OBJECTIVES, evaluate=f"resumed:{self.hook}")
        out = self.folder / f"out_{len(list(self.folder.glob('out_*')))}"
        with (
            resumable(self.catalogue, project, fresh=fresh) as kept,
            WeightDecoder(project.evaluate, kept=kept, jobs=jobs) as decoder,
        ):
            self.kept = kept
            if search:
                sources = choose_sources(self.checkpoints, self.catalogue.lineages(), OBJECTIVES)
                return merge_in_weight_space(
                    decoder, project, self.checkpoints, sources, lambda i, _: out / f"{i}.pt", budget=budget, seed=seed
                )
            parents = [c for c in self.checkpoints if c.run != "base"]
            return merge_checkpoints(
                decoder, project, self.checkpoints, parents, lambda i: out / f"{i}.pt", budget=budget
            )

    @property
    def log(self) -> list[list[str]]:
        file = self.hooks / "log"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def break_at(self, *numbers: int) -> None:
        (self.hooks / "broken").write_text(repr(list(numbers)))

    def interrupt_at(self, number: int, monkeypatch) -> None:
        """End the command, as Ctrl-C does, when so many evaluations were kept."""
        add = KeptEvaluations.add

        def adding(kept, *arguments, **options) -> None:
            add(kept, *arguments, **options)
            if len(self.log) == number:
                raise KeyboardInterrupt

        monkeypatch.setattr(KeptEvaluations, "add", adding)


@pytest.fixture
def merging(tmp_path, monkeypatch):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "resumed.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(hooks))
    monkeypatch.setenv("PYTHONPATH", str(hooks))
    for run, weight in {"base": [0.0, 0.0], "one": [1.0, 0.0], "two": [0.0, 1.0]}.items():
        path = tmp_path / "runs" / run / "epoch_001.pt"
        path.parent.mkdir(parents=True)
        state = {"weight": torch.tensor(weight), "fixed": torch.full((40,), 3.0), "bn.running_var": torch.ones(2)}
        metrics = {"up": 1.0 - (weight[0] - 0.7) ** 2, "right": 1.0 - (weight[1] - 0.7) ** 2}
        config = {} if run == "base" else {"init_from": "../base/epoch_001.pt"}
        torch.save({"model_state_dict": state, "config": config, "metrics": metrics, "epoch": 1}, path)
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
        yield Merging(tmp_path, catalogue, hooks)
    sys.modules.pop("resumed", None)


def values(merged) -> list[dict[str, float | None]]:
    done = merged.tried if hasattr(merged, "tried") else merged.result.evaluations
    return [dict(e.measured) for e in done]


@pytest.mark.parametrize("search", sweep([True, False]))
def test_an_interrupted_merge_goes_on_and_measures_nothing_twice(merging, monkeypatch, search):
    whole = values(merging(search=search))
    n = len(merging.log)
    assert len(merging.kept) == 0, "a merge that ended well keeps nothing"
    with monkeypatch.context() as patch:
        merging.interrupt_at(n + 3, patch)
        with pytest.raises(KeyboardInterrupt):
            merging(search=search)
    assert values(merging(search=search)) == whole
    assert len(merging.log) == 2 * n, "three before, and the others after the interruption"
    assert merging.kept.used == 3
    assert "3 evaluations of an earlier merge" in resumed_sentences(merging.kept)[0]
    merging(search=search)
    assert len(merging.log) == 3 * n, "a merge that was ended is measured anew"


@pytest.mark.parametrize("options", [{"seed": 5}, {"jobs": 2}], ids=["seed", "jobs"])
def test_what_an_interrupted_search_measured_counts_in_one_of_another_seed_or_of_more_at_a_time(
    merging, monkeypatch, options
):
    with monkeypatch.context() as patch:
        merging.interrupt_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            merging(search=True)
    before = {round(1.0 - (float(weight) - 0.7) ** 2, 6) for _, _, weight in merging.log[1:]}  # the first is a source
    merged = merging(search=True, **options)
    assert {"measured by a command that did not end"} <= {t.reason for t in merged.tried}
    assert before <= {round(found["up"], 6) for found in values(merged)}
    assert len(merged.tried) == 6
    assert merging.kept.used == 5
    assert len(merging.log) == 5 + 2, "what was paid for is not paid for again"
    assert not merging.kept.unused()


def test_what_was_measured_before_evaluations_failed_is_not_measured_again(merging):
    merging.break_at(3, 4, 5)
    merged = merging()
    assert merged.result.stopped is not None
    assert "nothing again but what failed" in resumed_sentences(merging.kept)[-1]
    merging.break_at()
    again = merging()
    assert values(again)[:2] == values(merged)[:2]
    assert all(values(again))
    assert len(merging.log) == 5 + 4


def test_what_a_merge_with_a_failed_evaluation_kept_is_for_the_same_command_alone(merging):
    merging.break_at(3)
    merging(search=True)
    assert len(merging.kept) > 0
    merging.break_at()
    n = len(merging.log)
    merging(search=True, seed=1)
    assert len(merging.log) == n + 6, "what another command chose does not take from this one's budget"


def test_a_merge_can_be_measured_afresh_and_a_hook_that_cannot_be_used_keeps_nothing(merging, monkeypatch):
    with monkeypatch.context() as patch:
        merging.interrupt_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            merging()
    merging(fresh=True)
    assert len(merging.log) == 3 + 6
    monkeypatch.setattr(WeightDecoder, "measure", lambda *_: {"up": 1.0})
    with pytest.raises(UsageError, match="right"):
        merging()
    assert len(merging.kept) == 0


def test_a_failed_fit_loses_nothing_that_was_measured(merging, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("probability tensor contains either inf or nan")

    monkeypatch.setattr(simplex_gp, "expected_most", broken)
    assert all(values(merging()))
    monkeypatch.setattr(lineage_search, "fit_lineages", broken)
    merged = merging(search=True)
    assert {t.reason for t in merged.tried} == {"any candidate, since no model could be fitted"}
    assert len(merged.tried) == 6
    assert all(values(merged))


def test_corrected_statistics_of_a_kept_evaluation_are_saved_with_it(merging, monkeypatch):
    merging.hook = "corrects"
    with monkeypatch.context() as patch:
        merging.interrupt_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            merging()
    merged = merging()
    assert merging.kept.used == 5
    assert merged.saved
    for path in merged.saved.values():
        saved = load_weights(path)
        assert torch.allclose(saved["bn.running_var"], saved["weight"][:1] + 2.0)


@pytest.mark.parametrize("search", sweep([True, False]))
def test_evaluations_run_at_a_time_in_processes_of_their_own(merging, search):
    merged = merging(jobs=2, search=search)
    assert all(values(merged))
    by_slot = {}
    for process, slot, _ in merging.log:
        by_slot.setdefault(slot, set()).add(process)
    assert sorted(by_slot) == ["0", "1"]
    assert all(len(processes) == 1 for processes in by_slot.values()), "a slot is one process's"
    places = [weight for _, _, weight in merging.log]
    assert len(set(places)) == len(places), "no merge is chosen twice while it is measured"
    assert values(merging(jobs=2, search=search)) == values(merged), "whichever ends first"


def test_one_of_several_evaluations_that_fails_is_one_sentence(merging):
    merging.break_at(4)
    merged = merging(jobs=2)
    assert sum(not v for v in values(merged)) == 1
    assert "out of memory" in merged.disagreements[-1]
    merging.break_at(7, 8)
    with pytest.raises(HookError, match="out of memory"):
        merging(jobs=2, fresh=True)
