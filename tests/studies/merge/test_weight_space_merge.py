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
from epsopt.studies.merge.block_merges import BlockMerges
from epsopt.studies.merge.merge_search import MergeSearch
from epsopt.studies.merge.merge_sources import (
    MOST_LINEAGES,
    MOST_SOURCES,
    Sources,
    choose_sources,
    gone_sentences,
    only_finite,
)
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
            decoder, project, checkpoints, sources, lambda i, _: tmp_path / "new" / f"merged_{i:03d}.pt", **options
        )  # fmt: skip


def test_merges_widen_the_front_and_are_saved_with_what_was_expected_of_them(tiny, tmp_path, hook):
    found = mixed(tiny, tmp_path, budget=7)
    assert len(found.tried) == 7
    assert found.disagreements == ()
    assert found.joined
    assert found.after > 1.04 * found.before
    assert found.after - found.before == pytest.approx(sum(t.realized_gain for t in found.tried))
    for place in found.joined:
        tried, content = found.tried[place], torch.load(found.saved[place], weights_only=True)
        assert hook(load_weights(found.saved[place])) == pytest.approx(tried.measured)
        assert content["epsopt"]["predicted"] == tried.predicted
        assert content["epsopt"]["made_by"] == "epsopt merge"
        assert content["config"]["recombined"] is True
        named = {p["sha256"]: p["checkpoint"] for p in content["epsopt"]["parents"]}
        assert named.get(found.sources[0].base.sha256, "base:0") == "base:0"
        assert None not in named.values()
    for tried in found.tried:
        (shares,) = tried.recombination.coefficients
        assert (tried.kind == "between") == (min(shares) >= 0.0)
        assert sum(shares) == pytest.approx(1.0)
    assert {t.kind for t in found.tried} == {"between", "beyond"}


def test_a_predicted_gain_is_stated_after_what_merges_of_its_kind_gained(tiny, tmp_path):
    reliability = prior_reliability()
    assert reliability.of("between", 1.0) == pytest.approx(0.1)
    found = mixed(tiny, tmp_path, budget=2)
    first = found.tried[0]
    assert first.predicted_gain == pytest.approx(0.1 * first.model_gain)
    for kind in ("between", "beyond"):
        for _ in range(20):
            reliability.learn(kind, 0.1, 0.1)
    again = mixed(tiny, tmp_path / "again", budget=2, reliability=reliability)
    assert again.tried[0].model_gain == found.tried[0].model_gain
    assert again.tried[0].predicted_gain > 0.5 * again.tried[0].model_gain


def test_merges_are_of_every_lineage_that_holds_a_part_of_the_front(tmp_path, hook):
    (tmp_path / "epsopt.toml").write_text(FILE)
    for run, sign in (("one", 1.0), ("two", -1.0)):
        for epoch in range(1, 4):
            state = weights(0.7 * epoch, 0.0, 0)
            state["body.1.weight"] = sign * 5.0 * torch.randn(3, 3, generator=torch.Generator().manual_seed(len(run)))
            state["tail"] = 40.0 * sign * torch.ones(50)
            path = tmp_path / "runs" / run / f"epoch_{epoch:03d}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            metrics = {name: value - 0.01 * (sign > 0) * (name == "up") - 0.01 * (sign < 0) * (name == "calm")
                       for name, value in hook(state).items()}  # fmt: skip
            torch.save({"model_state_dict": state, "config": {"lr": 0.1}, "metrics": metrics, "epoch": epoch}, path)
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
        project = load_project(tmp_path)
        found = mixed((project, catalogue), tmp_path, budget=8)
        lost = Path(next(one for one in found.sources if "/two/" in one.base.path).base.path)
        lost.unlink()
        rest = mixed((project, catalogue), tmp_path / "rest", budget=1)
    assert [one.base.path for one in rest.sources] == [
        one.base.path for one in found.sources if one.base.path != str(lost)
    ]
    assert rest.disagreements[0].startswith(f"the lineage of {lost} is not merged: ")
    assert len(found.sources) == 2
    runs = {c.sha256: c.run for c in found.checkpoints} | {one.base.sha256: Path(one.base.path).parent.name
                                                           for one in found.sources}  # fmt: skip
    merged = [{runs[p.sha256] for p in t.recombination.parents} for t in found.tried]
    assert all(len(names) == 1 for names in merged), "weights of two lineages have nothing to do with each other"
    assert {name for names in merged for name in names} == {"one", "two"}


@pytest.mark.usefixtures("whole_effort_here")
def test_merges_of_which_nothing_is_found_are_named_and_not_come_back_to(tiny, tmp_path, monkeypatch):
    measure = MergeSearch.measure

    def without(known, decoder, recombinations):
        """Find nothing where a network is good at one thing: there the search would look first."""
        found = measure(known, decoder, recombinations)
        return [{**m, "calm": None} if m["up"] > 0.8 and len(r.parents) > 1 else m
                for r, m in zip(recombinations, found, strict=True)]  # fmt: skip

    monkeypatch.setattr(MergeSearch, "measure", without)
    found = mixed(tiny, tmp_path, budget=10)
    lost = [t.measured["calm"] is None for t in found.tried]
    assert 0 < sum(lost) <= 5
    assert sum(lost[5:]) <= sum(lost[:5])
    assert found.disagreements == (
        f"the hook found no finite calm on {sum(lost)} of 10 merges, which count as the worst that was measured",
    )
    assert not set(found.joined) & {i for i, nothing in enumerate(lost) if nothing}


def test_a_checkpoint_of_the_front_whose_file_is_gone_is_named(tiny, tmp_path):
    project, catalogue = tiny
    (sources,) = choose_sources(catalogue.checkpoints(), catalogue.lineages(), project.objectives)
    first = Path(sources.checkpoints[0].path)
    first.unlink()
    found = mixed(tiny, tmp_path, budget=1)
    assert found.disagreements == (f"of their fronts, {first} is gone, and not merged",)
    many = [replace(sources.checkpoints[0], path=f"/{i}.pt") for i in range(5)]
    assert gone_sentences(many) == ["of their fronts, /0.pt, /1.pt, /2.pt and 2 more are gone, and not merged"]


def test_the_same_seed_gives_the_same_merges(tiny, tmp_path):
    one, two = (mixed(tiny, tmp_path / str(i), budget=2, seed=3) for i in range(2))
    assert [t.recombination for t in one.tried] == [t.recombination for t in two.tried]


def test_nothing_is_measured_where_training_elsewhere_gains_more(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mixing, "marginal_value_threshold", lambda volume, epochs: {8: volume, 9: volume}[epochs])
    found = mixed(tiny, tmp_path, budget=6, give_up=True)
    assert found.tried == ()
    assert found.stopped is not None
    assert "training elsewhere" in found.stopped
    assert not (tmp_path / "new").exists()


def test_coefficients_of_parts_are_written_as_a_recombination(tiny):
    project, catalogue = tiny
    (sources,) = choose_sources(catalogue.checkpoints(), catalogue.lineages(), project.objectives)
    with WeightDecoder(project.evaluate) as decoder:
        parents = [Parent(c.path, c.sha256) for c in sources.checkpoints]
        merges = BlockMerges(sources, decoder.products(parents, sources.base))
        parts = merges.space.parts
        assert sorted(set(parts.tolist())) == [0, 1]
        coefficients = np.random.default_rng(0).normal(size=(2, len(parents)))
        decoded = load_weights(decoder.decode(merges.recombination(coefficients)).path)
        base, *others = (load_weights(path) for path in [sources.base.path, *(p.path for p in parents)])
        names = [name for name in base if base[name].is_floating_point()]
        for part, name in zip(parts, names, strict=True):
            weights = [w[name].double() - base[name].double() for w in others]
            expected = base[name].double() + sum(c * w for c, w in zip(coefficients[part], weights, strict=True))
            torch.testing.assert_close(decoded[name].double(), expected, rtol=1e-5, atol=1e-5)


def made_up(run: int, epoch: int, folder: Path, **metrics: float) -> Checkpoint:
    path = folder / f"{run}_{epoch}.pt"
    path.touch()
    return Checkpoint(
        100 * run + epoch, run, f"run_{run}", str(path), f"{run}:{epoch}", epoch, dict(metrics), {}, "s", 1, 9
    )


LINEAGE = Lineage(1, "s", "/base.pt", True, "base")


def test_sources_are_the_front_the_best_ends_and_what_lies_behind_and_never_too_many(tmp_path):
    front = [made_up(1, e, tmp_path, up=e / 50, calm=1.0 - e / 50) for e in range(1, 41)]
    ends = [made_up(r, e, tmp_path, up=-1.0 - (e == 1), calm=-1.0 - r) for r in range(2, 30) for e in (1, 2)]
    (found,) = choose_sources([*front, *ends], [LINEAGE], [UP, CALM])
    assert len(found.checkpoints) == MOST_SOURCES
    ups = [c.metrics["up"] for c in found.checkpoints[: found.n_front]]
    assert (ups[0], ups[-1]) == (0.02, 0.8), "a front that is thinned keeps its ends"
    rest = [(c.run_id, c.epoch) for c in found.checkpoints[found.n_front :]]
    assert rest == [(r, 2) for r in range(2, 2 + len(rest))]
    (few,) = choose_sources([*front[:3], *ends[:6]], [LINEAGE], [UP, CALM])
    assert few.n_front == 3
    assert [(c.run_id, c.epoch) for c in few.checkpoints[3:]] == [(2, 2), (3, 2), (4, 2), (2, 1), (3, 1), (4, 1)]


def test_lineages_are_those_of_the_front_most_of_it_first(tmp_path):
    def of(lineage: int, up: float, calm: float, epoch: int) -> Checkpoint:
        return replace(made_up(lineage, epoch, tmp_path, up=up, calm=calm), lineage_id=lineage)

    lineages = [Lineage(i, "s", f"/base_{i}.pt", True, f"base_{i}") for i in range(1, 12)]
    rows = [of(i, 0.1 * i, 1.0 - 0.1 * i, 2) for i in range(1, 10)]  # one point of the front each
    rows += [of(i, -1.0, -1.0, 1) for i in range(1, 12)]
    rows += [of(9, 0.95, 0.05, 3), of(10, -0.5, -0.5, 2)]
    found = choose_sources(rows, lineages, [UP, CALM])
    assert len(found) == MOST_LINEAGES
    assert found[0].base.sha256 == "base_9"
    assert {one.base.sha256 for one in found} <= {f"base_{i}" for i in range(1, 10)}
    assert sum(len(one.checkpoints) for one in found) <= MOST_SOURCES
    alone = [of(1, 1.0, 1.0, 1), of(2, 0.5, 0.5, 1), of(2, 0.4, 0.6, 2)]
    (other,) = choose_sources(alone, lineages, [UP, CALM])
    assert other.base.sha256 == "base_2", "a lineage of one checkpoint has nothing to merge"


def test_nothing_to_merge_is_an_error_that_says_so_and_a_base_that_was_measured_counts(tmp_path):
    one = made_up(1, 1, tmp_path, up=0.5, calm=0.5)
    founder = replace(made_up(1, 0, tmp_path, up=0.1, calm=0.1), sha256="base")
    (found,) = choose_sources([founder, one], [LINEAGE], [UP, CALM])
    assert (found.checkpoints, found.base_checkpoint) == ((one,), founder)
    with pytest.raises(EmptyCatalogue, match="nothing to merge"):
        choose_sources([one], [LINEAGE], [UP, CALM])
    Path(one.path).unlink()
    with pytest.raises(EmptyCatalogue, match="whose files are still there"):
        choose_sources([founder, one], [LINEAGE], [UP, CALM])


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
        mixed(tiny, tmp_path, budget=7)
    assert len(asked) == 1
