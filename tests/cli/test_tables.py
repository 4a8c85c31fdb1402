"""Tables fit into 80 columns and say what they must."""

from __future__ import annotations

import pytest

from .test_documents import NAMES, cases


@pytest.mark.parametrize("command", NAMES)
def test_tables_fit_into_80_columns(project, command):
    result = project(*cases(project)[command])
    assert result.status == 0, result.err
    assert result.out.strip()
    for line in result.out.splitlines():
        assert len(line) <= 80 or str(project.runs) in line or ".db" in line, line


def test_search_says_what_is_predicted_and_what_was_measured(project):
    result = project("search", "--target-coverage", "0.3", "-n", "3")
    assert "predicted, not evaluated" in result.out
    assert "90 % interval" in result.out
    assert "≥ 0.3" in result.out
    assert "measured checkpoints meet all targets" in result.out or "holds no measured checkpoint" in result.out
    assert "epsopt dashboard" in result.out
    document = project("search", "--target-coverage", "0.3", "-n", "3", "--json").document
    assert document["answers"][0]["nearest"][0]["path"] in result.out


def test_search_says_that_the_data_holds_none(project):
    result = project("search", "--target-rad-hier", "-7", "--target-coverage", "1")
    assert result.status == 0
    assert "The data holds no measured checkpoint" in result.out


def test_only_hyperparameters_that_vary_are_named(project):
    out = project("nearest", "run_000:2").out
    assert "lr " in out
    assert "projection" not in out
    assert "seed" not in out


def test_pareto_counts_what_it_leaves_out(project):
    document = project("pareto", "--json").document
    front = document["front"]
    assert 0 < len(front) <= document["n_checkpoints"] == 28
    best = max(c["metrics"]["coverage"] for c in front)
    assert front[0]["metrics"]["coverage"] == best
    assert document["n_left_out"] == 0


def test_pareto_of_one_objective_is_its_best(project):
    document = project("pareto", "--objective", "rad_hier", "--json").document
    everything = project("pareto", "--json").document
    assert len(document["front"]) == 1
    lowest = min(c["metrics"]["rad_hier"] for c in everything["front"])
    assert document["front"][0]["metrics"]["rad_hier"] == lowest


def test_a_known_file_is_its_own_nearest_checkpoint(project):
    document = project("predict", project.runs / "run_001" / "epoch_002.pt", "--json").document
    only = document["predictions"][0]
    assert only["nearest"]["path"] == only["path"]
    assert only["nearest"]["distance"] < 1e-3
    assert only["in_trust_region"]
    assert only["known_architecture"]


def test_an_unknown_architecture_is_refused(project, tmp_path):
    import torch

    odd = tmp_path / "odd.pt"
    torch.save({"model": {"weight": torch.randn(6, 5), "bias": torch.randn(6)}}, odd)
    result = project("predict", odd)
    assert result.status == 1
    assert "Not predicted: its architecture (tensor names and shapes) is not the one that the map" in " ".join(
        result.out.split()
    )
    document = project("predict", odd, project.runs / "run_001" / "epoch_002.pt", "--json").document
    refused = {p["path"]: p["refused"] for p in document["predictions"]}
    assert "architecture" in refused.pop(str(odd))
    assert set(refused.values()) == {None}, "the others are predicted, and the status is 0"
    values = next(p["predicted"] for p in document["predictions"] if p["refused"])
    assert all(v == {"value": None, "low": None, "high": None} for v in values.values())
    assert "latent distances say little" in " ".join(project("nearest", odd).out.split())
    refusal = project("embed", odd)
    assert refusal.status != 0
    assert "cannot be predicted: its architecture" in " ".join(refusal.err.split())


def test_nearest_takes_files_runs_epochs_and_hashes(project):
    by_epoch = project("nearest", "run_002:3", "--json").document
    assert project("nearest", "run_002", "--json").document == by_epoch
    assert project("nearest", by_epoch["sha256"][:12], "--json").document == by_epoch
    assert project("nearest", project.runs / "run_002" / "epoch_003.pt", "--json").document == by_epoch
    assert by_epoch["sha256"] not in [n["sha256"] for n in by_epoch["nearest"]]


def test_nearest_takes_one_checkpoint_of_each_run(project):
    found = project("nearest", "run_002:3", "--one-per-run", "-k", "6", "--json").document["nearest"]
    assert len({n["run"] for n in found}) == len(found) == 6


def test_shell_lines_are_arguments_of_the_train_command(project, copy):
    import shlex

    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    text = file.read_text()
    head, space, rest = text.partition("[space.")
    tail = rest[rest.index("# How one run") :]
    command = 'command = ["{python}", "train it.py", "--out", "{out}", "--lr={lr}", ["--scale", "{encoder_lr_scale}"]]'
    file.write_text(f"{head}{tail}\n[train]\n{command}\n" if space else text)
    result = mine("propose", "-n", "3", "--format", "shell")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) == 6
    for number, (comment, line) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        assert comment.startswith(f"# proposal {number}, predicted: coverage ")
        assert shlex.split(comment, comments=True) == []
        arguments = shlex.split(line)
        assert arguments[1:3] == ["train it.py", "--out"]
        assert any(a.startswith("--lr=") for a in arguments)
    assert "inferred" in mine("propose", "-n", "1").out
    assert result.err.startswith("note: The search space is inferred from ")
    assert "lr: float from" in " ".join(result.err.split())


def test_shell_needs_a_train_command(project):
    result = project("propose", "--format", "shell")
    assert result.status == 2
    assert "[train]" in result.err
