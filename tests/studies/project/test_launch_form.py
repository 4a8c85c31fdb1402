"""How runs were launched is read from what Hydra wrote beside them, or from the program that parses arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from epsopt.optimize import Parameter
from epsopt.studies.project.launch_form import epochs_option, folder_name, launch_form, unseen_arguments
from epsopt.studies.project.train_command import render_command

LR = Parameter("optimizer.lr", "float", 1e-4, 1e-1, log=True)
MOMENTUM = Parameter("optimizer.momentum", "float", 0.5, 0.9, active_when=("optimizer", ("sgd",)))
GROUP = Parameter("model/encoder", "categorical", choices=("small", "wide"))


@pytest.fixture
def hydra(tmp_path):
    """Two runs as Hydra leaves them; the second was launched with a key that the configuration lacks."""
    (tmp_path / "fit.py").write_text("import hydra\n")
    files = []
    for i, more in enumerate(("", "- +extra=1\n")):
        run = tmp_path / "outputs" / f"08-15-0{i}"
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "config.yaml").write_text(
            "optimizer: {lr: 0.1, momentum: 0.9}\nmodel: {encoder: {width: 4}}\nseed: 0\nextra: 1\n"
        )
        (run / ".hydra" / "overrides.yaml").write_text(
            f"- optimizer.lr=0.{i}\n- trainer.max_epochs=4\n- hydra.job.chdir=false\n- seed={i}\n{more}"
        )
        (run / ".hydra" / "hydra.yaml").write_text(
            f"hydra: {{job: {{name: fit}}, runtime: {{cwd: {tmp_path}, choices: {{model/encoder: small, "
            "hydra/launcher: basic}}}\n"
        )
        files.append(run / "logs" / "version_0" / "checkpoints" / "epoch=1.ckpt")
    return files


def test_runs_of_hydra_are_launched_by_overrides(hydra, tmp_path):
    form = launch_form(hydra, tmp_path)
    assert (form.kind, form.script, form.cwd) == ("hydra", "fit.py", tmp_path)
    assert form.sets("model/encoder")
    assert not form.sets("lr")
    command, unknown = form.command([LR, MOMENTUM, GROUP, Parameter("extra", "int", 1, 3)], {"seed": None})
    assert unknown == []
    assert command == (
        "{python}", "fit.py", "hydra.run.dir={out}", "trainer.max_epochs=4", "optimizer.lr={optimizer.lr}",
        ("optimizer.momentum={optimizer.momentum}",), "model/encoder={model/encoder}", "+extra={extra}",
        "seed={seed}", ("trainer.max_epochs={epochs}",),
    )  # fmt: skip


def test_arguments_are_spelled_as_the_program_parses_them(tmp_path):
    (tmp_path / "plot.py").write_text('parser.add_argument("--title")\n')
    (tmp_path / "finetune.py").write_text(
        'add("--learning_rate"), add("--weight-decay"), add("--output-dir"), add("--num-workers"), add("--epochs")\n'
    )
    form = launch_form([tmp_path / "runs" / "a" / "last.pt"], tmp_path)
    parameters = [Parameter("learning_rate", "float"), Parameter("weight_decay", "float")]
    command, unknown = form.command(parameters, {}, {"epochs": 5, "num_workers": 2, "note": "x"})
    assert unknown == []
    assert command == (
        "{python}", "finetune.py", "--output-dir", "{out}", "--learning_rate", "{learning_rate}",
        "--weight-decay", "{weight_decay}", "--epochs", "5", "--num-workers", "2", ("--epochs", "{epochs}"),
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["--max_epochs", "--num-train-epochs"])
def test_epochs_are_given_by_the_name_that_the_program_has_for_them(tmp_path, flag):
    (tmp_path / "train.py").write_text(f'add("--lr"), add("--out"), add("{flag}")\n')
    form = launch_form([tmp_path / "runs" / "a" / "last.pt"], tmp_path)
    assert form.command([Parameter("lr", "float")], {})[0][-1] == (flag, "{epochs}")
    own = flag.strip("-").replace("-", "_")
    assert (flag, "{epochs}") not in form.command([Parameter(own, "int", 1, 9)], {})[0]


def test_a_number_of_steps_is_never_given_as_epochs(tmp_path):
    (tmp_path / "train.py").write_text('add("--lr"), add("--out"), add("--epochs"), add("--max_steps")\n')
    form = replace(launch_form([tmp_path / "runs" / "a" / "model.safetensors"], tmp_path), counts_steps=True)
    assert form.command([Parameter("lr", "float")], {})[0][-1] == ("--max_steps", "{epochs}")
    form = replace(form, text=form.text.replace('add("--max_steps")', ""))
    assert form.command([Parameter("lr", "float")], {})[0][-1] == "{lr}"
    assert epochs_option(("{python}", "train.py", ("--num-train-epochs", "{epochs}"))) == "--num-train-epochs"
    assert epochs_option(("{python}", "train.py", "trainer.max_epochs={epochs}")) == "trainer.max_epochs"
    assert epochs_option(("{python}", "train.py", "--epochs", "3", ("--max_steps", "{epochs}"))) is None


def test_what_a_trainer_logs_is_given_by_the_name_that_the_program_has_for_it(tmp_path):
    (tmp_path / "train.py").write_text('add("--lr"), add("--batch-size"), add("--out"), add("--epochs")\n')
    form = launch_form([tmp_path / "runs" / "a" / "model.safetensors"], tmp_path)
    parameters = [Parameter(n, "float") for n in ("learning_rate", "train_batch_size", "num_train_epochs")]
    command, unknown = form.command(parameters, {})
    assert (command[4::2], command[5::2], unknown) == (
        ("--lr", "--batch-size", "--epochs"), ("{learning_rate}", "{train_batch_size}", "{num_train_epochs}"), []
    )  # fmt: skip


def test_the_epochs_of_a_configuration_of_hydra_are_set_by_an_override(hydra, tmp_path):
    for file in hydra:
        folder = next(parent / ".hydra" for parent in file.parents if (parent / ".hydra").is_dir())
        (folder / "overrides.yaml").write_text("- optimizer.lr=0.1\n")
        config = folder / "config.yaml"
        config.write_text(config.read_text() + "trainer: {max_epochs: 5}\n")
    form = launch_form(hydra, tmp_path)
    assert form.command([LR], {})[0][-1] == ("trainer.max_epochs={epochs}",)
    searched = form.command([LR, Parameter("trainer.max_epochs", "int", 1, 9)], {})[0]
    assert ("trainer.max_epochs={epochs}",) not in searched


def test_what_the_program_does_not_parse_is_named(tmp_path):
    (tmp_path / "train.py").write_text('add("--lr"), add("--out")\n')
    form = launch_form([tmp_path / "runs" / "a" / "last.pt"], tmp_path)
    assert form.command([Parameter("lr", "float"), Parameter("depth", "int", 1, 3)], {})[1] == ["--depth"]


def test_a_program_that_makes_the_folder_itself_is_given_its_name(tmp_path):
    (tmp_path / "train.py").write_text('add("--lr"), add("--run-name")\n')
    runs = tmp_path / "experiments"
    files = [runs / name / "model.pth" for name in ("a", "b")]
    said = [{"lr": 0.1, "run_name": "a"}, {"lr": 0.2, "run_name": "b"}]
    assert folder_name(said, files, runs) == "run_name"
    assert folder_name([said[0], {**said[1], "run_name": "c"}], files, runs) is None
    assert folder_name(said, files, tmp_path / "elsewhere") is None
    form = replace(launch_form(files, tmp_path), named_by="run_name")
    command, unknown = form.command([Parameter("lr", "float")], {})
    assert (command[2:4], unknown) == (("--run-name", "{out_name}"), [])
    assert render_command(command, {"lr": 0.1}, runs / "proposal_003")[2:4] == ["--run-name", "proposal_003"]


def _unseen(folder, text, *options):
    (folder / "train.py").write_text(text)
    return unseen_arguments(("{python}", "train.py", *options), folder)


def test_an_option_that_the_program_calls_otherwise_is_named_before_a_run_is_launched(tmp_path):
    text = 'add("--out"), add("--learning_rate"), add("--weight-decay")\n'
    found = _unseen(tmp_path, text, "--out", "{out}", "--lr", "{lr}", ("--weight_decay={weight_decay}",))
    assert found == ("train.py", ["--lr"])


def test_nothing_is_said_of_options_that_are_made_elsewhere(tmp_path):
    options = ("--out", "{out}", "--lr", "{lr}", "--depth", "{depth}")
    assert _unseen(tmp_path, "args = HfArgumentParser(Config).parse()  # --out\n", *options)[1] == []
    assert unseen_arguments(("{python}", "-m", "package.train", *options), tmp_path) == ("", [])
    assert unseen_arguments(("{python}", "gone.py", *options), tmp_path) == ("", [])


def test_without_any_program_a_usual_one_is_proposed(tmp_path):
    form = launch_form([], tmp_path)
    assert form.command([Parameter("lr", "float")], {})[0][:4] == ("{python}", "train.py", "--out", "{out}")
