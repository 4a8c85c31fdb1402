"""What runs share is learned from once, and recorded once."""

from __future__ import annotations

import shutil

import torch

from epsopt.optimize import Objective
from epsopt.studies.optuna_io.record_runs import record_runs
from epsopt.studies.optuna_io.storage import open_storage
from epsopt.studies.surrogate_store import training_set
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest


def test_a_file_that_runs_share_is_one_row_of_what_is_learned_and_one_trial(tmp_path):
    for run in range(3):
        folder = tmp_path / "runs" / f"run_{run}"
        folder.mkdir(parents=True)
        for epoch in range(2 + run):
            weights = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * run + epoch))}
            about = {"metrics": {"gain": run + epoch / 10}, "config": {"lr": 0.1 * (run + 1)}, "epoch": epoch}
            torch.save({"model_state_dict": weights, **about}, folder / f"epoch_{epoch}.pt")
        shutil.copy(tmp_path / "runs" / "run_0" / "epoch_0.pt", folder / "epoch_0.pt") if run else None
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    with Catalogue(url) as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        checkpoints = catalogue.checkpoints()
        train = training_set(catalogue)
    assert (len(checkpoints), len(train), len(set(train.keys))) == (9, 7, 7)
    runs = {c.run: c.run_id for c in checkpoints}
    shared = next(c.sha256 for c in checkpoints if c.epoch == 0)
    assert train.runs[train.keys.index(shared)] == runs["run_2"], "the run that has most"
    assert train.n_runs == 3
    storage = open_storage(url)
    objectives = (Objective("gain", maximize=True),)
    assert record_runs(storage, "p", objectives, checkpoints).runs == 3
