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
