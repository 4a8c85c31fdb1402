"""What state dicts are like in the wild: prefixes, ties, small floats, averages beside, other architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epsopt.studies.surrogate_store import training_set
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.open_checkpoint import load_weights

from ..conftest import BASE, state_dict  # noqa: TID252


def save(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def prefixed(seed: int, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: w for name, w in state_dict(seed, BASE).items()}


def test_wrapped_and_bare_models_are_one_signature_and_one_lineage(tmp_path, catalogue):
    prefixes = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
    for i, prefix in enumerate(prefixes):
        save(tmp_path / f"run_{i}" / "e1.pt", {"state_dict": prefixed(i, prefix)})
    ingest(catalogue, tmp_path)
    checkpoints = catalogue.checkpoints()
    assert len(checkpoints) == len(prefixes)
    assert len({c.signature for c in checkpoints}) == len({c.lineage_id for c in checkpoints}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_a_file_changes_neither_its_signature_nor_its_lineage(tmp_path, catalogue, dtype):
    save(tmp_path / "a" / "e1.pt", {"model": state_dict(1, BASE)})
    save(tmp_path / "b" / "e1.pt", {"model": {n: w.to(dtype) for n, w in state_dict(2, BASE).items()}})
    ingest(catalogue, tmp_path)
    one, two = catalogue.checkpoints()
    assert (one.signature, one.lineage_id, one.n_parameters) == (two.signature, two.lineage_id, two.n_parameters)
    assert load_weights(two.path)["a.weight"].dtype == dtype


def test_tied_weights_are_read_under_both_names_and_budgeted_once(tmp_path, catalogue):
    shared = torch.randn(50, 8)
    save(tmp_path / "e1.pt", {"model": {"embed.weight": shared, "head.weight": shared, "out.bias": torch.ones(50)}})
    assert ingest(catalogue, tmp_path).failed == []
    loaded = load_weights(tmp_path / "e1.pt")
    assert torch.equal(loaded["embed.weight"], loaded["head.weight"])


def test_an_average_and_an_optimiser_in_the_same_file_are_no_weights_of_the_model(tmp_path, catalogue):
    model = state_dict(1, BASE)
    optimizer = torch.optim.Adam([torch.nn.Parameter(w) for w in model.values()])
    ema = {n: w * 0.5 for n, w in model.items()}
    content = {"ema_state_dict": ema, "model_state_dict": model, "optimizer_state_dict": optimizer.state_dict()}
    path = save(tmp_path / "e1.pt", content)
    assert ingest(catalogue, tmp_path).failed == []
    loaded = load_weights(path)
    assert list(loaded) == list(model)
    assert all(torch.equal(loaded[n], w) for n, w in model.items())


def test_the_state_of_an_optimiser_in_a_file_of_its_own_is_left_alone(tmp_path, catalogue):
    for name in ("optimizer.pt", "optim.pth", "optimizer_3.pt", "scheduler.pt", "lr_scheduler.pt", "rng_state_0.pth"):
        save(tmp_path / name, {"state": {}, "param_groups": []})
    save(tmp_path / "optimal.pt", {"model": state_dict(1)})
    report = ingest(catalogue, tmp_path)
    assert (report.found, report.added, report.ignored, report.failed) == (1, 1, 6, [])


def test_architectures_are_kept_apart_and_never_share_a_lineage(tmp_path, catalogue):
    for i in range(3):
        save(tmp_path / "small" / f"e{i}.pt", {"model": state_dict(i, BASE), "metrics": {"acc": 0.5}})
        wide = {"a.weight": torch.randn(64, 16), "b.weight": torch.randn(8, 64)}
        save(tmp_path / "wide" / f"e{i}.pt", {"model": wide, "metrics": {"acc": 0.5}})
    ingest(catalogue, tmp_path)
    by_signature: dict[str, set[int]] = {}
    for c in catalogue.checkpoints():
        by_signature.setdefault(c.signature, set()).add(c.lineage_id)
    small, wide = by_signature.values()
    assert not small & wide
    # A map learns from blocks, each of its own shape: no two checkpoints are ever laid into one vector of weights.
    prints = training_set(catalogue).fingerprints
    assert {p.shapes for p in prints if len(p.names) == 2} == {((64, 16), (8, 64))}


def shard(folder: Path, parts: list[dict[str, torch.Tensor]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts, start=1):
        save_file(part, folder / f"model-{i:05d}-of-{len(parts):05d}.safetensors")
    return folder / f"model-00001-of-{len(parts):05d}.safetensors"


def halves(seed: int) -> list[dict[str, torch.Tensor]]:
    whole = list(state_dict(seed, BASE).items())
    return [dict(whole[:2]), dict(whole[2:])]


def test_shards_are_one_checkpoint_with_the_weights_of_all(tmp_path, catalogue):
    first = shard(tmp_path / "sharded", halves(1))
    (tmp_path / "whole").mkdir()
    save_file(state_dict(2, BASE), tmp_path / "whole" / "model.safetensors")
    report = ingest(catalogue, tmp_path)
    assert (report.found, report.added) == (2, 2)
    one, two = catalogue.checkpoints()
    assert (one.path, one.signature, one.lineage_id) == (str(first), two.signature, two.lineage_id)
    loaded = load_weights(first)
    assert all(torch.equal(loaded[n], w) for n, w in state_dict(1, BASE).items())
    assert ingest(catalogue, tmp_path).unchanged == 2


def test_a_change_in_any_shard_is_a_change_of_the_checkpoint_and_verify_names_it(tmp_path, catalogue):
    from epsopt.zoo.ingestion.verification import verify

    first = shard(tmp_path, halves(1))
    ingest(catalogue, tmp_path)
    before = catalogue.checkpoints()[0].sha256
    second = first.with_name("model-00002-of-00002.safetensors")
    save_file(halves(3)[1], second)
    (failure,) = verify(catalogue).failed
    assert failure.path == str(first)
    assert ingest(catalogue, tmp_path).added == 1
    assert catalogue.checkpoints()[0].sha256 != before


def test_a_missing_shard_is_named_and_the_checkpoint_comes_when_it_does(tmp_path, catalogue):
    first = shard(tmp_path, [*halves(1), {"c": torch.ones(3)}])
    middle = first.with_name("model-00002-of-00003.safetensors")
    middle.rename(tmp_path / "away")
    (failure,) = ingest(catalogue, tmp_path).failed
    assert failure.reason == "one of 3 shards, and model-00002-of-00003.safetensors is not there"
    (tmp_path / "away").rename(middle)
    assert ingest(catalogue, tmp_path).added == 1
    assert catalogue.failures() == []


def test_a_tensor_in_two_shards_is_damage(tmp_path, catalogue):
    shard(tmp_path, [halves(1)[0], halves(1)[0]])
    (failure,) = ingest(catalogue, tmp_path).failed
    assert "is in two of its 2 shards" in failure.reason
