"""The whole line on at least 200 real checkpoints: what the smaller tests say of small zoos must hold on a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.sweep import plan_runs, sweep
from epsopt.optimize import (
    History,
    Objective,
    Target,
    infer_space,
    non_dominated,
    propose,
    search,
)
from epsopt.optimize.objectives import measured_table
from epsopt.studies.surrogate_store import fit_map, load_map
from epsopt.surrogate import Surrogate, TrainingConfig, Validation
from epsopt.zoo import Catalogue, Checkpoint, ingest

QUICK = TrainingConfig(steps=200)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("whole_effort")]

OBJECTIVES = (
    Objective("coverage", maximize=True),
    Objective("dist_corr", maximize=True),
    Objective("rad_hier", maximize=False),
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("real")
    ensure_base(base_path(folder / "runs"))
    assert not sweep(plan_runs(folder / "runs", 22, seed=5, epochs=10), 2)
    found = Catalogue(f"sqlite:///{folder}/epsopt.db")
    report = ingest(found, folder / "runs", embed="epsopt.demo.hooks:embed")
    assert (report.added, report.failed) == (221, [])
    return found


@pytest.fixture(scope="module")
def fitted(catalogue: Catalogue) -> tuple[Surrogate, Validation]:
    surrogate, validation, _ = fit_map(catalogue, recipe=QUICK)
    return surrogate, validation


@pytest.fixture(scope="module")
def checkpoints(catalogue: Catalogue) -> list[Checkpoint]:
    return catalogue.checkpoints()


def test_all_runs_share_the_declared_lineage_of_the_base(catalogue: Catalogue) -> None:
    (lineage,) = catalogue.lineages()
    assert lineage.declared
    assert Path(lineage.reference_path).parent.name == "base"


def test_unseen_real_runs_are_predicted_better_than_by_the_median(fitted) -> None:
    validation = fitted[1]
    errors = {m.name: m for m in validation.metrics}
    assert errors["dist_corr"].skill > 0.5
    assert errors["coverage"].skill > 0.1
    assert all(0.8 <= m.coverage <= 1.0 for m in validation.metrics)
    assert validation.embedding_r2 is not None
    assert validation.embedding_r2 > 0.4


def test_a_reachable_target_is_answered_beside_a_checkpoint_that_measurably_meets_it(checkpoints, fitted) -> None:
    result = search(fitted[0], checkpoints, OBJECTIVES, [Target("coverage", 0.95)])
    assert result.targets_met
    assert any((a.nearest[0].metrics["coverage"] or 0.0) >= 0.95 for a in result.answers)
    assert all(Path(n.path).is_file() for a in result.answers for n in a.nearest)


def test_the_measured_front_agrees_with_the_definition(checkpoints: list[Checkpoint]) -> None:
    table = measured_table([c.metrics for c in checkpoints], OBJECTIVES)
    turned = table * np.array([1, 1, -1])
    front = {
        i
        for i, row in enumerate(turned)
        if not ((turned >= row).all(axis=1) & (turned > row).any(axis=1)).any()
        and not (turned[:i] == row).all(axis=1).any()
    }
    assert set(non_dominated(table, [True, True, False]).indices.tolist()) == front


def test_proposals_for_the_real_program_are_configurations_that_it_takes(checkpoints) -> None:
    from epsopt.demo.space import active
    from epsopt.optimize.forecast.catalogue_curves import past_curves

    space = infer_space([c.hyperparameters for c in checkpoints])
    curves = {str(i): c for i, c in past_curves(checkpoints, space, OBJECTIVES).items()}
    measured = np.concatenate([c.values for c in curves.values()])
    past = History(space, tuple(OBJECTIVES), (), curves, (), measured, {"coverage": (0.0, 1.0)})
    for proposal in propose(past, [Target("coverage", 0.9)], n=3):
        assert active(proposal.params) == {k: proposal.params[k] for k in active(proposal.params)}
        assert set(active(proposal.params)) == set(proposal.params)


def test_a_second_ingest_and_a_second_fit_change_nothing(catalogue, fitted, checkpoints) -> None:
    folder = Path(checkpoints[0].path).parents[1]
    report = ingest(catalogue, folder, embed="epsopt.demo.hooks:embed")
    assert (report.added, report.unchanged) == (0, 221)
    again, _, made = fit_map(catalogue, recipe=QUICK)
    assert made.how == "current"
    kept, _ = load_map(catalogue)
    z = fitted[0].memory.latents
    np.testing.assert_array_equal(kept.predict(z).point, again.predict(z).point)
