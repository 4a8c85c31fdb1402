from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epsopt.optimize import Objective, Parameter, Space, Target
from epsopt.optimize.schedule import pruner as stopping
from epsopt.studies.prune.catalogue_pruner import CataloguePruner
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import UsageError

SPACE = Space((Parameter("a", "float", 0.0, 1.0), Parameter("b", "float", 0.0, 1.0)))
OBJECTIVES = (Objective("gain", maximize=True), Objective("cost", maximize=False))


def checkpoints(run: int, a: float, b: float, epochs: int = 10, start: str | None = None) -> list[Checkpoint]:
    """The gain grows towards a, the cost falls towards 1 + a; b spoils both."""
    config: dict[str, Any] = {"a": a, "b": b} | ({} if start is None else {"init_from": start})
    out = []
    for epoch in range(1, epochs + 1):
        grown = 1 - np.exp(-epoch / 3)
        metrics = {"gain": grown * (a - b), "cost": 2 - grown * (1 - a - b)}
        out.append(
            Checkpoint(
                run, run, f"run {run}", f"/{run}/{epoch}.pt", f"{run}:{epoch}", epoch, metrics, config, "s", 1, 9
            )
        )
    return out


@dataclass
class Runs:
    known: list[Checkpoint] = field(default_factory=list)

    def checkpoints(self) -> list[Checkpoint]:
        return self.known


@dataclass
class Active:
    name: str
    params: dict[str, float]
    number: int = 0
    init_from: str | None = None


def past() -> list[Checkpoint]:
    rng = np.random.default_rng(0)
    configs = [(a, 0.0) for a in np.linspace(0.05, 0.95, 7)] + rng.uniform(0, 1, (9, 2)).tolist()
    return [c for i, (a, b) in enumerate(configs) for c in checkpoints(i, a, b)]


def test_a_worker_s_bad_run_is_stopped_by_what_the_catalogue_knows_and_a_good_one_is_not() -> None:
    pruner = CataloguePruner(Runs(past()), SPACE, OBJECTIVES, control_share=0.0)
    bad = pruner.should_stop(Active("bad", {"a": 0.5, "b": 0.9}), checkpoints(99, 0.5, 0.9, 4))
    assert bad.stop
    assert bad.probability < 0.05
    assert not pruner.should_stop(Active("good", {"a": 1.0, "b": 0.0}), checkpoints(98, 1.0, 0.0, 4)).stop


def test_the_run_itself_is_not_among_those_that_it_is_judged_by() -> None:
    runs = Runs([*past(), *checkpoints(99, 1.0, 0.0, 4)])
    pruner = CataloguePruner(runs, SPACE, OBJECTIVES, control_share=0.0)
    assert not pruner.should_stop(Active("run 99", {"a": 1.0, "b": 0.0}), checkpoints(99, 1.0, 0.0, 4)).stop


class Judged:
    """What each judgement is made of, and how often something was learned."""

    def __init__(self, monkeypatch) -> None:
        self.past: list[list[tuple[dict[str, Any], int]]] = []  # configuration and number of checkpoints
        self.fits = 0
        decide, fit = stopping.Pruner.should_stop, stopping.fit_curves

        def should_stop(pruner, *arguments, **options):
            self.past.append([(dict(c.config), len(c.steps)) for c in pruner.past])
            return decide(pruner, *arguments, **options)

        def fit_curves(*arguments, **options):
            self.fits += 1
            return fit(*arguments, **options)

        monkeypatch.setattr(stopping.Pruner, "should_stop", should_stop)
        monkeypatch.setattr(stopping, "fit_curves", fit_curves)


def test_of_two_runs_each_is_judged_by_all_others_of_which_it_is_learned_once(monkeypatch) -> None:
    two = {98: {"a": 1.0, "b": 0.0}, 99: {"a": 0.5, "b": 0.9}}
    runs = Runs([*past(), *(c for run, config in two.items() for c in checkpoints(run, **config, epochs=4))])
    judged, pruner = Judged(monkeypatch), CataloguePruner(runs, SPACE, OBJECTIVES, control_share=0.0)
    for run, config in two.items():
        stop = pruner.should_stop(Active(f"run {run}", config), checkpoints(run, **config, epochs=4)).stop
        assert stop == (run == 99)
    assert judged.fits == 1
    first, second = judged.past
    assert len(first) == len(second) == 17
    assert [run for run, config in two.items() if (config, 4) in first] == [99]
    assert [run for run, config in two.items() if (config, 4) in second] == [98]


def test_a_run_is_known_by_the_names_that_its_checkpoints_have_in_the_catalogue(monkeypatch) -> None:
    config = {"a": 1.0, "b": 0.0}
    own = [replace(c, run="proposal_003/lightning_logs/version_0") for c in checkpoints(99, **config, epochs=4)]
    judged = Judged(monkeypatch)
    pruner = CataloguePruner(Runs([*past(), *own]), SPACE, OBJECTIVES, control_share=0.0)
    assert not pruner.should_stop(Active("proposal_003", config), own).stop
    assert len(judged.past[0]) == 16
    assert (config, 4) not in judged.past[0]


def test_what_a_run_measured_since_it_was_learned_from_is_known(monkeypatch) -> None:
    runs = Runs([*past(), *checkpoints(99, 0.5, 0.9, 3)])
    judged, pruner = Judged(monkeypatch), CataloguePruner(runs, SPACE, OBJECTIVES, control_share=0.0, read_again=0.0)
    other = Active("other", {"a": 0.4, "b": 0.1})
    pruner.should_stop(other, checkpoints(98, 0.4, 0.1, 4))
    runs.known = [*past(), *checkpoints(99, 0.5, 0.9, 7)]
    pruner.should_stop(other, checkpoints(98, 0.4, 0.1, 4))
    assert judged.fits == 1
    assert [({"a": 0.5, "b": 0.9}, n) in past for n, past in zip((3, 7), judged.past, strict=True)] == [True, True]


def test_without_earlier_runs_or_epochs_nothing_is_stopped() -> None:
    active = Active("a", {"a": 0.5, "b": 0.9})
    alone = CataloguePruner(Runs(), SPACE, OBJECTIVES).should_stop(active, checkpoints(1, 0.5, 0.9, 4))
    assert (alone.stop, alone.reason) == (False, "no earlier run is known")
    base = Checkpoint(1, 1, "r", "/r/0.pt", "x", None, {"gain": 0.0, "cost": 2.0}, {}, "s", 1, 9)
    assert not CataloguePruner(Runs(past()), SPACE, OBJECTIVES).should_stop(active, [base]).stop


def test_what_more_runs_show_is_learned() -> None:
    runs = Runs(past()[:30])
    pruner = CataloguePruner(runs, SPACE, OBJECTIVES, control_share=0.0, read_again=0.0)
    active = Active("bad", {"a": 0.5, "b": 0.9})
    assert "only 3 earlier runs" in pruner.should_stop(active, checkpoints(99, 0.5, 0.9, 4)).reason
    runs.known = past()
    assert pruner.should_stop(active, checkpoints(99, 0.5, 0.9, 4)).stop


def test_where_a_run_started_is_known_if_that_checkpoint_was_measured() -> None:
    from epsopt.optimize.forecast.catalogue_curves import past_curves

    first = checkpoints(1, 0.5, 0.0)
    curves = past_curves([*first, *checkpoints(2, 0.4, 0.0, start=first[3].path)], SPACE, OBJECTIVES)
    assert curves[1].start is None
    np.testing.assert_allclose(curves[2].start, [first[3].metrics["gain"], first[3].metrics["cost"]])


def test_runs_that_were_cut_off_do_not_make_runs_look_short() -> None:
    rng = np.random.default_rng(1)
    known = [*past(), *(c for i in range(40) for c in checkpoints(100 + i, *rng.uniform(0, 1, 2).tolist(), epochs=3))]
    cut = {Path(f"/{100 + i}") for i in range(40)}
    bad = Active("bad", {"a": 0.5, "b": 0.9}), checkpoints(99, 0.5, 0.9, 4)
    assert CataloguePruner(Runs(known), SPACE, OBJECTIVES, control_share=0.0).should_stop(*bad).reason == "at its end"
    assert (
        CataloguePruner(Runs(known), SPACE, OBJECTIVES, control_share=0.0, unfinished=lambda: cut)
        .should_stop(*bad)
        .stop
    )


def test_a_hyperparameter_may_say_how_long_a_run_is() -> None:
    space = Space((*SPACE.parameters, Parameter("epochs", "int", 2, 30)))
    rng = np.random.default_rng(0)
    known: list[Checkpoint] = []
    for i, epochs in enumerate([10, 20] * 6):
        of_run = checkpoints(i, *rng.uniform(0, 1, 2).tolist(), epochs=epochs)
        known += [replace(c, hyperparameters={**c.hyperparameters, "epochs": epochs}) for c in of_run]
    pruner = CataloguePruner(Runs(known), space, OBJECTIVES, control_share=0.0)
    short, long = (Active(f"{n}", {"a": 0.5, "b": 0.9, "epochs": n}) for n in (12, 30))
    so_far = checkpoints(99, 0.5, 0.9, 12)
    assert pruner.should_stop(short, so_far).reason == "at its end"
    assert "remaining 18 epochs" in pruner.should_stop(long, so_far).reason


def test_nonsense_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="there is no such objective, known are gain, cost"):
        CataloguePruner(Runs(), None, OBJECTIVES, targets=[Target("loss", 1.0)])


def test_without_a_declared_space_what_varies_is_the_space() -> None:
    pruner = CataloguePruner(Runs(past()), None, OBJECTIVES, control_share=0.0)
    assert pruner.should_stop(Active("bad", {"a": 0.5, "b": 0.9}), checkpoints(99, 0.5, 0.9, 4)).stop
    one = CataloguePruner(Runs(checkpoints(1, 0.5, 0.5)), None, OBJECTIVES)
    assert one.should_stop(Active("bad", {"a": 0.5, "b": 0.9}), checkpoints(99, 0.5, 0.9, 4)).reason == (
        "no earlier run is known"
    )


def test_decoded_checkpoints_are_no_runs() -> None:
    from epsopt.optimize.forecast.catalogue_curves import past_curves
    from epsopt.zoo.decoding.recombination import RECOMBINED

    mixed = [replace(c, hyperparameters=c.hyperparameters | {RECOMBINED: True}) for c in checkpoints(7, 0.5, 0.5)]
    assert list(past_curves([*checkpoints(1, 0.5, 0.0), *mixed], SPACE, OBJECTIVES)) == [1]
