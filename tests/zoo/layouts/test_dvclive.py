"""DVCLive's folder, as its versions write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest

from .examples import weights


def run(folder: Path, holder: str, tables: str) -> None:
    for epoch in range(3):
        path = folder / holder / f"epoch_{epoch}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": weights(epoch), "epoch": epoch, "run": folder.name}, path)
    for name, values in (("acc", [0.25, 0.5, 0.75]), ("val/loss", [3.0, 2.0, 1.0])):
        file = folder / "dvclive" / tables / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{step}\t{value}\n" for step, value in enumerate(values))
        file.write_text(f"step\t{file.stem}\n{rows}")
    (folder / "dvclive" / "params.yaml").write_text(f"lr: {0.5 if folder.name == 'a' else 0.25}\n")
    (folder / "dvclive" / "metrics.json").write_text(
        json.dumps({"acc": 0.75, "val": {"loss": 1.0}, "test": {"acc": 0.625}, "step": 2})
    )


@pytest.mark.parametrize("holder", [".", "model", "checkpoints"])
@pytest.mark.parametrize("tables", ["plots/metrics", "scalars"])
def test_every_metric_has_a_table_of_steps(tmp_path, catalogue, holder, tables):
    for name in "ab":
        run(tmp_path / name, holder, tables)
    report = ingest(catalogue, tmp_path)
    assert report.side_file_failures == []
    assert report.layouts == {"dvclive": 2}
    found = {(c.run, c.epoch): dict(c.metrics) for c in catalogue.checkpoints()}
    assert found["a", 0] == found["b", 0] == {"acc": 0.25, "val/loss": 3.0}
    assert found["a", 2] == {"acc": 0.75, "val/loss": 1.0, "test/acc": 0.625}, "what no table has, its end says"
    assert {c.run: c.hyperparameters["lr"] for c in catalogue.checkpoints()} == {"a": 0.5, "b": 0.25}


def test_a_dvclive_folder_above_several_runs_is_that_of_none(tmp_path, catalogue):
    run(tmp_path, "runs/a", "plots/metrics")
    run(tmp_path, "runs/b", "plots/metrics")
    ingest(catalogue, tmp_path)
    assert {c.run for c in catalogue.checkpoints()} == {"runs/a", "runs/b"}
    assert all(not c.metrics for c in catalogue.checkpoints())
