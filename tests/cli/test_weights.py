"""Commands that mix weights, on runs that the demo trained for real: what they say is what the hook measures."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

import pytest
import torch

from epsopt.demo.hooks import evaluate
from epsopt.studies import load_map, load_project
from epsopt.studies.merge.decode import decode_merges, decode_points
from epsopt.zoo import Catalogue, load_weights
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import recombination
from epsopt.zoo.layouts.merge_record import merged_parents

from .conftest import check

HOOKS = '\n[hooks]\nevaluate = "epsopt.demo.hooks:evaluate"\n'


@pytest.fixture
def mine(project, copy):
    """A project of its own, with the demo's evaluate hook and a train command that can start anywhere."""
    made = copy(project)
    file = made.folder / "epsopt.toml"
    text = re.sub(r"\n# \[hooks\].*", "", file.read_text(), flags=re.DOTALL)
    file.write_text(text + HOOKS)
    return made


def set_runs(made, folder):
    file = made.folder / "epsopt.toml"
    file.write_text(re.sub(r"^runs = .*$", f'runs = "{folder}"', file.read_text(), flags=re.MULTILINE))


def add_train_command(made):
    """The demo's training program, with a hole for every parameter of the search space and one for the start."""
    space = load_project(made.folder).space
    pairs = ", ".join(f'["--{p.name.replace("_", "-")}", "{{{p.name}}}"]' for p in space.parameters)
    start = '["--init-from", "{init_from}"]'
    with (made.folder / "epsopt.toml").open("a") as file:
        program = '"{python}", "-m", "epsopt.demo.train", "--out", "{out}"'
        file.write(f"\n[train]\ncommand = [{program}, {start}, {pairs}]\n")


def close(a, b):
    return a == pytest.approx(b, abs=1e-6)


def test_interpolation_predicts_mixes_measures_and_saves(mine, tmp_path):
    out = tmp_path / "way"
    result = mine("interpolate", "run_000", "run_001:2", "--steps", "3", "--evaluate", "--save", out, "--json")
    assert result.status == 0, result.err
    document = result.document
    check("interpolate", document)
    first, middle, last = document["steps"]
    assert [s["share"] for s in document["steps"]] == [0.0, 0.5, 1.0]
    # The ends are the checkpoints themselves; the middle is what its file measures.
    assert first["measured"] == document["from"]["metrics"]
    assert last["measured"] == document["to"]["metrics"]
    assert close(evaluate(load_weights(middle["saved"])), middle["measured"])
    content = torch.load(middle["saved"], weights_only=True)
    assert content["epsopt"]["measured"] == middle["measured"]
    assert content["epsopt"]["predicted"] == middle["predicted"]
    assert [p["coefficients"] for p in content["epsopt"]["parents"]] == [[0.5], [0.5]]
    for name in ("coverage", "dist_corr", "rad_hier"):
        half = (first["measured"][name] + last["measured"][name]) / 2
        assert middle["linear"][name] == pytest.approx(half)
    again = mine("interpolate", "run_000", "run_001:2", "--steps", "3", "--save", out)
    assert again.status == 2
    assert "is there already" in again.err


def test_interpolation_without_evaluation_says_that_it_predicts(mine):
    result = mine("interpolate", "run_000", "run_001", "--steps", "3")
    assert result.status == 0, result.err
    assert "not evaluated" in result.out
    lines = result.out.splitlines()
    (middle,) = (i for i, line in enumerate(lines) if line.strip().startswith("0.50"))
    assert "predicted" in lines[middle]
    assert "measured" not in "".join(lines[middle : middle + 2]), "the ends alone are"
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_across_lineages_there_are_only_predictions_and_a_reason(mine, tmp_path):
    stranger = tmp_path / "stranger.pt"
    torch.manual_seed(5)
    content = torch.load(mine.runs / "run_000" / "epoch_003.pt", weights_only=True)
    content["model_state_dict"] = {k: torch.randn_like(v) for k, v in content["model_state_dict"].items()}
    del content["config"]
    torch.save(content, stranger)
    result = mine("interpolate", "run_000", stranger, "--steps", "3", "--json")
    assert result.status == 0, result.err
    check("interpolate", result.document)
    assert not result.document["decoded"]
    assert "initialisation" in result.document["reason"]
    assert all(s["weights"] is None and s["measured"] is None for s in result.document["steps"])
    shown = mine("interpolate", "run_000", stranger, "--steps", "2")
    assert "Predictions only" in shown.out
    refused = mine("interpolate", "run_000", stranger, "--evaluate")
    assert refused.status == 2
    assert "initialisation" in refused.err


def test_measuring_needs_a_hook_and_two_ends(project, mine):
    assert "evaluate hook" in project("interpolate", "run_000", "run_001", "--evaluate").err
    assert "the same checkpoint" in mine("interpolate", "run_000", "run_000:3").err
    assert "needs a hook" in project("merge").err


def test_a_merge_saves_what_it_measured_and_ingest_takes_it(mine, tmp_path):
    result = mine("merge", "run_000", "run_003", "--budget", "7", "--save", tmp_path / "merged", "--json")
    assert result.status == 0, result.err
    document = result.document
    check("merge", document)
    assert len(document["evaluations"]) == 7
    saved = [e for e in document["evaluations"] if e["saved"]]
    assert [e["joined"] for e in saved] == [True] * len(saved)
    for e in saved:
        assert close(evaluate(load_weights(e["saved"])), e["measured"])
    assert document["hypervolume"]["after"] >= document["hypervolume"]["before"]
    parents = document["evaluations"][:2]
    assert [e["measured"] for e in parents] == [p["metrics"] for p in document["parents"]]
    assert document["disagreements"] == []
    if saved:
        assert mine("ingest", tmp_path / "merged").status == 0
        with Catalogue(f"sqlite:///{mine.folder / 'epsopt.db'}") as catalogue:
            known = {c.path: c for c in catalogue.checkpoints()}
            merged = known[saved[0]["saved"]]
        assert merged.metrics == pytest.approx(saved[0]["measured"])
        parents = {p["sha256"] for p in saved[0]["weights"]["parents"]}
        assert all(any(s.startswith(p) for s in parents) for p in merged_parents(merged.hyperparameters))
        assert merged.lineage_id == next(c.lineage_id for c in known.values() if c.run == "run_000")


def test_operators_of_mergekit_need_it_a_base_and_as_many_parents_as_they_merge(mine, monkeypatch):
    monkeypatch.setattr("epsopt.zoo.decoding.operator_names.find_spec", lambda _: None)
    lacking = mine("merge", "run_000", "run_003", "--operator", "slerp")
    assert lacking.status == 2
    assert "pip install 'epsopt[mergekit]'" in lacking.err
    assert "two checkpoints, 3 were named" in mine("merge", "-n", "3", "--operator", "slerp").err
    monkeypatch.setattr("epsopt.zoo.decoding.operator_names.find_spec", lambda _: True)
    refused = mine("merge", "--whole-models", "models")
    assert (refused.status, "is a whole model, and so are merges of it" in refused.err) == (2, True)


@pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit is an optional extra")
def test_a_merge_by_an_operator_saves_what_it_measured(mine, tmp_path):
    arguments = ["-n", "2", "--budget", "5", "--operator", "ties", "--density", "0.4"]
    result = mine("merge", *arguments, "--save", tmp_path / "merged", "--json")
    assert result.status == 0, result.err
    document = result.document
    check("merge", document)
    assert (document["operator"], document["density"]) == ("ties", 0.4)
    for e in document["evaluations"]:
        if e["saved"]:
            assert close(evaluate(load_weights(e["saved"])), e["measured"])
            record = torch.load(e["saved"], weights_only=True)["epsopt"]
            assert record["operator"] == "ties"
            assert record["base"]["path"] == document["base"]["path"]


def test_groups_of_tensors_are_merged_each_on_its_own(mine, tmp_path):
    arguments = ["run_000", "run_003", "--budget", "6", "--groups", "*.encoder.*", "--reach", "0.1"]
    result = mine("merge", *arguments, "--save", tmp_path / "merged", "--json")
    assert result.status == 0, result.err
    check("merge", result.document)
    rows = [p["coefficients"] for e in result.document["evaluations"] for p in e["weights"]["parents"]]
    assert {len(row) for row in rows} == {2}
    assert any(row[0] != row[1] for row in rows)


@pytest.mark.slow
def test_a_merge_shows_its_table_and_leaves_other_folders_alone(mine, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused = mine("merge", "--save", tmp_path / "full")
    assert refused.status == 2
    assert "nothing is written over" in refused.err
    result = mine("merge", "-n", "2", "--budget", "4", "--save", tmp_path / "new")
    assert result.status == 0, result.err
    assert "measured" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines() if "saved in" not in line)


def test_init_from_names_a_start_a_forecast_and_a_command(mine, tmp_path):
    set_runs(mine, tmp_path / "runs")
    add_train_command(mine)
    picture = tmp_path / "starts.html"
    result = mine("init-from", "--target-coverage", "0.5", "--json", "--picture", picture)
    assert result.status == 0, result.err
    document = result.document
    check("init-from", document)
    assert document["epochs"] == 3
    drawn = picture.read_text(encoding="utf-8")
    assert f"predicted, not evaluated ({len(document['warm_starts'])})" in drawn
    assert any(p["start"]["kind"] == "base" for p in document["warm_starts"])
    for plan in document["warm_starts"]:
        argv = plan["command"]
        assert argv[argv.index("--init-from") + 1] == plan["start"]["path"]
        assert plan["start"]["metrics_source"] == "measured"
        assert close(evaluate(load_weights(plan["start"]["path"])), plan["start"]["metrics"])
        assert all(v["low"] <= v["value"] <= v["high"] for v in plan["predicted"].values())
    shown = mine("init-from", "--target-coverage", "0.5", "--real-only")
    assert shown.status == 0, shown.err
    assert "predicted, not evaluated" in " ".join(shown.out.split())
    assert "--init-from" in shown.out


def test_points_of_the_map_are_decoded_into_weights_that_answer_as_asked(mine):
    with (
        Catalogue(f"sqlite:///{mine.folder / 'epsopt.db'}") as catalogue,
        WeightDecoder("epsopt.demo.hooks:evaluate") as decoder,
    ):
        surrogate, _ = load_map(catalogue)
        checkpoints = catalogue.checkpoints()
        by_key = {c.sha256: c for c in checkpoints}
        latents = surrogate.memory.latents
        lineage = int(surrogate.memory.lineages[0])
        points = torch.stack([latents[4], latents[20], (latents[4] + latents[20]) / 2])
        found = decode_points(decoder, catalogue, checkpoints, surrogate, points, lineage, evaluate=True)
        # A checkpoint's own z gives that checkpoint back, and what it measures.
        for place, merged in zip((4, 20), found, strict=False):
            (parent,) = merged.recombination.parents
            assert parent.sha256 == surrogate.memory.keys[place]
            assert merged.measured == pytest.approx(by_key[parent.sha256].metrics)
        assert len(found[2].recombination.parents) <= 8
        # Looking and correcting is never worse, by the map's own judgement, than the first reconstruction.
        part = surrogate.recombine(points[2:], lineage)[0]
        first = recombination([by_key[k] for k, _ in part], [[c for _, c in part]])
        (plain,) = decode_merges(decoder, catalogue, checkpoints, surrogate, [first])
        wanted = surrogate.posterior_moments(points[2:])[0]
        miss = [float((surrogate.posterior_moments(m.z[None])[0] - wanted).abs().sum()) for m in (found[2], plain)]
        assert miss[0] <= miss[1] + 1e-6


def test_samples_are_decoded_measured_and_saved_on_request(mine, tmp_path):
    asked = ["sample", "--target-coverage", "0.05", "--probability", "0.05", "-n", "2"]
    result = mine(*asked, "--evaluate", "--save", tmp_path / "new", "--json")
    assert result.status == 0, result.err
    check("sample", result.document)
    for sample in result.document["samples"]:
        decoded = sample["decoded"]
        assert close(evaluate(load_weights(decoded["saved"])), decoded["measured"])
        content = torch.load(decoded["saved"], weights_only=True)
        assert content["epsopt"]["made_by"] == "epsopt sample"
        assert content["epsopt"]["predicted"] == decoded["predicted"]
    assert "decoded, measured" in mine(*asked, "--evaluate").out
    plain = mine(*asked, "--decode").out
    assert "decoded, predicted" in plain
    assert "measured" not in plain.replace("measures", "")
    refused = mine(*asked, "--save", tmp_path / "new")
    assert refused.status == 2
    assert "nothing is written over" in refused.err


def test_answers_of_a_search_are_made_measured_and_saved_on_request(mine, tmp_path):
    asked = ["search", "--target-coverage", "0.05", "-n", "2", "--no-record"]
    result = mine(*asked, "--evaluate", "--save", tmp_path / "new", "--json")
    assert result.status == 0, result.err
    check("search", result.document)
    inside = values = met = expected = 0
    for answer in result.document["answers"]:
        decoded = answer["decoded"]
        assert close(evaluate(load_weights(decoded["saved"])), decoded["measured"])
        content = torch.load(decoded["saved"], weights_only=True)
        assert content["epsopt"]["made_by"] == "epsopt search"
        for objective in result.document["objectives"]:
            said, got = answer["predicted"][objective["name"]], decoded["measured"][objective["name"]]
            own = decoded["predicted"][objective["name"]]
            inside, values = inside + (said["low"] <= got <= said["high"]), values + 1
            expected += own["low"] <= got <= own["high"]
        met += decoded["measured"]["coverage"] >= 0.05
    shown = " ".join(mine(*asked, "--evaluate").out.split())
    assert "decoded, measured" in shown
    n = len(result.document["answers"])
    assert f"{met} of {n} meet the targets, and {inside} of {values} values lie within the interval" in shown
    assert (f", {expected} within the one that was predicted of the weights" in shown) == (expected > inside)
    plain = mine(*asked)
    assert "decoded" not in plain.out
    refused = mine(*asked, "--save", tmp_path / "new")
    assert refused.status == 2
    assert "nothing is written over" in refused.err


def test_a_search_for_merges_saves_what_it_measured_and_tells_what_each_is_made_of(mine, tmp_path):
    picture = tmp_path / "merges.html"
    arguments = ["merge", "--budget", "5", "--save", tmp_path / "merged", "--json"]
    result = mine(*arguments, "--picture", picture)
    assert result.status == 0, result.err
    document = result.document
    check("merge", document)
    assert len(document["evaluations"]) == 5
    assert "merges, measured (5)" in picture.read_text(encoding="utf-8")
    assert (document["stopped"], document["searched"]) == (None, True)
    assert 2 <= len(document["parents"]) <= 32
    assert document["disagreements"] == []
    for e in document["evaluations"]:
        assert e["joined"] == (e["saved"] is not None)
        assert sum(p["coefficients"][0] for p in e["weights"]["parents"]) == pytest.approx(1.0)
    predicted = [v for e in document["evaluations"] for v in (e["predicted"] or {}).values()]
    assert predicted
    assert all(v["low"] <= v["value"] <= v["high"] for v in predicted)
    assert document["hypervolume"]["after"] >= document["hypervolume"]["before"]
    saved = [e for e in document["evaluations"] if e["saved"]]
    for e in saved:
        assert close(evaluate(load_weights(e["saved"])), e["measured"])
        content = torch.load(e["saved"], weights_only=True)
        assert content["epsopt"]["made_by"] == "epsopt merge"
        assert content["epsopt"]["predicted"] == e["predicted"]
    if saved:
        assert mine("ingest", tmp_path / "merged").status == 0
        with Catalogue(f"sqlite:///{mine.folder / 'epsopt.db'}") as catalogue:
            known = {c.path: c for c in catalogue.checkpoints()}
        assert known[saved[0]["saved"]].lineage_id == next(c.lineage_id for c in known.values() if c.run == "run_000")


@pytest.mark.slow
def test_a_search_for_merges_shows_its_table(mine, tmp_path):
    result = mine("merge", "--budget", "4", "--save", tmp_path / "new")
    assert result.status == 0, result.err
    assert "that share the base base:0" in " ".join(result.out.split())
    if "saved in" in result.out:
        assert f"'epsopt ingest {tmp_path / 'new'}' reads them" in " ".join(result.out.split())
    assert all(len(line) <= 80 for line in result.out.splitlines() if "saved in" not in line)


def test_a_merge_needs_a_hook_and_count_merges_a_few_of_the_front(project, mine, tmp_path):
    assert "needs a hook" in project("merge").err
    few = mine("merge", "--count", "2", "--budget", "4", "--save", tmp_path / "few", "--json")
    assert few.status == 0, few.err
    check("merge", few.document)
    assert few.document["searched"] is False
    assert len({p["sha256"] for p in few.document["parents"]}) == 2
    assert len(few.document["evaluations"]) == 4
    for arguments, sentence in (
        (["run_000", "run_003", "--count", "2"], "--count is for checkpoints that are not named"),
        (["run_000", "run_003", "--groups", "*.nothing.*"], "no tensor of the checkpoints fits *.nothing.*"),
    ):
        refused = mine("merge", *arguments)
        assert refused.status == 2
        assert sentence in " ".join(refused.err.split())


@pytest.fixture
def with_nan(mine, tmp_path):
    """One of its checkpoints, the best of all by its metrics, has a weight that is NaN."""
    shutil.copytree(mine.runs, tmp_path / "runs")
    best = tmp_path / "runs" / "run_001" / "epoch_003.pt"
    content = torch.load(best, weights_only=True)
    name, weight = next(iter(content["model_state_dict"].items()))
    content["model_state_dict"][name] = weight.clone().index_fill_(0, torch.tensor([0]), torch.nan)
    content["metrics"] = dict.fromkeys(content["metrics"], 10.0)
    torch.save(content, best)
    set_runs(mine, tmp_path / "runs")
    (mine.folder / "epsopt.db").unlink()
    assert mine("ingest").status == 0
    return mine, best


def test_a_merge_says_which_checkpoint_is_left_out_for_its_weights_and_takes_others(with_nan, tmp_path):
    mine, best = with_nan
    shown = mine("merge", "-n", "2", "--budget", "3", "--save", tmp_path / "merged")
    assert shown.status == 0, shown.err
    assert f"{best} is left out: not all of its weights are finite" in " ".join(shown.err.split())
    result = mine("merge", "-n", "2", "--budget", "3", "--save", tmp_path / "again", "--json")
    check("merge", result.document)
    assert result.document["left_out"] == [f"{best} is left out: not all of its weights are finite"]
    assert str(best) not in {p["path"] for p in result.document["parents"]}
    refused = mine("merge", "run_000", best, "--budget", "3")
    assert refused.status == 2
    assert f"{best} cannot be merged: some of its weights are NaN" in " ".join(refused.err.split())


@pytest.mark.slow
def test_a_search_for_merges_says_which_checkpoints_are_left_out_for_their_weights(with_nan, tmp_path):
    mine, best = with_nan
    result = mine("merge", "--budget", "3", "--save", tmp_path / "merged", "--json")
    assert result.status == 0, result.err
    check("merge", result.document)
    assert result.document["left_out"] == [f"{best} is left out: not all of its weights are finite"]
    assert f"{best} is left out" in " ".join(result.err.split())
