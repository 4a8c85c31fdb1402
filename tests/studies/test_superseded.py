"""Checkpoints that an earlier version read and whose files are gone: nothing is learned of them beside newer ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from sqlalchemy import select, update
from torch import nn

from epsopt.studies.training_data import measured_contents, measured_zoo
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.catalogue import tables
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.fingerprints.formats import WITHOUT_STREAMS


def make_older(catalogue: Catalogue, runs: set[str]) -> None:
    """Make fingerprints of some runs what the version before would have kept."""
    names = {c.id: c.run for c in catalogue.checkpoints()}
    with catalogue.writing() as connection:
        for row in connection.execute(select(tables.fingerprints)).all():
            if names[row.checkpoint_id] in runs:
                old = replace(Fingerprint.from_bytes(bytes(row.data)), format=WITHOUT_STREAMS)
                same = tables.fingerprints.c.checkpoint_id == row.checkpoint_id
                connection.execute(update(tables.fingerprints).where(same).values(data=old.to_bytes()))
                one = tables.checkpoints.c.id == row.checkpoint_id
                connection.execute(update(tables.checkpoints).where(one).values(signature=old.signature))


def test_older_fingerprints_are_left_out_where_there_are_newer_ones_of_the_same_network(tmp_path):
    parts = {"inp": nn.Linear(4, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 2)}
    layers = nn.ModuleDict(parts).state_dict()
    for run in range(3):
        folder = tmp_path / "runs" / f"run_{run}"
        folder.mkdir(parents=True)
        for epoch in (1, 2):
            weights = {k: v + run + 0.1 * epoch for k, v in layers.items()}
            torch.save(
                {"model_state_dict": weights, "epoch": epoch, "metrics": {"acc": run}}, folder / f"epoch_{epoch}.pt"
            )
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        assert measured_zoo(catalogue).superseded == 0
        make_older(catalogue, {"run_0"})
        zoo = measured_zoo(catalogue)
        assert (len(zoo), zoo.superseded) == (4, 2)
        assert {c.run for c in measured_contents(catalogue)} == {"run_1", "run_2"}
        make_older(catalogue, {"run_1", "run_2"})
        zoo = measured_zoo(catalogue)
        assert (len(zoo), zoo.superseded) == (6, 0)  # none is newer
