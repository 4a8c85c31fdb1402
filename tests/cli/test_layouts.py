"""The commands on runs that say everything in files beside their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .conftest import call, check


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two runs: metrics in a CSV with a slash in their name, hyperparameters in YAML."""
    for i, lr in enumerate((0.5, 0.125)):
        run = tmp_path / "runs" / f"run_{i}"
        (run / "checkpoints").mkdir(parents=True)
        for epoch in (1, 2):
            generator = torch.Generator().manual_seed(10 * i + epoch)
            content = {"model": {"w": torch.randn(4, 4, generator=generator)}, "epoch": epoch}
            torch.save(content, run / "checkpoints" / f"epoch_{epoch}.pt")
        (run / "config.yaml").write_text(f"lr: {lr}\n")
        (run / "metrics.csv").write_text(f"epoch,val/acc\n1,{lr / 2}\n2,{lr}\n")
    return tmp_path


def test_init_and_ingest_take_them_as_they_are(folder):
    made = call(folder, "init", "runs", "--json")
    assert made.status == 0, made.err
    check("init", made.document)
    assert (made.document["n_runs"], made.document["space"]) == (2, ["lr"])
    assert [o["name"] for o in made.document["objectives"]] == ["val/acc"]
    done = call(folder, "ingest", "--json")
    assert done.status == 0, done.err
    check("ingest", done.document)
    assert (done.document["layouts"], done.document["retold"]) == ({"plain": 2}, 2)
    assert done.document["catalogue"]["metrics"] == ["val/acc"]


def test_what_was_recognised_and_what_could_not_be_read_is_said(folder):
    (folder / "runs" / "run_0" / "config.yaml").write_text("lr: 1\nlr: 2\n")
    (folder / "runs" / "run_1" / "optimizer.pt").write_bytes(b"whatever")
    shown = call(folder, "ingest", "runs")
    assert shown.status == 0
    assert "plain      2" in shown.out
    assert "config.yaml: found duplicate key" in shown.out
    assert "states of optimisers and the like" in shown.out
    assert shown.out.index("run_0/config.yaml") > shown.out.index("the checkpoints are in")
    assert all(len(line) <= 80 for line in shown.out.splitlines() if "/" not in line)


def test_a_table_and_another_name_for_a_metric_come_from_the_project_file(folder):
    assert call(folder, "init", "runs").status == 0
    with (folder / "epsopt.toml").open("a") as file:
        file.write('[runs]\ntable = "runs.csv"\n[metrics.rename]\n"val/acc" = "accuracy"\ntop1 = "accuracy"\n')
    (folder / "runs.csv").write_text("path,param.seed,metric.size\nrun_0,3,1.5\nnowhere,4,1\n")
    document = call(folder, "ingest", "--json").document
    assert document["catalogue"]["metrics"] == ["accuracy", "size"]
    assert list(document["unmatched"].values()) == [1]
    assert "1 row of table" in call(folder, "ingest").out


def test_a_table_that_is_not_there_is_one_sentence_and_makes_no_database(folder):
    result = call(folder, "ingest", "runs", "--table", "none.csv")
    assert result.status == 2
    assert "none.csv" in result.err
    assert "Traceback" not in result.err
    assert not (folder / "epsopt.db").exists()


def test_a_study_that_is_not_there_is_one_sentence(folder):
    result = call(folder, "ingest", "runs", "--study", "sqlite:///old.db#a")
    assert result.status == 2
    assert "there is no such database" in result.err
    assert json.dumps(sorted(p.name for p in folder.iterdir())) == '["runs"]'
