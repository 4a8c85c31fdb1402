"""What `epsopt init` guesses of runs, and what it says of what it leaves out."""

from __future__ import annotations

import pytest
import torch

from .conftest import call, check


@pytest.fixture
def runs(tmp_path):
    """Five runs of plain PyTorch with a test score at their ends; the last one diverged at a learning rate of 1000."""
    for i, lr in enumerate((1e-4, 1e-3, 3e-3, 1e-2, 1000.0)):
        (tmp_path / "runs" / f"run_{i}").mkdir(parents=True)
        for epoch in (1, 2, 3):
            metrics = {"val_loss": float("nan") if lr > 1 else 1 / epoch + lr}
            metrics |= {"test_accuracy": 0.5 + i / 10} if epoch == 3 else {}
            state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * i + epoch))}
            said = {"epoch": epoch, "metrics": metrics, "config": {"lr": lr, "seed": i}}
            torch.save({"model_state_dict": state, **said}, tmp_path / "runs" / f"run_{i}" / f"epoch_{epoch}.pt")
    return tmp_path / "runs"


def words(text):
    return " ".join(text.split())


def test_a_test_score_of_the_ends_alone_is_left_out_and_named(runs):
    result = call(runs.parent, "init", runs, "--json")
    assert result.status == 0, result.err
    check("init", result.document)
    assert [(o["name"], o["at_ends"]) for o in result.document["objectives"]] == [("val_loss", False)]
    assert {"name": "test_accuracy", "reason": "ends"} in result.document["metrics_left_out"]
    text = words(call(runs.parent, "init", runs, "--force").out)
    assert "No objective by guess: test_accuracy (measured at the ends of runs alone" in text
    assert "Measured at the ends of runs alone, where others are measured along the way: test_accuracy." in (
        runs.parent / "epsopt.toml"
    ).read_text(encoding="utf-8")


def test_a_test_score_that_is_asked_for_is_an_objective_and_its_cost_is_said(runs):
    result = call(runs.parent, "init", runs, "--maximize", "test_accuracy")
    assert result.status == 0, result.err
    assert "Only the ends of runs have test_accuracy: fronts then hold last checkpoints alone" in words(result.out)
    assert 'direction = "maximize" # only the ends of runs have it' in (runs.parent / "epsopt.toml").read_text()


def test_metrics_that_were_named_can_be_all_objectives(runs):
    guessed = call(runs.parent, "init", runs, "--json").document
    name, *others = [o["name"] for o in guessed["objectives"]]
    document = call(runs.parent, "init", runs, "--force", "--maximize", name, "--only", "--json").document
    check("init", document)
    assert [o["name"] for o in document["objectives"]] == [name]
    left_out = {entry["name"]: entry["reason"] for entry in document["metrics_left_out"]}
    assert {*others} <= {*left_out}
    assert {*left_out.values()} == {"unasked"}
    assert document["undecided"] == []
    refused = call(runs.parent, "init", runs, "--force", "--only")
    assert refused.status == 2
    assert "--only leaves no objective" in refused.err


def test_the_learning_rate_of_a_run_that_diverged_is_no_end_of_the_range_and_is_named(runs):
    result = call(runs.parent, "init", runs, "--json")
    assert result.document["beyond"] == [{"name": "lr", "values": [1000.0]}]
    assert "high = 0.01\n" in (runs.parent / "epsopt.toml").read_text()
    text = words(call(runs.parent, "init", runs, "--force").out)
    assert "The range of lr leaves out 1000: only runs that diverged had it." in text


def test_the_proposed_train_command_passes_a_seed_on_where_runs_have_one(runs):
    assert call(runs.parent, "init", runs).status == 0
    assert '#     "--seed",\n#     "{seed}",\n' in (runs.parent / "epsopt.toml").read_text()


def test_metrics_that_no_network_of_a_moment_has_are_said_to_be_nobodys(tmp_path):
    for i in range(2):
        run = tmp_path / "runs" / f"run_{i}"
        run.mkdir(parents=True)
        for name, width in (("actor", 4), ("critic", 5)):
            torch.save({"w": torch.randn(width, 3), "b": torch.randn(width)}, run / f"{name}_1.pt")
        (run / "metrics.csv").write_text("epoch,reward\n1,0.5\n")
    result = call(tmp_path, "init", tmp_path / "runs", "--json")
    check("init", result.document)
    assert [(o["name"], o["unnamed_model"]) for o in result.document["objectives"]] == [("reward", True)]
    text = words(call(tmp_path, "init", tmp_path / "runs", "--force").out)
    assert "No checkpoint has reward until weights_key under [runs] names the network that the log speaks of" in text
    assert "measured once weights_key under [runs] names the network" in (tmp_path / "epsopt.toml").read_text()


def test_a_metric_that_was_renamed_on_the_way_is_one_objective(tmp_path):
    for i in range(3):
        run = tmp_path / "runs" / f"run_{i}"
        run.mkdir(parents=True)
        for epoch in (1, 2, 3, 4):
            metrics = {("val_acc" if epoch < 3 else "val/acc"): 0.5 + i / 10, "val_loss": 1.0 / epoch}
            state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * i + epoch))}
            torch.save({"model": state, "epoch": epoch, "metrics": metrics}, run / f"epoch_{epoch}.pt")
    result = call(tmp_path, "init", tmp_path / "runs", "--json")
    check("init", result.document)
    assert [o["name"] for o in result.document["objectives"]] == ["val/acc", "val_loss"]
    assert result.document["renamed_metrics"] == {"val_acc": "val/acc"}
    assert call(tmp_path, "ingest").status == 0
    front = call(tmp_path, "pareto", "--json").document
    assert (front["n_checkpoints"], front["n_left_out"]) == (12, 0)


def test_objectives_that_no_checkpoint_has_together_are_said(tmp_path):
    for i in range(2):
        (tmp_path / "runs" / f"run_{i}").mkdir(parents=True)
        name = "val_acc" if i else "val_accuracy"
        state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))}
        torch.save({"model": state, "epoch": 1, "metrics": {name: 0.5}}, tmp_path / "runs" / f"run_{i}" / "epoch_1.pt")
    said = "No checkpoint has both val_acc and val_accuracy, so none is on a front"
    assert said in words(call(tmp_path, "init", tmp_path / "runs").out)
    assert call(tmp_path, "ingest").status == 0
    assert said in words(call(tmp_path, "pareto").out)
    assert said in words(call(tmp_path, "doctor").out)
    document = call(tmp_path, "doctor", "--json").document
    check("doctor", document)
    assert len(document["doubts"]) == 1


def test_doctor_names_what_lies_beside_checkpoints_without_metrics(tmp_path):
    for i in range(3):
        (tmp_path / "runs" / f"run_{i}").mkdir(parents=True)
        state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))}
        torch.save({"model": state, "epoch": 1}, tmp_path / "runs" / f"run_{i}" / "epoch_1.pt")
        (tmp_path / "runs" / f"run_{i}" / "all_values.csv").write_text("after,acc\n1,0.5\n")
    assert call(tmp_path, "init", tmp_path / "runs").status == 0
    assert "not read there: all_values.csv (in 3 runs)" in words(call(tmp_path, "ingest").out)
    assert "not read under these names: all_values.csv (in 3 runs)" in words(call(tmp_path, "doctor").out)
    document = call(tmp_path, "doctor", "--json").document
    check("doctor", document)
    assert document["unread"] == [{"name": "all_values.csv", "runs": 3}]


def test_logs_that_were_not_taken_are_what_a_map_lacks(tmp_path):
    for i in range(3):
        run = tmp_path / "runs" / f"run_{i}"
        run.mkdir(parents=True)
        torch.save({"model": {"w": torch.randn(4, 3)}}, run / "best.pt")
        (run / "metrics.csv").write_text("epoch,acc\n1,0.5\n2,0.6\n")
    assert call(tmp_path, "init", tmp_path / "runs").status == 0
    said = words(call(tmp_path, "ingest").out)
    assert f"what keeps {tmp_path}/runs/run_0/metrics.csv from being used" in said
    assert "Not taken:" in call(tmp_path, "doctor").out


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["loss"], '[objectives."loss"] direction = "minimize"'),
        (["lr", "val_acc"], '[objectives."val_acc"] direction = "maximize"'),
        (["odd"], '[objectives."odd"] direction = "maximize"'),
    ],
)
def test_the_doctor_s_line_names_an_objective_in_the_direction_that_its_name_tells(tmp_path, names, line):
    for i in range(3):
        (tmp_path / "runs" / f"run_{i}").mkdir(parents=True)
        state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))}
        measured = dict.fromkeys(names, 0.5 + i / 10)
        torch.save({"model": state, "epoch": 1, "metrics": measured}, tmp_path / "runs" / f"run_{i}" / "epoch_1.pt")
    (tmp_path / "epsopt.toml").write_text('[project]\nruns = "runs"\n')
    assert call(tmp_path, "ingest").status == 0
    readiness = call(tmp_path, "doctor", "--json").document["readiness"]
    assert line in [remedy for needs in readiness for remedy in needs["remedies"]]


@pytest.fixture
def with_a_constant(tmp_path):
    """Three runs whose top-5 accuracy is 100 everywhere."""
    for i in range(3):
        (tmp_path / "runs" / f"run_{i}").mkdir(parents=True)
        for epoch in (1, 2):
            measured = {"eval_loss": 1 / epoch + i / 10, "eval_top5": 100.0}
            state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * i + epoch))}
            said = {"epoch": epoch, "metrics": measured, "config": {"lr": 10.0**-i}}
            torch.save({"model": state, **said}, tmp_path / "runs" / f"run_{i}" / f"epoch_{epoch}.pt")
    return tmp_path


def test_a_metric_of_one_value_is_no_objective_beside_one_that_varies(with_a_constant):
    result = call(with_a_constant, "init", with_a_constant / "runs", "--json")
    check("init", result.document)
    assert [o["name"] for o in result.document["objectives"]] == ["eval_loss"]
    assert result.document["metrics_left_out"] == [{"name": "eval_top5", "reason": "constant"}]
    said = "No objective by guess: eval_top5 (one value everywhere, so that a front with it has no hypervolume)"
    assert said in words(call(with_a_constant, "init", with_a_constant / "runs", "--force").out)


def test_an_objective_of_one_value_is_named_where_hypervolumes_are(with_a_constant):
    hook = "def measure(weights, context):\n    return {'eval_top5': 100.0, 'eval_loss': 1.0}\n"
    (with_a_constant / "constant_hook.py").write_text(hook)
    asked = call(
        with_a_constant, "init", "runs", "--maximize", "eval_top5", "--evaluate", "constant_hook:measure"
    )  # fmt: skip
    said = (
        "eval_top5 is 100 on all 6 measured checkpoints, so every hypervolume is 0: take its table under [objectives]"
    )
    assert "eval_top5 is 100 on all" in words(asked.out)
    assert call(with_a_constant, "ingest").status == 0
    for command in (["propose", "-n", "1"], ["report"], ["merge", "run_0:1", "run_1:1"]):
        assert said in words(call(with_a_constant, *command).err), command
    for command in ("doctor", "pareto"):
        assert said in words(call(with_a_constant, command).out), command
