import shutil

import pytest
import torch

from epsopt.demo.base import base_path
from epsopt.demo.sweep import main, plan_runs


@pytest.fixture
def runs(tmp_path, quick_base):
    """A folder for runs that already holds a base of one epoch."""
    base_path(tmp_path).parent.mkdir()
    shutil.copy(quick_base, base_path(tmp_path))
    return tmp_path


def sweep(out, runs, *more):
    return main(["--out", str(out), "--runs", str(runs), "--jobs", "1", "--epochs", "1", "--base-epochs", "1", *more])


def test_the_same_seed_plans_the_same_runs_and_a_longer_sweep_extends_a_shorter_one(tmp_path):
    short, long, other = plan_runs(tmp_path, 5, 1), plan_runs(tmp_path, 8, 1), plan_runs(tmp_path, 5, 2)
    assert short == long[:5]
    assert len({plan.seed for plan in [*long, *other]}) == 13
    assert all(a.hyperparameters != b.hyperparameters for a, b in zip(short, other, strict=True))


def test_a_sweep_resumes_where_it_stopped_and_a_second_call_changes_nothing(runs, capsys):
    assert sweep(runs, 2) == 0
    assert "[2/2]" in capsys.readouterr().err
    times = {path: path.stat().st_mtime_ns for path in runs.rglob("*.pt")}
    (runs / "run_000" / "epoch_001.pt").unlink()
    assert sweep(runs, 3) == 0
    assert "[2/2]" in capsys.readouterr().err
    assert sorted(path.parent.name for path in runs.rglob("*.pt")) == [
        "base",
        "run_000",
        "run_001",
        "run_002",
    ]
    assert (runs / "run_001" / "epoch_001.pt").stat().st_mtime_ns == times[runs / "run_001" / "epoch_001.pt"]
    assert sweep(runs, 3) == 0
    assert capsys.readouterr().err == ""
    config = torch.load(runs / "run_002" / "epoch_001.pt", weights_only=True)["config"]
    planned = plan_runs(runs, 3, 0, epochs=1)[2]
    assert config == planned.config()


def test_a_folder_of_another_sweep_is_refused(runs, capsys):
    assert sweep(runs, 1) == 0
    assert sweep(runs, 1, "--seed", "7") == 2
    assert "run_000 holds another run" in capsys.readouterr().err


@pytest.mark.slow
def test_several_jobs_train_the_runs_that_one_would(runs, capsys):
    assert sweep(runs, 2, "--jobs", "2") == 0
    metrics = [torch.load(plan.last(), weights_only=True)["metrics"] for plan in plan_runs(runs, 2, 0, epochs=1)]
    shutil.rmtree(runs / "run_001")
    assert sweep(runs, 2) == 0
    assert torch.load(runs / "run_001" / "epoch_001.pt", weights_only=True)["metrics"] == metrics[1]
    assert capsys.readouterr().err.count("coverage") == 3


def test_a_run_that_fails_is_named_and_the_others_go_on(runs, capsys):
    content = torch.load(base_path(runs), weights_only=True)
    content["model_state_dict"]["branches.b.projection.radius.1.bias"][:] = float("nan")
    torch.save(content, base_path(runs))
    assert sweep(runs, 2) == 1
    assert capsys.readouterr().err.count("failed: the loss became nan in epoch 1") == 2


def test_bad_options_get_one_sentence_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        sweep(tmp_path, 0)
    assert exit_.value.code == 2
    assert "expected a whole number of at least 1, not '0'" in capsys.readouterr().err
