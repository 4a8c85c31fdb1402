"""What runs start from is called the base only where it is declared, and epsopt.toml is asked to say it."""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import save_file

from epsopt.cli.init_from import start_text
from epsopt.cli.run_labels import RunLabels
from epsopt.optimize.objectives import Objective
from epsopt.studies.merge.warm_start_candidates import real_starts
from epsopt.studies.surrogate_store import load_map
from epsopt.zoo import Catalogue

from .conftest import call, check

LINE = '[lineage] base = "pretrained/base.pt"'


def test_a_base_that_only_the_runs_name_is_asked_for_until_the_project_names_it(tmp_path):
    weights = {"w": torch.randn(8, 8, generator=torch.Generator().manual_seed(0))}
    (tmp_path / "pretrained").mkdir()
    torch.save(weights, tmp_path / "pretrained" / "base.pt")
    for i in range(3):
        run = tmp_path / "runs" / f"r{i}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"lr: 0.{i + 1}\ninit_from: pretrained/base.pt\n")
        torch.save({"model": {"w": weights["w"] + 0.01 * i}, "accuracy": 0.5 + i / 10}, run / "epoch_1.pt")
    toml = tmp_path / "epsopt.toml"
    toml.write_text('[project]\nruns = "runs"\n\n[objectives.accuracy]\ndirection = "maximize"\n')
    elsewhere = tmp_path / "elsewhere"  # from here, the path in the runs' files leads nowhere
    elsewhere.mkdir()
    result = call(elsewhere, "ingest", "--project", toml)
    assert result.status == 0, result.err
    assert LINE in result.out
    asked = call(elsewhere, "doctor", "--project", toml)
    assert LINE in asked.out, asked.err
    assert "They name no base" not in asked.out
    document = call(elsewhere, "doctor", "--project", toml, "--json").document
    check("doctor", document)
    assert document["base_line"] == LINE
    toml.write_text(toml.read_text() + '\n[lineage]\nbase = "pretrained/base.pt"\n')
    assert LINE not in call(elsewhere, "ingest", "--project", toml).out
    assert "They start from" in call(elsewhere, "doctor", "--project", toml).out


def test_files_of_other_formats_are_among_what_the_doctor_says_was_not_read(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    torch.save({"model": {"w": torch.eye(3)}}, tmp_path / "runs" / "a" / "epoch_1.pt")
    (tmp_path / "runs" / "a" / "epoch_2.pt").write_bytes(b"no checkpoint")
    (tmp_path / "runs" / "a" / "scaler.pkl").write_bytes(b"\x80\x04N.")
    (tmp_path / "runs" / "m.onnx").write_bytes(b"")
    (tmp_path / "epsopt.toml").write_text('[project]\nruns = "runs"\n')
    counted = call(tmp_path, "ingest", "--json").document
    document = call(tmp_path, "doctor", "--json").document
    check("doctor", document)
    kinds = {f"{k['kind']}: {k['convert']}": k["count"] for k in counted["not_read"]}
    failed = {f["reason"]: 1 for f in counted["failed"]}
    assert len(kinds) == 2
    assert len(failed) == 1
    assert {k["reason"]: k["files"] for k in document["not_read"]} == kinds | failed
    assert "1 file: ONNX" in call(tmp_path, "doctor").out


def test_a_start_is_called_the_base_only_where_runs_or_the_project_name_it(project, monkeypatch):
    with Catalogue(f"sqlite:///{project.folder / 'epsopt.db'}") as catalogue:
        labels, surrogate = RunLabels.of(catalogue.checkpoints()), load_map(catalogue)[0]

        def named() -> dict[str, str]:
            starts = real_starts(surrogate.metric_names, catalogue, [Objective("coverage", True)])
            return {start_text(s, labels): s.kind for s in starts}

        assert named()["the base (base:0)"] == "base"
        found = [replace(lineage, declared=False) for lineage in catalogue.lineages()]
        monkeypatch.setattr(catalogue, "lineages", lambda: found)
        assert named()["base:0"] == "checkpoint"
        assert not any("the base" in said for said in named())


def test_the_doctor_says_what_is_wrong_with_the_base_that_the_project_names(tmp_path):
    weights = {"w": torch.randn(8, 8, generator=torch.Generator().manual_seed(0))}
    for i in range(3):
        run = tmp_path / "runs" / f"r{i}"
        run.mkdir(parents=True)
        torch.save({"model": {"w": weights["w"] + 0.01 * i}, "accuracy": 0.5 + i / 10}, run / "epoch_1.pt")
    toml = tmp_path / "epsopt.toml"
    toml.write_text('[project]\nruns = "runs"\n')
    assert call(tmp_path, "ingest").status == 0
    toml.write_text(toml.read_text() + '\n[lineage]\nbase = "models/base"\n')
    assert "is no file" in " ".join(call(tmp_path, "doctor").out.split())
    assert "is no file" in call(tmp_path, "ingest").err
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert "is a folder without a checkpoint" in call(tmp_path, "ingest").err
    # As save_pretrained writes it: the folder stands for the model in it.
    save_file(weights, tmp_path / "models" / "base" / "model.safetensors")
    (tmp_path / "models" / "base" / "config.json").write_text("{}")
    document = call(tmp_path, "doctor", "--json").document
    check("doctor", document)
    assert document["declared_base"].endswith("models/base/model.safetensors")
    assert "epsopt ingest" in document["base_lack"]
    assert call(tmp_path, "ingest").status == 0
    assert call(tmp_path, "doctor", "--json").document["base_lack"] is None
    assert "They start from models/base/model.safetensors" in call(tmp_path, "doctor").out
