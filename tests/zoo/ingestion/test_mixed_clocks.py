"""Runs that number some checkpoints by epochs and others by steps are named, others are not."""

from __future__ import annotations

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest


def save(path, seed, **said):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    torch.save({"model": {"w.weight": weights}, **said}, path)


def test_steps_among_epochs_are_named_once_a_run(catalogue, tmp_path):
    for run in ("a", "b"):
        for e in (1, 2, 3):
            save(tmp_path / run / f"epoch_{e}.pt", e, epoch=e, global_step=100 * e)
            save(tmp_path / run / f"step_{100 * e - 50}.pt", 10 + e, global_step=100 * e - 50)
    reasons = [f.reason for f in ingest(catalogue, [tmp_path]).side_file_failures]
    assert len(reasons) == 2
    assert all("steps count as epochs there, up to 250 after epoch 3" in reason for reason in reasons)


@pytest.mark.parametrize(
    "said",
    [
        [{"epoch": 1, "global_step": 10}, {"epoch": 2, "global_step": 20}],
        [{"global_step": 10}, {"global_step": 20}],
        [{"epoch": 1}, {"epoch": 2}],
        [{"epoch": 1, "step": 1}, {"epoch": 2, "step": 4}],  # one update in the first epoch
        [{}, {"epoch": 2, "global_step": 20}],
    ],
)
def test_runs_of_one_clock_are_not(catalogue, tmp_path, said):
    for i, one in enumerate(said):
        save(tmp_path / "a" / f"m{'x' * i}.pt", i, **one)
    assert ingest(catalogue, [tmp_path]).side_file_failures == []
