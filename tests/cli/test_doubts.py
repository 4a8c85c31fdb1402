"""What makes predictions of files doubtful is said once a kind, after the table, with the files that it is about."""

from __future__ import annotations

import torch

from .conftest import call


def test_many_files_of_one_kind_are_named_in_one_sentence(project, tmp_path):
    for i in range(3):
        content = torch.load(project.runs / "run_000" / f"epoch_{i + 1:03d}.pt", weights_only=True)
        content["model_state_dict"] = {
            name: value + 0.5 * torch.randn(value.shape, generator=torch.Generator().manual_seed(i))
            for name, value in content["model_state_dict"].items()
        }
        torch.save(content, tmp_path / f"strange_{i}.pt")
    printed = call(project.folder, "predict", *sorted(tmp_path.glob("*.pt"))).out
    flat = " ".join(printed.split())
    assert flat.count("Careful with") == 1, printed
    assert "(3 of 3): the" in flat
    assert printed.index("strange_2.pt") < printed.index("Careful with")


def test_metrics_that_are_no_objectives_any_more_have_no_columns(project, copy):
    mine = copy(project)
    file = mine.folder / "epsopt.toml"
    text = file.read_text()
    start = text.index("[objectives.rad_hier]")
    end = text.index("\n[", start + 1)
    file.write_text(text[:start] + text[end + 1 :])
    file = mine.runs / "run_000" / "epoch_003.pt"
    for arguments in (["nearest", "run_000:2"], ["predict", file], ["cluster", "-k", "2"], ["trajectory", "run_000"]):
        result = mine(*arguments)
        assert result.status == 0, result.err
        assert "rad_hier" not in result.out, arguments
        assert "coverage" in result.out, arguments


def test_predictions_of_what_the_map_learned_from_are_said_to_be_no_test(project, tmp_path):
    known = project.runs / "run_000" / "epoch_002.pt"
    content = torch.load(known, weights_only=True)
    content["model_state_dict"] = {name: value * 1.001 for name, value in content["model_state_dict"].items()}
    torch.save(content, tmp_path / "unseen.pt")
    both = " ".join(call(project.folder, "predict", known, tmp_path / "unseen.pt").out.split())
    assert "1 of these 2 checkpoints taught the map what they measured: this is no test of it." in both
    alone = " ".join(call(project.folder, "predict", known).out.split())
    assert "This checkpoint taught the map what it measured" in alone
    assert "taught the map" not in call(project.folder, "predict", tmp_path / "unseen.pt").out


def test_predictions_are_compared_with_what_files_measured_that_the_map_did_not_learn_from(project, tmp_path):
    measured = {}
    for i in range(3):
        content = torch.load(project.runs / "run_001" / f"epoch_{i + 1:03d}.pt", weights_only=True)
        content["model_state_dict"] = {name: value * 1.001 for name, value in content["model_state_dict"].items()}
        content["metrics"]["coverage"] = measured[i] = -7.0 if i == 2 else content["metrics"]["coverage"]
        torch.save(content, tmp_path / f"unseen_{i}.pt")
    files = [*sorted(tmp_path.glob("*.pt")), project.runs / "run_001" / "epoch_001.pt"]
    result = call(project.folder, "predict", *files, "--json")
    predicted = [p["predicted"]["coverage"] for p in result.document["predictions"][:3]]
    found = next(t for t in result.document["tested"] if t["metric"] == "coverage")
    errors = [abs(p["value"] - measured[i]) for i, p in enumerate(predicted)]
    assert found["files"] == 3
    assert abs(found["mean_absolute_error"] - sum(errors) / 3) < 1e-9
    assert found["inside"] == sum(p["low"] <= measured[i] <= p["high"] for i, p in enumerate(predicted)) < 3
    printed = call(project.folder, "predict", *files).out
    assert "Predicted beside measured" in printed
    assert f"{found['inside']} of 3" in printed
    alone = call(project.folder, "predict", files[0])
    assert "Predicted beside measured" not in alone.out
