"""What is missing or wrong gets one sentence that says what to do, and leaves no trace."""

from __future__ import annotations

import shutil

import pytest
import torch

from epsopt.zoo import Catalogue

from .conftest import call, check

STORAGE = "sqlite:///none.db"


@pytest.mark.parametrize(
    "arguments",
    [["fit"], ["predict", "x.pt"], ["search"], ["pareto"], ["nearest", "x"], ["propose"], ["dashboard"]],
    ids=lambda a: a[0],
)
def test_a_missing_catalogue_names_the_first_command_and_is_not_made(fresh, tmp_path, arguments):
    (tmp_path / "x.pt").write_bytes(b"")
    shutil.copy(fresh.folder / "epsopt.toml", tmp_path)
    result = call(tmp_path, *arguments)
    assert result.status == 1
    assert "epsopt ingest" in result.err
    assert not list(tmp_path.glob("*.db*"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "found under {folder}"),
        ({"a.pt": b"damaged"}, "found under {folder}: {folder}/a.pt: "),
        ({"m.h5": b"", "n.h5": b""}, "found under {folder}; 2 checkpoints of other formats, such as {folder}/m.h5 "),
    ],
)
def test_every_command_says_the_same_of_a_folder_that_holds_nothing_to_read(project, tmp_path, files, words):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    said = set()
    for command in (["init"], ["ingest"], ["predict", "--storage", f"sqlite:///{project.folder / 'epsopt.db'}"]):
        result = call(tmp_path, *command, folder)
        assert result.status == 1
        said.add(result.err.splitlines()[-1])
    assert len(said) == 1
    start = "epsopt: no checkpoint file (.pt, .pth, .ckpt, .safetensors) that can be read under {folder}"
    assert said.pop().startswith(words.replace("found under {folder}", start).format(folder=folder))


def test_an_empty_catalogue_names_the_first_command(fresh, tmp_path):
    shutil.copy(fresh.folder / "epsopt.toml", tmp_path)
    (tmp_path / "empty").mkdir()
    result = call(tmp_path, "ingest", "empty")
    assert result.status == 1
    assert "no checkpoint file" in result.err
    for command in ("fit", "search", "pareto", "propose"):
        result = call(tmp_path, command)
        assert result.status == 1
        assert "epsopt ingest" in result.err


@pytest.mark.parametrize("arguments", [["search"], ["sample"], ["nearest", "run_000"], ["predict", "."]])
def test_a_catalogue_without_a_map_names_fit(fresh, arguments):
    if arguments[0] == "predict":
        arguments = ["predict", fresh.runs / "run_000"]
    result = fresh(*arguments)
    assert result.status == 1
    assert "epsopt fit" in result.err


def test_proposals_need_no_map(fresh):
    result = fresh("propose", "-n", "2", "--no-record", "--json")
    assert result.status == 0, result.err
    check("propose", result.document)
    assert len(result.document["proposals"]) == 2
    assert result.document["trained_on"] is None
    assert set(result.document["proposals"][0]["predicted"]) == {o["name"] for o in result.document["objectives"]}


@pytest.mark.parametrize("command", ["search", "pareto", "propose"])
def test_without_a_project_file_init_is_named(fresh, tmp_path, command):
    result = call(tmp_path, command, "--storage", f"sqlite:///{fresh.folder / 'epsopt.db'}")
    assert result.status == 2
    assert "epsopt init" in result.err


def test_nearest_and_predict_need_no_project_file(project, tmp_path):
    storage = f"sqlite:///{project.folder / 'epsopt.db'}"
    assert call(tmp_path, "nearest", "run_000", "--storage", storage).status == 0
    assert call(tmp_path, "predict", project.runs / "run_000", "--storage", storage).status == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("[project\n", "not valid TOML"), ("[projct]\n", "did you mean project?"), ("[project]\n", "no objective")],
)
def test_a_bad_project_file_is_named_with_the_key(fresh, tmp_path, text, said):
    (tmp_path / "epsopt.toml").write_text(text)
    result = call(tmp_path, "pareto", "--storage", f"sqlite:///{fresh.folder / 'epsopt.db'}")
    assert result.status == 2
    assert "epsopt.toml" in result.err
    assert said in result.err


@pytest.mark.parametrize(
    "arguments",
    [["init", "nothere"], ["ingest", "nothere"], ["predict", "nothere.pt"], ["nearest", "nothere"],
     ["pareto", "--project", "nothere.toml"]],
    ids=lambda a: a[0],
)  # fmt: skip
def test_a_missing_path_is_named(project, arguments):
    result = project(*arguments)
    assert result.status == 2
    assert "nothere" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_missing_file_is_not_asked_for_as_a_folder(project):
    assert "nothere.pt does not exist: expected a checkpoint file" in (project("predict", "nothere.pt").err)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite:////no/such/folder/x.db"])
def test_a_bad_storage_url_gets_one_sentence(tmp_path, runs, url):
    result = call(tmp_path, "ingest", runs, "--storage", url)
    assert result.status == 1
    assert len(result.err.strip().splitlines()) == 1


def test_an_unreadable_file_is_listed_and_the_rest_goes_in(runs, tmp_path):
    shutil.copytree(runs / "run_000", tmp_path / "runs" / "good")
    (tmp_path / "runs" / "good" / "epoch_009.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    result = call(tmp_path, "ingest", "runs")
    assert result.status == 0
    assert "epoch_009.pt: " in result.out
    document = call(tmp_path, "ingest", "runs", "--json").document
    assert document["unchanged"] == 3
    assert document["failed"][0]["path"].endswith("epoch_009.pt")
    assert document["failed"][0]["reason"]
    assert document["catalogue"]["checkpoints"] == 3


def test_a_broken_file_beside_checkpoints_is_named_by_whoever_reads_them(project, tmp_path):
    shutil.copytree(project.runs / "run_000", tmp_path / "runs" / "good")
    (tmp_path / "runs" / "good" / "config.yaml").write_text("a: [")
    for command in (["init"], ["ingest"], ["predict", "--storage", f"sqlite:///{project.folder / 'epsopt.db'}"]):
        result = call(tmp_path, *command, "runs")
        assert result.status == 0, result.err
        assert "config.yaml: not valid YAML" in result.out, command
        (tmp_path / "epsopt.toml").unlink(missing_ok=True)
        document = call(tmp_path, *command, "runs", "--json").document
        assert [f["path"] for f in document["side_file_failures"]] == [str(tmp_path / "runs" / "good" / "config.yaml")]


def test_when_nothing_can_be_read_the_status_says_so(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    for command in ("ingest", "init"):
        result = call(tmp_path, command, "runs")
        assert result.status == 1
        assert result.err.strip()


def test_unseen_checkpoints_are_pointed_out(project, copy, tmp_path):
    import torch

    mine = copy(project)
    content = torch.load(project.runs / "run_000" / "epoch_003.pt", weights_only=True)
    content["epoch"] = 4
    (tmp_path / "new").mkdir()
    torch.save(content, tmp_path / "new" / "epoch_004.pt")
    assert mine("ingest", tmp_path / "new").status == 0
    result = mine("search", "--no-record", "--json")
    assert result.document["n_unseen"] == 1
    assert "epsopt fit" in result.err


def test_the_direction_of_a_metric_can_be_said(runs, tmp_path):
    guessed = call(tmp_path, "init", runs, "--json").document
    assert guessed["undecided"] == ["rad_hier"]
    assert all(o["guessed"] for o in guessed["objectives"])
    text = (tmp_path / "epsopt.toml").read_text()
    assert "guessed" in text
    assert "# [objectives.rad_hier]" in text
    said = call(tmp_path, "init", runs, "--minimize", "rad_hier", "--force", "--json").document
    (found,) = (o for o in said["objectives"] if o["name"] == "rad_hier")
    assert (found["direction"], found["guessed"], found["bounds"], found["at_ends"]) == ("minimize", False, None, False)
    wrong = call(tmp_path, "init", runs, "--minimize", "rad_heir")
    assert wrong.status == 2
    assert "rad_hier" in wrong.err
    both = call(tmp_path, "init", runs, "--minimize", "coverage", "--maximize", "coverage")
    assert both.status == 2


def test_a_traceback_comes_only_with_debug(project, monkeypatch):
    from epsopt.optimize import pareto

    def broken(*_):
        raise RuntimeError("something broke")

    monkeypatch.setattr(pareto, "non_dominated", broken)
    result = project("pareto")
    assert result.status == 1
    assert "something broke" in result.err
    assert "Traceback" not in result.err
    shown = project("pareto", "--debug")
    assert shown.status == 1
    assert "Traceback" in shown.err
    assert shown.err.endswith("RuntimeError: something broke\n")


def test_ingest_names_checkpoints_of_other_formats_and_objects_among_hyperparameters_once(tmp_path):
    (tmp_path / "runs").mkdir()
    for i in range(2):
        content = {"model": {"w": torch.eye(3) + i}, "config": {"act": torch.nn.ReLU}}
        torch.save(content, tmp_path / "runs" / f"epoch_{i}.pt")
        (tmp_path / "runs" / f"m{i}.onnx").write_bytes(b"")
    shown = call(tmp_path, "ingest", "runs").out
    assert "runs/m0.onnx" in shown
    assert "ONNX: use the PyTorch model that it was exported from" in shown
    assert shown.count("act <torch.nn.modules.activation.ReLU> (2 checkpoints)") == 1
    document = call(tmp_path, "ingest", "runs", "--json").document
    assert [(k["kind"], k["count"]) for k in document["not_read"]] == [("ONNX", 2)]
    assert document["objects"] == {}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m.h5").write_bytes(b"")
    refused = call(tmp_path, "ingest", "other")
    assert refused.status == 1
    assert "no checkpoint file" in refused.err
    assert "1 checkpoint of other formats" in refused.err


def test_init_says_what_a_folder_of_other_formats_holds(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "m.keras").write_bytes(b"")
    refused = call(tmp_path, "init", "runs")
    assert refused.status == 1
    assert "1 checkpoint of other formats, such as" in refused.err
    assert "m.keras (Keras" in refused.err


def test_the_key_of_the_weights_reaches_every_command_from_the_project_file(tmp_path):
    runs = tmp_path / "runs"
    for run in range(2):
        (runs / f"r{run}").mkdir(parents=True)
        for epoch in range(2):
            weights = [{"a.weight": torch.randn(s, 4, generator=torch.manual_seed(10 * run + epoch))} for s in (3, 5)]
            content = {"generator": weights[0], "discriminator": weights[1], "metrics": {"fid": 9.0 - run - epoch}}
            torch.save({**content, "epoch": epoch}, runs / f"r{run}" / f"epoch_{epoch}.pt")
    settings = '[objectives.fid]\ndirection = "minimize"\n[runs]\n'
    (tmp_path / "epsopt.toml").write_text(settings)
    refused = call(tmp_path, "ingest")
    assert "holds several state dicts (generator, discriminator)" in refused.out + refused.err
    assert 'weights_key = "generator"' in refused.out + refused.err
    sizes = []
    for key in ("generator", "discriminator"):
        (tmp_path / "epsopt.toml").write_text(f'{settings}weights_key = "{key}"\n')
        document = call(tmp_path, "ingest", "--json").document
        assert (document["found"], document["failed"]) == (4, [])
        with Catalogue.existing(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
            sizes.append({c.n_parameters for c in catalogue.checkpoints()})
    assert sizes == [{12}, {20}]
