"""Catalogues of the version before: networks that fingerprints follow further now are read again, others are not."""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import save_file
from sqlalchemy import select, update
from torch import nn

from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.catalogue import tables
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.fingerprints.formats import FORMAT, WITHOUT_FOLLOWED, WITHOUT_STREAMS
from epsopt.zoo.forward_order import alphabetical_order

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
        assert {found.format for found in prints} == {FORMAT}  # the plain ones are what a new one would be
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


def test_networks_are_read_again_that_came_in_the_order_of_the_alphabet(tmp_path):
    """The format before took a safetensors file for a state dict; every file of such a network is read again."""
    parts = {"inp": nn.Linear(4, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 2)}
    layers = nn.ModuleDict(parts).state_dict()
    for run, save, suffix in (("sorted", save_file, "safetensors"), ("built", torch.save, "pt")):
        for epoch in (1, 2):
            file = tmp_path / "runs" / run / f"epoch_{epoch}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            save({k: v + epoch + len(run) for k, v in layers.items()}, file)
    with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        checkpoints = catalogue.checkpoints()
        for c, now in zip(checkpoints, catalogue.fingerprints([c.id for c in checkpoints]), strict=True):
            assert now.names == tuple(layers)
            names = tuple(alphabetical_order(now.names)) if c.run == "sorted" else now.names
            assert (names != now.names) == (c.run == "sorted")
            shapes = tuple(now.shapes[now.names.index(name)] for name in names)
            old = replace(now, names=names, shapes=shapes, format=WITHOUT_STREAMS)
            assert old.signature != now.signature
            same = tables.fingerprints.c.checkpoint_id == c.id
            one = tables.checkpoints.c.id == c.id
            with catalogue.writing() as connection:
                connection.execute(update(tables.fingerprints).where(same).values(data=old.to_bytes()))
                connection.execute(update(tables.checkpoints).where(one).values(signature=old.signature))
        assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 4
        assert ingest(catalogue, tmp_path / "runs", jobs=1).added == 0
        again = catalogue.fingerprints([c.id for c in catalogue.checkpoints()])
        assert {f.names for f in again} == {tuple(layers)}
