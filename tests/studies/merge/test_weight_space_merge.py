"""Merges of many checkpoints, on a lineage small enough to know what is best."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.optimize.objectives import Objective
from epsopt.studies import load_project
from epsopt.studies.merge import weight_space_merge as mixing
from epsopt.studies.merge.merge_candidates import MergeSearch, MergeStep
from epsopt.studies.merge.merge_sources import MOST_SOURCES, Sources, choose_sources, only_finite
from epsopt.studies.merge.weight_space_merge import WeightSpaceMerge, merge_in_weight_space, prior_reliability
from epsopt.studies.optuna_io.refit_lease import Lease, LeaseLost
from epsopt.studies.worker.refit_service import Task, learn
from epsopt.zoo import Catalogue, ingest, load_weights
from epsopt.zoo.catalogue.types import Checkpoint, Lineage
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Parent, is_recombined
from epsopt.zoo.decoding.weight_gram import WeightProducts
from epsopt.zoo.errors import EmptyCatalogue, UsageError

# The better the farther the body is from the base in the right direction, and the nearer the head is to it.
HOOK = """
import torch
def evaluate(state):
    body, head = float(state["body.0.weight"][0, 0]), float(state["head.weight"].norm())
    return {"up": 1.0 - (body - 3.0) ** 2 / 9.0, "calm": 1.0 - (body / 3.0) ** 2 / 4.0 - 0.02 * head}
"""
FILE = """
[project]
name = "tiny"
runs = "runs"
[objectives.up]
direction = "maximize"
[objectives.calm]
direction = "maximize"
[hooks]
evaluate = "mixing_hook:evaluate"
[space.lr]
type = "float"
low = 0.0
high = 1.0
"""
UP, CALM = Objective("up", maximize=True), Objective("calm", maximize=True)


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "mixing_hook.py").write_text(HOOK)
    sys.path.insert(0, str(folder))
    import mixing_hook

    yield mixing_hook.evaluate
    sys.path.remove(str(folder))


def weights(body: float, head: float, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    state = {
        "body.0.weight": torch.zeros(4, 4),
        "body.1.weight": torch.full((3, 3), 5.0) + 0.002 * body,
        "head.weight": torch.ones(6) + head * torch.randn(6, generator=g),
        "steps": torch.tensor(seed),
    }
    state["body.0.weight"][0, 0] = body
    state["body.0.weight"] += torch.eye(4) * torch.tensor([0.0, 5.0, 5.0, 5.0])
    return state


@pytest.fixture
def tiny(tmp_path, hook):
    """Runs that went too little or too far along one direction, from a base that all of them name."""
    (tmp_path / "epsopt.toml").write_text(FILE)

    def save(run: str, epoch: int, state: dict[str, torch.Tensor], **config: object) -> Path:
        path = tmp_path / "runs" / run / f"epoch_{epoch:03d}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        metrics = hook(state)
        torch.save({"model_state_dict": state, "config": config, "metrics": metrics, "epoch": epoch}, path)
        return path

    save("base", 0, weights(0.0, 0.0, 0))
    for i, (body, head) in enumerate([(0.5, 0.02), (1.0, 0.05), (1.5, 0.4), (1.2, 0.01)]):
        for epoch in (1, 2):
            save(f"run_{i}", epoch, weights(body * epoch / 2, head * epoch / 2, 10 * i + epoch), lr=0.1 * i,
                 init_from="../base/epoch_000.pt")  # fmt: skip
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
        yield load_project(tmp_path), catalogue


def mixed(tiny, tmp_path, **options: object) -> WeightSpaceMerge:
    project, catalogue = tiny
    checkpoints = catalogue.checkpoints()
    sources = choose_sources(checkpoints, catalogue.lineages(), project.objectives)
    with WeightDecoder(project.evaluate) as decoder:
        return merge_in_weight_space(
            decoder, project, checkpoints, sources, lambda i: tmp_path / "new" / f"merged_{i:03d}.pt", **options
        )  # fmt: skip


def test_merges_widen_the_front_and_are_saved_with_what_was_expected_of_them(tiny, tmp_path, hook):
    found = mixed(tiny, tmp_path, budget=7, give_up=False)
    assert len(found.tried) == 7
    assert found.disagreements == ()
    assert found.joined
    assert found.after > 1.04 * found.before
    assert found.after - found.before == pytest.approx(sum(t.realized_gain for t in found.tried))
    for place in found.joined:
        tried, content = found.tried[place], torch.load(found.saved[place], weights_only=True)
        assert hook(load_weights(found.saved[place])) == pytest.approx(tried.measured)
        assert content["epsopt"]["predicted"] == tried.predicted
        assert content["epsopt"]["made_by"] == "epsopt merge --wide"
        assert content["config"]["recombined"] is True
        named = {p["sha256"]: p["checkpoint"] for p in content["epsopt"]["parents"]}
        assert named.get(found.sources.base.sha256, "base:0") == "base:0"
        assert None not in named.values()
    assert {t.kind for t in found.tried} == {"between", "along", "beyond"}
    # Between checkpoints the network is one; beyond, blocks that moved little and blocks that moved much are two.
    assert {len(t.parts) for t in found.tried if t.kind != "beyond"} == {1}
    assert min(c for t in found.tried if t.kind != "beyond" for part in t.parts for c in part.coefficients) >= 0.0
    assert 2 in {len(t.parts) for t in found.tried if t.kind == "beyond"}


def test_each_kind_of_step_has_its_own_reliability_and_those_beyond_a_low_one_at_first(tiny, tmp_path):
    reliability = prior_reliability()
    assert (reliability.of("between", 1.0), reliability.of("along", 1.0)) == (1.0, 1.0)
    assert 0.05 < reliability.of("beyond", 1.0) < 0.1
    for _ in range(20):
        reliability.learn("along", 0.1, 0.0)
    found = mixed(tiny, tmp_path, budget=2, give_up=False, reliability=reliability)
    assert {t.kind for t in found.tried} <= {"between", "beyond"}
    reliability = prior_reliability()
    for kind in ("between", "beyond"):
        for _ in range(20):
            reliability.learn(kind, 0.1, 0.0)
    again = mixed(tiny, tmp_path / "again", budget=2, give_up=False, reliability=reliability)
    assert {t.kind for t in again.tried} == {"along"}
    assert all("on the way" in t.reason for t in again.tried)


def test_the_same_seed_gives_the_same_merges(tiny, tmp_path):
    one, two = (mixed(tiny, tmp_path / str(i), budget=2, give_up=False, seed=3) for i in range(2))
    assert [t.recombination for t in one.tried] == [t.recombination for t in two.tried]


def test_nothing_is_measured_where_training_elsewhere_gains_more(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mixing, "marginal_value_threshold", lambda volume, epochs: {8: volume, 9: volume}[epochs])
    found = mixed(tiny, tmp_path, budget=6)
    assert found.tried == ()
    assert found.stopped is not None
    assert "training elsewhere" in found.stopped
    assert not (tmp_path / "new").exists()


def test_products_of_merges_follow_from_their_coefficients(tiny):
    project, catalogue = tiny
    sources = choose_sources(catalogue.checkpoints(), catalogue.lineages(), project.objectives)
    with WeightDecoder(project.evaluate) as decoder:
        parents = [Parent(c.path, c.sha256) for c in sources.checkpoints]
        products = decoder.products(parents, sources.base)
        known = MergeSearch(sources, products, project, catalogue.checkpoints())
        rng = np.random.default_rng(0)
        for _ in range(2):  # the second is a merge of the first
            rows = known.expanded(rng.normal(size=(int(known.space.parts.max()) + 1, len(known.source_shares))))
            recombination, parts = known.recombination(rows)
            assert sum(p.tensors for p in parts) == len(products.names)
            decoded = decoder.decode(recombination)
            known.add(MergeStep("beyond", np.zeros((1, 1)), "", None, 0.0), rows, decoder.measure(decoded))
            files = [*parents, Parent(str(decoded.path), _digest(decoded.path))]
            read = decoder.products([files[0], files[-1]], sources.base).products
            last = len(known.source_shares) - 1
            np.testing.assert_allclose(known.space.products[:, [0, 0, last], [0, last, last]],
                                       read[:, [0, 0, 1], [0, 1, 1]], rtol=1e-4, atol=1e-4)  # fmt: skip


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def made_up(run: int, epoch: int, folder: Path, **metrics: float) -> Checkpoint:
    path = folder / f"{run}_{epoch}.pt"
    path.touch()
    return Checkpoint(
        100 * run + epoch, run, f"run_{run}", str(path), f"{run}:{epoch}", epoch, dict(metrics), {}, "s", 1, 9
    )


LINEAGE = Lineage(1, "s", "/base.pt", True, "base")


def test_sources_are_the_front_and_the_ends_of_the_newest_runs_and_never_too_many(tmp_path):
    front = [made_up(1, e, tmp_path, up=e / 50, calm=1.0 - e / 50) for e in range(1, 41)]
    ends = [made_up(r, e, tmp_path, up=-1.0, calm=-1.0 - r) for r in range(2, 30) for e in (1, 2)]
    found = choose_sources([*front, *ends], [LINEAGE], [UP, CALM])
    assert len(found.checkpoints) == MOST_SOURCES
    ups = [c.metrics["up"] for c in found.checkpoints[: found.n_front]]
    assert (ups[0], ups[-1]) == (0.02, 0.8), "a front that is thinned keeps its ends"
    assert [(c.run_id, c.epoch) for c in found.checkpoints[found.n_front :]] == [(29 - i, 2) for i in range(8)]


def test_fewer_than_two_sources_are_an_error_that_says_so(tmp_path):
    one = made_up(1, 1, tmp_path, up=0.5, calm=0.5)
    founder = replace(made_up(1, 0, tmp_path, up=0.1, calm=0.1), sha256="base")
    with pytest.raises(EmptyCatalogue, match="only one measured checkpoint besides the base"):
        choose_sources([founder, one], [LINEAGE], [UP, CALM])
    with pytest.raises(EmptyCatalogue, match="nothing to merge"):
        choose_sources([one], [LINEAGE], [UP, CALM])


def test_checkpoints_that_diverged_are_left_out(tmp_path):
    chosen = tuple(made_up(1, e, tmp_path, up=0.1 * e, calm=0.5) for e in range(3))
    products = np.ones((2, 3, 3))
    products[0, 0] = products[0, :, 0] = np.nan
    sources = Sources(Parent("/base.pt", "base"), None, chosen, 2)
    kept, inner = only_finite(sources, WeightProducts(("a", "b"), products, np.ones(2), ()))
    assert kept.checkpoints == chosen[1:]
    assert kept.n_front == 1
    assert inner.products.shape == (2, 2, 2)


@pytest.mark.parametrize("calls", [0, 4])
def test_a_round_of_a_learner_that_was_taken_for_dead_ends_before_anything_is_written(
    tiny, tmp_path, monkeypatch, calls
):
    project, catalogue = tiny
    left = [calls]

    def require(_held: Lease) -> None:
        if not left[0]:
            raise LeaseLost("another learner took over")
        left[0] -= 1

    monkeypatch.setattr(mixing, "marginal_value_threshold", lambda *_: 0.0)
    monkeypatch.setattr(Lease, "assert_held", require)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeaseLost):
        learn(Task(str(tmp_path / "epsopt.toml"), project.storage, merges=3))
    assert left == [0]
    assert not list(project.runs.glob("merged_*"))
    assert catalogue.get_artifact("merge_gains", "tiny") is None


def test_a_round_of_the_loop_ingests_what_joins_the_front_and_remembers_what_it_was_worth(
    tiny, tmp_path, monkeypatch, capsys
):
    project, catalogue = tiny
    monkeypatch.setattr(mixing, "marginal_value_threshold", lambda *_: 0.0)
    monkeypatch.chdir(tmp_path)
    learn(Task(str(tmp_path / "epsopt.toml"), project.storage, merges=3))  # four runs: too few for a map
    assert "of 3 merges joined the front, hypervolume +" in capsys.readouterr().out
    found = [c for c in catalogue.checkpoints() if is_recombined(c)]
    assert found
    assert {c.run.partition("/")[0] for c in found} == {"merged_001"}
    assert {c.epoch for c in found} == {None}, "the number of a merge is no moment of a training"
    assert {c.lineage_id for c in found} == {next(c.lineage_id for c in catalogue.checkpoints() if c.run == "run_0")}
    kept = catalogue.get_artifact("merge_gains", "tiny")
    assert kept is not None
    assert len(json.loads(kept[0])) == 3


def test_a_hook_that_finds_nothing_where_training_did_is_named_before_the_budget_is_spent(tiny, tmp_path, monkeypatch):
    asked = []

    def measure(_decoder, _decoded, title=""):
        asked.append(title)
        return {o.name: None for o in tiny[0].objectives}

    monkeypatch.setattr(WeightDecoder, "measure", measure)
    with pytest.raises(UsageError, match=r"the evaluate hook returns NaN, .* on .*epoch_00.\.pt, whose file says"):
        mixed(tiny, tmp_path, budget=7, give_up=False)
    assert len(asked) == 1
