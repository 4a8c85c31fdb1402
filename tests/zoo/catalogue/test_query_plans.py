"""Queries beside many checkpoints of one architecture look few of them up: seen in the plans that SQLite makes."""

from __future__ import annotations

import contextlib
import sqlite3

import torch
from sqlalchemy import Engine, event

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest


def test_no_query_for_one_checkpoint_goes_through_all_of_its_architecture(tmp_path):
    """Without statistics SQLite takes the index on signatures, which nearly all share, for the best one."""
    for run in range(3):
        for epoch in range(1, 4):
            path = tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * run + epoch))
            torch.save({"model": {"w.weight": weights}, "epoch": epoch, "metrics": {"acc": 0.1 * epoch}}, path)
    asked: dict[str, tuple] = {}

    def ask(_connection, _cursor, text, values, *_):
        if text.startswith("SELECT") and "signature" in text:
            asked[text] = tuple(values)

    event.listen(Engine, "before_cursor_execute", ask)
    try:
        with Catalogue(f"sqlite:///{tmp_path}/c.db") as catalogue:
            ingest(catalogue, [tmp_path / "runs"], jobs=1)
            (tmp_path / "runs" / "run_0" / "epoch_1.pt").rename(tmp_path / "runs" / "run_0" / "epoch_9.pt")
            ingest(catalogue, [tmp_path / "runs"], jobs=1)
            catalogue.fingerprints([c.id for c in catalogue.checkpoints()])
    finally:
        event.remove(Engine, "before_cursor_execute", ask)
    assert len(asked) > 3
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        for text, values in asked.items():
            plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
            assert not any("ix_epsopt_checkpoints_signature (signature=?)" in step for step in plan), f"{text}: {plan}"
