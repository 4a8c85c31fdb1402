"""A hyperparameter that was renamed between past runs is one, and nothing of that happens without a word."""

from __future__ import annotations

import torch

from epsopt.studies import load_project
from epsopt.zoo import Catalogue

from .conftest import call, check


def runs_of_two_programs(folder):
    """Six old runs call it ``lr``, six newer ones ``optimizer.lr``."""
    for i in range(12):
        run = folder / "runs" / f"run_{i:02d}"
        run.mkdir(parents=True)
        said = {"lr": 0.01 * (i + 1)} if i < 6 else {"optimizer": {"lr": 0.01 * (i + 1)}}
        state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))}
        torch.save({"model": state, "epoch": 1, "metrics": {"acc": 0.5 + i / 30}, "config": said}, run / "epoch_1.pt")
    return folder


def test_init_writes_one_name_and_searches_one_hyperparameter(tmp_path):
    runs_of_two_programs(tmp_path)
    result = call(tmp_path, "init", "runs")
    assert "6 runs call lr what 6 others call optimizer.lr" in " ".join(result.out.split())
    project = load_project(tmp_path / "epsopt.toml")
    assert project.rename_hyperparameters == {"lr": "optimizer.lr"}
    assert [(p.name, p.low, p.high, p.optional) for p in project.space.parameters] == [
        ("optimizer.lr", 0.01, 0.12, False)
    ]
    check("init", call(tmp_path, "init", "runs", "--force", "--json").document)
    assert call(tmp_path, "ingest").status == 0
    with Catalogue(project.storage, **project.how_to_read) as catalogue:
        assert all(c.hyperparameters.keys() == {"optimizer.lr"} for c in catalogue.checkpoints())
        assert all(r.hyperparameters.keys() == {"optimizer.lr"} for r in catalogue.runs())
    document = call(tmp_path, "doctor", "--json").document
    assert document["renamed"] == []
    assert [p["name"] for p in document["parameters"]] == ["optimizer.lr"]


def test_ingest_and_doctor_name_the_line_to_add_where_the_project_file_has_none(tmp_path):
    runs_of_two_programs(tmp_path)
    toml = tmp_path / "epsopt.toml"
    toml.write_text('[project]\nruns = "runs"\n\n[objectives.acc]\ndirection = "maximize"\n')
    lines = '  [hyperparameters.rename]\n  lr = "optimizer.lr"\n'
    assert lines in call(tmp_path, "ingest").out
    result = call(tmp_path, "doctor")
    assert lines in result.out
    assert "lr in 6 runs, optimizer.lr in 6" in " ".join(result.out.split())
    check("doctor", call(tmp_path, "doctor", "--json").document)
    toml.write_text(toml.read_text() + "\n" + lines)
    assert "[hyperparameters.rename]" not in call(tmp_path, "doctor").out  # no new ingest is needed


def test_a_name_that_leads_to_another_renamed_one_is_refused(tmp_path):
    runs_of_two_programs(tmp_path)
    (tmp_path / "epsopt.toml").write_text('[hyperparameters.rename]\na = "b"\nb = "c"\n')
    assert "name the last one at once" in call(tmp_path, "doctor").err
