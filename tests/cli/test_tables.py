"""Tables fit into 80 columns and say what they must."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

from .conftest import call
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
    assert "epsopt dashboard" in " ".join(result.out.split())
    document = project("search", "--target-coverage", "0.3", "-n", "3", "--json").document
    assert document["answers"][0]["nearest"][0]["path"] in result.out


def test_search_says_that_the_data_holds_none(project):
    result = project("search", "--target-rad-hier", "-7", "--target-coverage", "1")
    assert result.status == 0
    assert "The data holds no measured checkpoint" in result.out
    assert "Best measured: rad_hier" in " ".join(result.out.split())  # in all digits: a table's may look like a target


def test_only_hyperparameters_that_vary_are_named(project):
    short = project("nearest", "run_000:2").out
    assert "lr " not in short
    assert "--details prints their hyperparameters." in short
    out = project("nearest", "run_000:2", "--details").out
    assert "--details" not in out
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


def test_pareto_counts_as_measured_what_has_every_objective_and_says_what_is_counted_twice(tmp_path):
    for i, name in enumerate("abcd"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        measured = {"accuracy": i / 10} if name != "a" else {"other": 1.0}
        torch.save({"model": {"w": torch.eye(3) * (i + 1)}, **measured}, tmp_path / "runs" / name / "epoch_1.pt")
    (tmp_path / "runs" / "e").mkdir()
    shutil.copy(tmp_path / "runs" / "b" / "epoch_1.pt", tmp_path / "runs" / "e" / "epoch_1.pt")
    (tmp_path / "epsopt.toml").write_text('[project]\nruns = "runs"\n[objectives.accuracy]\ndirection = "maximize"\n')
    assert call(tmp_path, "ingest").status == 0
    shown = " ".join(call(tmp_path, "pareto").out.split())
    assert "1 of 4 measured checkpoints is beaten by no other" in shown
    assert "1 of them holds what another of them holds, and is counted in each run." in shown
    assert "1 other lacks an objective (not measured, or NaN) and is left out." in shown


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 0.5, 0.5, 0.1), "2 more measured exactly the same as it, and are not shown."),
        ((0.5, 0.5, 0.1, 0.1), "1 more measured exactly the same as it, and is not shown."),
    ],
    ids=["three", "two"],
)  # fmt: skip
def test_pareto_says_how_many_measured_exactly_the_same(tmp_path, values, expected):
    for i, value in enumerate(values):
        (tmp_path / "runs" / f"r{i}").mkdir(parents=True)
        torch.save({"model": {"w": torch.eye(3) + i}, "accuracy": value}, tmp_path / "runs" / f"r{i}" / "epoch_1.pt")
    (tmp_path / "epsopt.toml").write_text('[project]\nruns = "runs"\n[objectives.accuracy]\ndirection = "maximize"\n')
    assert call(tmp_path, "ingest").status == 0
    assert expected in " ".join(call(tmp_path, "pareto").out.split())


def test_bounds_that_were_declared_after_the_fit_are_said_to_be_unknown_to_the_map(project, copy):
    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    before = mine("search", "--no-record", "-n", "2")
    assert "does not know" not in before.err
    assert "\nbounds = [0.0, 1.0]" in file.read_text()
    file.write_text(file.read_text().replace("\nbounds = [0.0, 1.0]", "\nbounds = [0.0, 2.0]", 1))
    said = " ".join(mine("search", "--no-record", "-n", "2").err.split())
    assert "the map does not know that coverage is between 0 and 2, as epsopt.toml says: 'epsopt fit'" in said


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


def odd_file(file):
    torch.save({"model": {"weight": torch.randn(6, 5), "bias": torch.randn(6)}}, file)
    return file


def test_an_unknown_architecture_is_refused(project, tmp_path):
    odd = odd_file(tmp_path / "odd.pt")
    result = project("predict", odd)
    assert (result.status, result.out) == (1, ""), "one sentence, and no table of what is not predicted"
    assert result.err.count("\n") == 1
    assert f"no metrics of {odd} are predicted: its architecture (tensor names and shapes) is not the one" in result.err
    assert "the map was tested on no architecture that it had not seen; ingest runs like these" in result.err
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


def test_files_that_are_not_predicted_stand_below_the_table_of_the_others(project, tmp_path):
    odd = odd_file(tmp_path / "odd.pt")
    result = project("predict", odd, project.runs / "run_001" / "epoch_002.pt")
    assert result.status == 0
    table, _, below = result.out.partition("Predicted values are predicted")
    assert "[-, -]" not in table
    assert table.count("90 % interval") == 1
    assert f"1  {odd}\nNot predicted: its architecture" in below


def test_several_files_that_are_not_predicted_are_named_with_their_reasons(project, tmp_path):
    odd, same, broken = odd_file(tmp_path / "odd.pt"), odd_file(tmp_path / "same.pt"), tmp_path / "nan.pt"
    content = torch.load(project.runs / "run_001" / "epoch_002.pt")
    content["model_state_dict"] = {n: torch.full_like(t, torch.nan) for n, t in content["model_state_dict"].items()}
    torch.save(content, broken)
    result = project("predict", odd, same)
    assert (result.status, result.out) == (1, "")
    assert "no metrics of any of the 2 files are predicted, each for the same reason: its architecture" in result.err
    result = project("predict", odd, broken)
    assert result.status == 1
    assert f"{odd}\nNot predicted: its architecture" in result.out
    assert f"{broken}\nNot predicted: " in result.out
    assert "weights are NaN" in result.out
    assert "interval" not in result.out
    assert "no metrics of any of the 2 files are predicted, each for the reason that stands with it" in result.err
    alone = project("predict", broken)
    assert (alone.status, alone.out) == (1, "")
    assert alone.err.rstrip().endswith("weights are NaN"), "more runs of the kind would mend nothing"
    nearest = project("nearest", broken)
    assert (nearest.status, nearest.out) == (1, ""), "no table of distances that say nothing"
    assert nearest.err.rstrip().endswith("weights are NaN")


def test_a_file_that_measured_what_cannot_be_is_said_once_a_metric(project, tmp_path):
    for name, coverage in (("much.pt", 1.5), ("more.pt", 42.0), ("right.pt", 0.5)):
        content = torch.load(project.runs / "run_001" / "epoch_002.pt")
        torch.save(content | {"metrics": content["metrics"] | {"coverage": coverage}}, tmp_path / name)
    shown = " ".join(project("predict", tmp_path).out.split())
    assert "Careful: 2 files say a coverage outside of what the map takes it to be, between 0 and 1" in shown
    assert shown.count("outside of what the map takes it to be") == 1


def test_nearest_takes_files_runs_epochs_and_hashes(project):
    by_epoch = project("nearest", "run_002:3", "--json").document
    assert project("nearest", "run_002", "--json").document == by_epoch
    assert project("nearest", by_epoch["sha256"][:12], "--json").document == by_epoch
    assert project("nearest", project.runs / "run_002" / "epoch_003.pt", "--json").document == by_epoch
    assert by_epoch["sha256"] not in [n["sha256"] for n in by_epoch["nearest"]]


def test_a_run_is_named_by_its_folder_too(project):
    by_name = project("nearest", "run_002", "--json").document
    assert project("nearest", project.runs / "run_002", "--json").document == by_name
    assert project("nearest", f"{project.runs / 'run_002'}:3", "--json").document == by_name
    assert project("trajectory", project.runs / "run_002", "--json").document["run"] == "run_002"
    several = project("nearest", project.runs)
    assert several.status == 2
    assert re.search(r"runs holds \d+ runs: name one of them, such as ", several.err)


def test_a_run_that_is_not_there_brings_the_names_of_those_that_are(project):
    for command in ("nearest", "trajectory"):
        said = project(command, "somewhere").err
        assert "its runs are " in said
        assert "run_001" in said


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


def test_the_ends_of_a_way_between_checkpoints_are_shown_as_measured(project):
    way = ["interpolate", "run_000", "run_001", "--steps", "3"]
    result = project(*way)
    assert result.status == 0, result.err
    rows = [line.split()[1:] for line in result.out.splitlines() if line.split()[:1] == ["measured"]]
    document = project(*way, "--json").document
    names = list(document["steps"][0]["predicted"])
    ends = [[document[end]["metrics"][name] for name in names] for end in ("from", "to")]
    assert [[float(text) for text in row] for row in rows] == [pytest.approx(end, abs=6e-4) for end in ends]
