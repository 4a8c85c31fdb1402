"""The commands on runs that say everything in files beside their checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from epsopt.cli.resolve_checkpoint import named
from epsopt.zoo import Catalogue
from epsopt.zoo.errors import UsageError

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


def test_ingest_says_once_for_each_metric_how_often_it_was_not_finite_and_what_that_means(folder):
    (folder / "runs" / "run_0" / "metrics.csv").write_text("epoch,val/acc,loss\n1,nan,1e308\n2,inf,0.5\n")
    (folder / "runs" / "run_1" / "metrics.csv").write_text("epoch,val/acc,loss\n1,-inf,1\n2,0.5,1\n")
    shown = call(folder, "ingest", "runs")
    assert "Not finite (NaN, infinite, or 1e300 and more), and so not measured there:" in shown.out
    assert "  loss: on 1 checkpoint of 1 run\n  val/acc: on 3 checkpoints of 2 runs\n" in shown.out
    done = call(folder, "ingest", "runs", "--json")
    check("ingest", done.document)
    assert done.document["not_finite"] == [
        {"metric": "loss", "checkpoints": 1, "runs": 1}, {"metric": "val/acc", "checkpoints": 3, "runs": 2}
    ]  # fmt: skip


def test_ingest_names_the_runs_whose_weights_are_nan(folder):
    broken = {"model": {"w": torch.full((4, 4), torch.nan)}, "epoch": 2}
    torch.save(broken, folder / "runs" / "run_1" / "checkpoints" / "epoch_2.pt")
    done = call(folder, "ingest", "runs", "--storage", "sqlite:///other.db", "--json")
    check("ingest", done.document)
    assert done.document["nan_weights"] == {"run_1": 1}
    assert "Weights are NaN, and nothing is learned from them: run_1 (1 checkpoint)." in call(
        folder, "ingest", "runs"
    ).out  # fmt: skip


def test_a_second_ingest_and_doctor_name_nan_weights_too(folder):
    broken = {"model": {"w": torch.full((4, 4), torch.nan)}, "epoch": 2}
    torch.save(broken, folder / "runs" / "run_1" / "checkpoints" / "epoch_2.pt")
    call(folder, "ingest", "runs")
    again = call(folder, "ingest", "runs", "--json").document
    assert again["added"] == 0
    assert again["nan_weights"] == {"run_1": 1}
    found = call(folder, "doctor", "--json").document
    check("doctor", found)
    assert found["nan_weights"] == {"run_1": 1}
    assert "Weights are NaN, and nothing is learned from them: run_1 (1 checkpoint)." in call(folder, "doctor").out


def test_doctor_says_what_was_not_taken_from_logs_and_what_checkpoints_contradict(folder):
    run = folder / "runs" / "run_1"
    torch.save({"model": {"other": torch.ones(3, 3)}, "epoch": 2}, run / "checkpoints" / "critic_2.pt")
    torch.save({"model": {"w": torch.ones(4, 4)}, "epoch": 3, "config": {"lr": 0.75}}, run / "checkpoints" / "3.pt")
    torch.save({"model": {"w": torch.zeros(4, 4)}, "epoch": 4, "config": {"lr": 0.5}}, run / "checkpoints" / "4.pt")
    (run / "metrics.csv").write_text("epoch,val/acc,loss\n2,0.5,0.5\n")
    said = [f["reason"] for f in call(folder, "ingest", "runs", "--json").document["side_file_failures"]]
    assert sum("different networks of one moment" in reason for reason in said) == 1
    found = call(folder, "doctor", "--json").document
    check("doctor", found)
    assert {f["reason"] for f in found["not_taken"]} == set(said)
    shown = " ".join(call(folder, "doctor").out.split())
    assert "Not taken:" in shown
    assert "lr (0.75 in 3.pt, 0.5 here)" in shown


def test_runs_of_one_name_are_called_by_their_folders(folder):
    (folder / "runs").rename(folder / "monday")
    for run in (0, 1):
        place = folder / "tuesday" / f"run_{run}"
        place.mkdir(parents=True)
        for epoch in (1, 2):
            weights = {"w": torch.randn(4, 4, generator=torch.Generator().manual_seed(90 + 10 * run + epoch))}
            said = {"metrics": {"val/acc": 0.9 + run / 20 + epoch / 100}, "config": {"lr": 0.75}, "epoch": epoch}
            torch.save({"model": weights, **said}, place / f"epoch_{epoch}.pt")
    assert call(folder, "init", "monday").status == 0
    for day in ("monday", "tuesday"):
        assert call(folder, "ingest", day).status == 0
    shown = call(folder, "pareto", "--json")
    assert shown.status == 0, shown.err
    assert "tuesday/run_1" in shown.out
    assert "monday/run_1" not in shown.out
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        known = catalogue.checkpoints()
    assert named("tuesday/run_1:2", known).path == str(folder / "tuesday" / "run_1" / "epoch_2.pt")
    with pytest.raises(UsageError, match="run_1 may be one of 2 runs: monday/run_1, tuesday/run_1: write more"):
        named("run_1", known)


def test_init_and_ingest_take_them_as_they_are(folder):
    made = call(folder, "init", "runs", "--json")
    assert made.status == 0, made.err
    check("init", made.document)
    assert (made.document["n_runs"], made.document["space"]) == (2, ["lr"])
    assert [o["name"] for o in made.document["objectives"]] == ["val/acc"]
    done = call(folder, "ingest", "--json")
    assert done.status == 0, done.err
    check("ingest", done.document)
    assert (done.document["layouts"], done.document["refreshed_runs"]) == ({"plain": 2}, 2)
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


def test_ingest_names_a_run_that_was_copied_and_counts_it(tmp_path):
    for epoch in (1, 2):
        (tmp_path / "runs" / "first").mkdir(parents=True, exist_ok=True)
        state = {"w": torch.full((4, 3), float(epoch))}
        torch.save(
            {"model": state, "epoch": epoch, "metrics": {"loss": 1.0}}, tmp_path / f"runs/first/epoch_{epoch}.pt"
        )
    shutil.copytree(tmp_path / "runs" / "first", tmp_path / "runs" / "second")
    shown = call(tmp_path, "ingest", "runs")
    assert shown.status == 0, shown.err
    assert "1 run is a copy of others, and learned from once:" in " ".join(shown.out.split())
    assert "  second: 2 checkpoints, all of them in first" in shown.out.splitlines()
    document = call(tmp_path, "ingest", "runs", "--json").document
    check("ingest", document)
    assert document["copies"] == [{"run": "second", "of": "first", "checkpoints": 2}]
