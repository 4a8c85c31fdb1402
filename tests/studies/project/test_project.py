from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space, Span
from epsopt.studies import load_project, render_command, write_project
from epsopt.studies.optuna_io.queue import ClaimedProposal
from epsopt.studies.project.metric_direction import LeftOut
from epsopt.studies.project.project import check_text
from epsopt.studies.project.train_command import takes_epochs
from epsopt.zoo.errors import UsageError

WHOLE = """
[project]
name = "ternary"
runs = "my runs"
storage = "sqlite:///records/epsopt.db"

[objectives.coverage]
direction = "maximize"
bounds = [0, 1]
[objectives.rad_hier]
direction = "minimize"

[space.encoder_lr_scale]
type = "float"
low = 0.001
high = 1
log = true
active_when = { param = "encoder", values = ["full"] }
[space.encoder]
type = "categorical"
choices = ["frozen", "full"]
[space.epochs]
type = "int"
low = 1
high = 10

[train]
command = ["{python}", "-m", "train", "--out", "{out}", "--encoder={encoder}", "--epochs", "{epochs}",
           ["--encoder-lr-scale", "{encoder_lr_scale}"]]
cwd = "code"

[hooks]
evaluate = "mine.hooks:evaluate"
"""


def project_from(folder: Path, text: str):
    (folder / "epsopt.toml").write_text(text)
    return load_project(folder)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        project_from(folder, text)
    message = str(caught.value)
    assert str(folder / "epsopt.toml") in message
    assert "\n" not in message
    return message


def test_a_whole_file_is_read_with_paths_relative_to_it(tmp_path):
    project = project_from(tmp_path, WHOLE)
    assert project.name == "ternary"
    assert project.runs == tmp_path / "my runs"
    assert project.storage == f"sqlite:///{tmp_path}/records/epsopt.db"
    assert project.cwd == tmp_path / "code"
    assert project.objectives == (Objective("coverage", True), Objective("rad_hier", False))
    assert project.bounds == {"coverage": (0.0, 1.0)}
    assert project.evaluate == "mine.hooks:evaluate"
    assert project.embed is None


def test_parents_come_before_children_whatever_their_order_in_the_file(tmp_path):
    space = project_from(tmp_path, WHOLE).space
    names = [p.name for p in space.parameters]
    assert names.index("encoder") < names.index("encoder_lr_scale")
    assert space.active({"encoder": "frozen", "epochs": 1}) == [
        p for p in space.parameters if p.name != "encoder_lr_scale"
    ]


def test_an_empty_file_is_a_project_with_defaults(tmp_path):
    project = project_from(tmp_path, "")
    assert (project.name, project.runs) == (tmp_path.name, tmp_path / "runs")
    assert project.storage == f"sqlite:///{tmp_path}/epsopt.db"
    assert (project.objectives, project.space, project.command) == ((), None, None)


@pytest.mark.parametrize("url", ["sqlite:////data/all.db", "postgresql+psycopg://me@host/runs", "sqlite:///:memory:"])
def test_an_absolute_database_stays_where_it_is(tmp_path, url):
    assert project_from(tmp_path, f'[project]\nstorage = "{url}"').storage == url


def test_the_file_is_found_from_a_folder_below_it(tmp_path, monkeypatch):
    (tmp_path / "epsopt.toml").write_text(WHOLE)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert load_project().file == tmp_path / "epsopt.toml"


def test_without_a_file_the_error_says_how_to_write_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="epsopt init"):
        load_project()
    for missing in (tmp_path / "none.toml", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"there is no such project file: .* 'epsopt init RUNS'") as caught:
            load_project(missing)
        assert str(missing) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[project]\nrun = 'x'", ["project.run", "did you mean runs?"]),
        ("[projct]\nname = 'x'", ["projct", "did you mean project?"]),
        (
            "[objectives.a]\ndirection = 'max'",
            ["objectives.a.direction", "'maximize' or 'minimize'", "'max'"],
        ),
        ("[objectives.a]", ["objectives.a.direction", "required"]),
        (
            "[objectives.a]\ndirection = 'maximize'\nbound = [0, 1]",
            ["objectives.a.bound", "did you mean bounds?"],
        ),
        (
            "[objectives.a]\ndirection = 'maximize'\nbounds = [1, 0]",
            ["objectives.a.bounds", "low below high"],
        ),
        ("[objectives.a]\ndirection = 'maximize'\nbounds = [nan, 1]", ["objectives.a.bounds", "low below high"]),
        ("[space.x]\ntype = 'float'\nlow = '1e-3'\nhigh = 1", ["space.x.low", "number", "1e-3"]),
        ("[space.x]\ntype = 'float'\nlow = 1", ["space.x", "needs low and high"]),
        ("[space.x]\ntype = 'float'\nlow = 2\nhigh = 1", ["space.x", "low <= high"]),
        ("[space.x]\ntype = 'float'\nlow = 0\nhigh = 1\nlog = true", ["space.x", "above 0"]),
        ("[space.x]\ntype = 'int'\nlow = 0.5\nhigh = 1", ["space.x", "whole"]),
        ("[space.x]\ntype = 'categorical'", ["space.x", "needs choices"]),
        ("[space.x]\ntype = 'categorical'\nchoices = [1, true, 1]", ["space.x", "equal"]),
        ("[space.x]\ntype = 'categorical'\nchoices = [2026-01-01]", ["space.x.choices", "expected a text"]),
        ("[space.x]\ntype = 'loat'\nlow = 0\nhigh = 1", ["space.x.type", "'float', 'int' or 'categorical'"]),
        (
            "[space.x]\ntype='float'\nlow=0\nhigh=1\nactive_when = {param = 'y', values = [1]}",
            ["space.x.active_when.param", "'y'"],
        ),
        (
            "\n".join(
                f"[space.{a}]\ntype='int'\nlow=0\nhigh=1\nactive_when={{param='{b}', values=[1]}}"
                for a, b in ("xy", "yx")
            ),
            ["depends on it in turn"],
        ),
        (
            """[space.x]\ntype='float'\nlow=0\nhigh=1\nactive_when={param='y', values=['c']}
[space.y]\ntype='categorical'\nchoices=['a', 'b']""",
            ["space.x.active_when.values", "'c'", "y"],
        ),
        ("[train]\ncommand = 'python train.py'", ["train.command", "list"]),
        ("[train]\ncommand = []", ["train.command", "at least 1"]),
        ("[hooks]\nevaluate = 'no function'", ["hooks.evaluate", "package.module:function"]),
        ("[project]\nname = 'a/b'", ["project.name", "slash"]),
        ("[project\n", ["TOML", "line 1"]),
    ],
)
def test_an_error_names_the_file_the_key_and_what_was_expected(tmp_path, text, words):
    message = refusal(tmp_path, text)
    assert all(word in message for word in words), message


def test_a_hole_that_no_parameter_fills_is_found_when_the_file_is_read(tmp_path):
    message = refusal(tmp_path, WHOLE.replace("{epochs}", "{epoch}"))
    assert "{epoch}" in message
    assert "did you mean {epochs}?" in message


def test_a_parameter_that_training_would_never_see_is_found_when_the_file_is_read(tmp_path):
    assert "{epochs}" in refusal(tmp_path, WHOLE.replace('"--epochs", "{epochs}",', ""))


def test_a_conditional_parameter_must_stand_in_a_list_that_can_be_dropped(tmp_path):
    bare = WHOLE.replace('["--encoder-lr-scale", "{encoder_lr_scale}"]', '"--scale={encoder_lr_scale}"')
    assert "list of their own" in refusal(tmp_path, bare)


def test_bytes_that_are_no_text_are_an_error_not_a_traceback(tmp_path):
    (tmp_path / "epsopt.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_project(tmp_path)


def test_a_list_is_dropped_as_a_whole_while_its_parameter_is_inactive(tmp_path):
    command = project_from(tmp_path, WHOLE).command
    frozen = render_command(command, {"encoder": "frozen", "epochs": 3}, tmp_path / "out")
    assert frozen == [
        sys.executable,
        "-m",
        "train",
        "--out",
        f"{tmp_path}/out",
        "--encoder=frozen",
        "--epochs",
        "3",
    ]
    full = render_command(command, {"encoder": "full", "epochs": 3, "encoder_lr_scale": 1e-3}, "out")
    assert full[-2:] == ["--encoder-lr-scale", "0.001"]
    assert render_command(command, {"encoder": "full", "epochs": 3, "encoder_lr_scale": None}, "out")[-1] == "3"


def test_values_keep_their_precision_and_truth_is_lower_case():
    command = ("{a}", "{b}", "{c}", "{{a}}", '{"json": 1}')
    assert render_command(command, {"a": 0.1 + 0.2, "b": True, "c": 2}, "o") == [
        "0.30000000000000004", "true", "2", "{a}", '{"json": 1}',
    ]  # fmt: skip


@given(st.text().filter(lambda t: "\0" not in t and t.isprintable()))
def test_a_hostile_value_stays_one_argument(value):
    assert render_command(("train", "--name={x}", "end"), {"x": value}, "o") == [
        "train",
        f"--name={value}",
        "end",
    ]


def test_a_hostile_value_reaches_the_program_as_it_is(tmp_path):
    value = "$(touch pwned); `touch pwned` && {out} 'x' \"y\"\n--flag"
    arguments = render_command(("{python}", "-c", "import sys; print(repr(sys.argv[1:]))", "{x}"), {"x": value}, "o")
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert shown.strip() == repr([value])
    assert not (tmp_path / "pwned").exists()


def test_a_missing_value_or_one_that_no_argument_holds_is_named():
    with pytest.raises(UsageError, match="needs lr"):
        render_command(("--lr={lr}",), {}, "o")
    with pytest.raises(UsageError, match="NUL"):
        render_command(("{x}",), {"x": "a\0b"}, "o")
    with pytest.raises(UsageError, match="expected a text"):
        render_command(("{x}",), {"x": {1, 2}}, "o")


SPACE = Space(
    (
        Parameter("lr", "float", 1e-5, 1e-2, log=True),
        Parameter("optim.name", "categorical", choices=("sgd", 'a "quoted" one', True)),
        Parameter("momentum", "float", 0.0, 0.9, active_when=("optim.name", ("sgd",))),
        Parameter("layers", "int", 1, 4),
    )
)
COMMAND = ("{python}", "t.py", "{lr}", "{optim.name}", "{layers}", "--out", "{out}", ("--m", "{momentum}"))


@pytest.mark.parametrize("space", [None, SPACE])
@pytest.mark.parametrize("command", [None, COMMAND])
def test_what_is_written_is_read_back(tmp_path, space, command):
    file = tmp_path / "epsopt.toml"
    objectives = [Objective("coverage", True), Objective("val.loss x", False), Objective("val/acc", True)]
    said = {
        "name": 'my "project"', "runs": "../runs", "objectives": objectives,
        "bounds": {"coverage": (0.0, 1.0)},
        "space": space, "command": command, "embed": "a.b:c",
    }  # fmt: skip
    assert write_project(file, **said)
    project = load_project(file)
    assert (project.name, project.runs) == ('my "project"', tmp_path.parent / "runs")
    assert project.objectives == tuple(objectives)
    assert project.bounds == {"coverage": (0.0, 1.0)}
    assert (project.space, project.command, project.embed) == (space, command, "a.b:c")
    assert not write_project(file, **said)
    with pytest.raises(UsageError, match="already"):
        write_project(file, **{**said, "name": "other"})
    assert write_project(file, **{**said, "name": "other"}, overwrite=True)


def test_the_proposed_train_command_is_valid_once_its_comment_marks_are_removed(tmp_path):
    file = tmp_path / "epsopt.toml"
    write_project(file, name="p", runs="r", objectives=[Objective("c", True)], space=SPACE)
    before, after = file.read_text().split("# [train]\n")
    block, rest = after.split("\n\n", 1)
    file.write_text(before + "[train]\n" + "\n".join(x.removeprefix("# ") for x in block.splitlines()) + "\n\n" + rest)
    project = load_project(file)
    config = {"lr": 0.1, "optim.name": "sgd", "layers": 2, "momentum": 0.5}
    rendered = render_command(project.command, config, "o")
    assert rendered[rendered.index("--momentum") + 1] == "0.5"
    assert "--momentum" not in render_command(project.command, {**config, "momentum": None}, "o")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_project(tmp_path / "none" / "epsopt.toml", name="p", runs="r", objectives=[])


def test_a_hole_takes_any_name_that_a_config_may_have():
    assert render_command(("{optim/lr}", "{3x}", "{a.b-c}"), {"optim/lr": 1, "3x": 2, "a.b-c": 3}, "o") == list("123")


def test_tables_of_runs_and_names_of_metrics_are_read(tmp_path):
    file = tmp_path / "epsopt.toml"
    file.write_text(
        '[runs]\ntable = "runs.csv"\nparams = ["lr"]\nstudy = "sqlite:///old.db#a"\n'
        '[metrics.rename]\n"val/acc" = "accuracy"\n'
    )
    project = load_project(file)
    assert (project.table, project.table_params, project.study) == (
        tmp_path / "runs.csv",
        ("lr",),
        "sqlite:///old.db#a",
    )
    assert project.rename == {"val/acc": "accuracy"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[metrics.rename]\na = "b"\nb = "c"\n', "renamed in turn"),
        ('[metrics.rename]\na = ""\n', "printable"),
        ('[runs]\ntabel = "x"\n', "did you mean table"),
    ],
)
def test_what_is_wrong_with_them_is_said(tmp_path, text, said):
    (tmp_path / "epsopt.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_project(tmp_path)


def test_the_commented_tables_of_a_new_file_are_valid(tmp_path):
    file = tmp_path / "epsopt.toml"
    write_project(file, name="p", runs="r", objectives=[])
    before, after = file.read_text().split("# [runs]\n")
    lines = [
        line.removeprefix("# ") for line in after.splitlines() if line.startswith(("# [", '# "', "# table", "# st"))
    ]
    file.write_text(before + "[runs]\n" + "\n".join(lines))
    assert load_project(file).rename == {"val/acc": "accuracy"}


def test_the_checkpoint_to_start_from_has_an_argument_that_can_be_left_out():
    command = ("train", "{out}", ("--init-from", "{init_from}"))
    assert render_command(command, {}, "run") == ["train", "run"]
    assert render_command(command, {}, "run", "/a b.pt") == ["train", "run", "--init-from", "/a b.pt"]
    assert render_command(command, {"init_from": "/past.pt"}, "run") == ["train", "run"]
    with pytest.raises(UsageError, match="no place for the checkpoint"):
        render_command(("train",), {}, "run", "/a.pt")


@pytest.mark.parametrize("hole", ["init_from", "resume_from"])
def test_an_argument_for_a_checkpoint_that_cannot_be_left_out_is_refused(tmp_path, hole):
    (tmp_path / "epsopt.toml").write_text(f'[train]\ncommand = ["train", "--start={{{hole}}}"]\n')
    with pytest.raises(UsageError, match=rf'"--start=\{{{hole}\}}" holds \{{{hole}\}}.*dropped as a whole'):
        load_project(tmp_path)


def test_a_program_that_can_go_on_is_passed_the_checkpoint_and_others_begin_again():
    command = ("train", ("--resume", "{resume_from}"))
    assert render_command(command, {"resume_from": "x"}, "run") == ["train"]
    assert render_command(command, {}, "run", resume_from="/a b.pt") == ["train", "--resume", "/a b.pt"]
    assert render_command(("train",), {}, "run", resume_from="/a.pt") == ["train"]


def test_a_program_may_be_passed_how_many_epochs_it_is_to_train():
    command = ("train", "{lr}", ("--epochs", "{epochs}"))
    assert takes_epochs(command)
    assert not takes_epochs(("train", "{lr}"))
    assert render_command(command, {"lr": 1.0}, "run") == ["train", "1.0"]
    assert render_command(command, {"lr": 1.0}, "run", epochs=7) == ["train", "1.0", "--epochs", "7"]
    assert render_command(command, {"lr": 1.0, "epochs": 9}, "run") == ["train", "1.0", "--epochs", "9"]


SPACE_LR = '[space.lr]\ntype = "float"\nlow = 0.0\nhigh = 1.0\n'


def test_epochs_have_an_argument_that_can_be_left_out_unless_they_are_searched(tmp_path):
    train = '[train]\ncommand = ["train", "{lr}", "--epochs={epochs}"]\n'
    (tmp_path / "epsopt.toml").write_text(SPACE_LR + train)
    with pytest.raises(UsageError, match=r'"--epochs=\{epochs\}" holds \{epochs\}, but most runs are as long as'):
        load_project(tmp_path)
    searched = '[space.epochs]\ntype = "int"\nlow = 1\nhigh = 9\n'
    (tmp_path / "epsopt.toml").write_text(SPACE_LR + searched + train)
    assert load_project(tmp_path).command == ("train", "{lr}", "--epochs={epochs}")
    (tmp_path / "epsopt.toml").write_text(SPACE_LR + searched + '[train]\ncommand = ["train", "{lr}"]\n')
    with pytest.raises(UsageError, match=r"expected a hole \{epochs\}"):
        load_project(tmp_path)


def test_a_space_of_any_values_survives_the_project_file(tmp_path: Path) -> None:
    space = Space((
        Parameter("layers", "int", 1, 6),
        Parameter("units_2", "int", 8, 64, active_when=("layers", (Span(low=2),))),
        Parameter("schedule", "categorical", choices=(None, "cosine", 0.1, True)),
        Parameter("decay", "float", 0.0, 1.0, active_when=("schedule", (None, 0.1))),
        Parameter("hidden", "categorical", choices=([8, 8], [16], {"a": 1})),
        Parameter("clip", "float", 0.1, 5.0, optional=True),
        Parameter("norm", "categorical", choices=("l2", "max"), active_when=("clip", (None, Span(high=1.0)))),
        Parameter("odd", "categorical", choices=([1, None], [2, 3])),
    ))  # fmt: skip
    file = tmp_path / "epsopt.toml"
    write_project(file, name="p", runs="runs", objectives=[Objective("acc", maximize=True)], space=space)
    read = load_project(file).space
    assert read is not None
    rng = np.random.default_rng(0)
    for config in space.sample(40, rng):
        assert read.validation_error(config) is None
        assert (read.encode([config]) == space.encode([config])).all()
    said = {p.name: set(p.active_when[1]) for p in space.parameters if p.active_when is not None}
    assert {p.name: set(p.active_when[1]) for p in read.parameters if p.active_when is not None} == said


def test_a_parameter_that_may_be_left_out_needs_an_argument_that_can_be_dropped(tmp_path: Path) -> None:
    file = tmp_path / "epsopt.toml"
    file.write_text(
        '[space.clip]\ntype = "float"\nlow = 0.1\nhigh = 5.0\noptional = true\n[train]\ncommand = ["run", "{clip}"]\n'
    )
    with pytest.raises(UsageError, match=r"may be left out.*list"):
        load_project(file)
    file.write_text(file.read_text().replace('"{clip}"', '["--clip", "{clip}"]'))
    command = load_project(file).command
    assert command is not None
    assert render_command(command, {}, "out") == ["run"]
    assert render_command((("--hidden", "{h}"),), {"h": [8, 8]}, "out") == ["--hidden", "[8, 8]"]


def test_a_seed_is_the_proposals_number_unless_a_hyperparameter_is_called_so(tmp_path):
    command = ("train", "--seed", "{seed}")
    assert render_command(command, {}, "run", seed=12) == ["train", "--seed", "12"]
    assert render_command(command, {"seed": 3}, "run", seed=12) == ["train", "--seed", "3"]
    space = "\n".join(f'[space.{name}]\ntype = "int"\nlow = 0\nhigh = 9' for name in ("lr", "seed"))
    train = '\n[train]\ncommand = ["train", "{lr}", "{seed}"]\n'
    assert project_from(tmp_path, space + train).command
    assert project_from(tmp_path, space.partition("[space.seed]")[0] + train).command
    assert "expected a hole {seed}" in refusal(tmp_path, space + train.replace(', "{seed}"', ""))


def test_a_retry_has_the_seed_of_its_first_attempt():
    assert ClaimedProposal(7, {}).seed == 7
    assert ClaimedProposal(9, {}, attributes={"retry_of": 7}).seed == 7


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"seed": None}, ['"--seed"', '"{seed}"']),
        ({"data_seed": 7, "trainer.seed": None}, ['"--data-seed"', '"7"', '"--trainer.seed"', '"{seed}"']),
        ({}, []),
    ],
)
def test_the_proposed_train_command_passes_the_seeds_of_past_runs_on(tmp_path, seeds, said):
    file = tmp_path / "epsopt.toml"
    write_project(file, name="p", runs="runs", objectives=[], seeds=seeds)
    commented = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    proposed = commented[commented.index("command = [") + 1 :]
    arguments = [line.strip().rstrip(",") for line in proposed[: proposed.index("]")]]
    assert arguments[arguments.index('"{lr}"') + 1 :] == said


def test_the_project_file_says_where_the_weights_are(tmp_path):
    (tmp_path / "epsopt.toml").write_text('[runs]\nweights_key = "models.generator"\n')
    assert load_project(tmp_path).weights_key == "models.generator"
    (tmp_path / "epsopt.toml").write_text("")
    assert load_project(tmp_path).weights_key == ""
    (tmp_path / "epsopt.toml").write_text('[runs]\nweights_key = ""\n')
    with pytest.raises(UsageError, match=r"runs\.weights_key"):
        load_project(tmp_path)


def test_metrics_say_what_is_learned_and_what_they_can_be(tmp_path):
    text = """
[metrics]
learn = ["test_*", "val/loss"]
bounds = { "val/loss" = [0, inf], a = [0, 9] }
[objectives.a]
direction = "maximize"
bounds = [-inf, 1]
"""
    project = project_from(tmp_path, text)
    assert project.learn == ("test_*", "val/loss")
    assert project.bounds == {"val/loss": (0.0, math.inf), "a": (-math.inf, 1.0)}
    assert "metrics.learn" in refusal(tmp_path, "[metrics]\nlearn = [1]")


def test_guesses_are_marked_and_what_is_no_objective_is_named(tmp_path):
    left_out = [LeftOut("eval_runtime", "bookkeeping", False), LeftOut("train loss", "training", False)]
    file = tmp_path / "epsopt.toml"
    write_project(
        file, name="p", runs="runs", objectives=[Objective("loss", maximize=False)], bounds={"loss": (0.0, math.inf)},
        guessed=["loss"], left_out=left_out,
    )  # fmt: skip
    text = file.read_text()
    assert "bounds = [0.0, inf] # guessed from its name: check it, nothing predicted leaves it" in text
    assert "# Time, memory and steps of the training program: eval_runtime." in text
    assert '"train loss"' in text
    assert load_project(file).bounds == {"loss": (0.0, math.inf)}


@pytest.mark.parametrize(
    ("direction", "said", "limit"),
    [("maximize", "at_least = 0.5", 0.5), ("minimize", "at_most = 0.1", 0.1), ("maximize", "", None)],
)
def test_an_objective_may_have_a_limit(tmp_path, direction, said, limit):
    text = f'[objectives.x]\ndirection = "{direction}"\n{said}\n'
    assert check_text(tmp_path / "epsopt.toml", text).objectives[0].limit == limit


def test_a_limit_of_the_wrong_side_is_refused(tmp_path):
    text = '[objectives.x]\ndirection = "maximize"\nat_most = 0.5\n'
    with pytest.raises(UsageError, match="at_most is no limit of a metric to maximize: expected at_least"):
        check_text(tmp_path / "epsopt.toml", text)
