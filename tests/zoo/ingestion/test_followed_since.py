"""Catalogues of the version before: networks that fingerprints follow further now are read again, others are not."""

from __future__ import annotations

from dataclasses import replace

import torch
from sqlalchemy import select, update
from torch import nn

from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.catalogue import tables
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.fingerprints.formats import FORMAT, WITHOUT_FOLLOWED

NETWORKS = {
    "plain": nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)),
    "norm": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
}


def as_of_before(catalogue: Catalogue) -> None:
    """Make a catalogue what the version before would have written."""
    with catalogue.writing() as connection:
        for row in connection.execute(select(tables.fingerprints)).all():
            now = Fingerprint.from_bytes(bytes(row.data))
            old = replace(now, format=WITHOUT_FOLLOWED)
            same = tables.fingerprints.c.checkpoint_id == row.checkpoint_id
            connection.execute(update(tables.fingerprints).where(same).values(data=old.to_bytes()))
            sharing = tables.checkpoints.c.signature == now.signature
            connection.execute(update(tables.checkpoints).where(sharing).values(signature=old.signature))


def test_only_networks_with_parts_that_are_followed_now_are_read_again(tmp_path):
    for name, network in NETWORKS.items():
        for epoch in (1, 2):
            file = tmp_path / "runs" / name / f"epoch_{epoch}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({k: v + epoch for k, v in network.state_dict().items()}, file)
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        new = {c.path: c.signature for c in catalogue.checkpoints()}
        as_of_before(catalogue)
        old = {c.path: c.signature for c in catalogue.checkpoints()}
        assert {path.split("/")[-2] for path in new if new[path] != old[path]} == {"norm"}
        assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 2
        checkpoints = catalogue.checkpoints()
        assert {c.path: c.signature for c in checkpoints} == new
        prints = catalogue.fingerprints([c.id for c in checkpoints])
        formats = {c.run: found.format for c, found in zip(checkpoints, prints, strict=True)}
        assert formats == {"norm": FORMAT, "plain": WITHOUT_FOLLOWED}
        assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 0


def test_runs_that_moved_meanwhile_are_read_again_too(tmp_path):
    for epoch in (1, 2):
        file = tmp_path / "runs" / "norm" / f"epoch_{epoch}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({k: v + epoch for k, v in NETWORKS["norm"].state_dict().items()}, file)
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        as_of_before(catalogue)
        (tmp_path / "runs").rename(tmp_path / "elsewhere")
        ingest(catalogue, tmp_path / "elsewhere", jobs=1)
        checkpoints = catalogue.checkpoints()
        assert {f.format for f in catalogue.fingerprints([c.id for c in checkpoints])} == {FORMAT}
        assert len(checkpoints) == 2
        assert ingest(catalogue, tmp_path / "elsewhere", jobs=1).unchanged == 2


def test_a_copy_that_is_gone_keeps_no_old_fingerprint_alive(tmp_path):
    """Two runs hold the same weights; the files of one of them are deleted before the version changes."""
    for run in ("one", "other"):
        file = tmp_path / "runs" / run / "epoch_1.pt"
        file.parent.mkdir(parents=True)
        torch.save({k: v + 1 for k, v in NETWORKS["norm"].state_dict().items()}, file)
        (file.parent / "config.json").write_text(f'{{"lr": {len(run)}}}')
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        as_of_before(catalogue)
        (tmp_path / "runs" / "one" / "epoch_1.pt").unlink()
        ingest(catalogue, tmp_path / "runs", jobs=1)
        checkpoints = catalogue.checkpoints()
        prints = catalogue.fingerprints([c.id for c in checkpoints])
    found = {c.run: f for c, f in zip(checkpoints, prints, strict=True)}
    assert {run: f.format for run, f in found.items()} == {"other": FORMAT}
    assert all(f.signature == c.signature for c, f in zip(checkpoints, prints, strict=True))
