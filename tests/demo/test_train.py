import subprocess
import sys

import pytest
import torch

from epsopt.demo.finetune import DivergedError
from epsopt.demo.hooks import evaluate
from epsopt.demo.run import Plan
from epsopt.demo.run import train as carry_out
from epsopt.demo.space import SPACE
from epsopt.demo.train import main

DEFAULTS = {p.name: p.default for p in SPACE}
QUICK = ["--epochs", "2", "--batch-size", "256"]


def train(out, base, *more):
    return main(["--out", str(out), "--base", str(base), *QUICK, *more])


def read(path):
    return torch.load(path, weights_only=True)


def same_weights(left, right):
    left, right = left["model_state_dict"], right["model_state_dict"]
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_writes_its_documented_files(tmp_path, quick_base, capsys):
    run = tmp_path / "run"
    assert train(run, quick_base, "--encoder", "top", "--seed", "5", "--lr", "0.002") == 0
    assert sorted(path.name for path in run.iterdir()) == ["epoch_001.pt", "epoch_002.pt"]
    last = read(run / "epoch_002.pt")
    assert set(last) == {"model_state_dict", "metrics", "config", "epoch"}
    assert last["epoch"] == 2
    assert last["config"] == {
        **DEFAULTS,
        "encoder": "top",
        "lr": 0.002,
        "batch_size": 256,
        "epochs": 2,
        "seed": 5,
        "projection": "base",
        "init_from": str(quick_base.resolve()),
    }
    assert all(type(value) in (str, int, float, bool) for value in last["config"].values())
    assert all(type(value) is float for value in last["metrics"].values())
    assert evaluate(last["model_state_dict"]) == last["metrics"]
    assert "epoch   2 coverage" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path, quick_base):
    for name, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        assert train(tmp_path / name, quick_base, "--seed", seed) == 0
    one, two, three = (read(tmp_path / name / "epoch_002.pt") for name in ("one", "two", "three"))
    assert same_weights(one, two)
    assert one["metrics"] == two["metrics"]
    assert not same_weights(one, three)


def test_checkpoints_are_written_every_n_epochs_and_at_the_end(tmp_path, quick_base):
    assert train(tmp_path / "run", quick_base, "--epochs", "3", "--save-every", "2", "--encoder", "frozen") == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["epoch_002.pt", "epoch_003.pt"]


def moved(run, base):
    before, after = read(base)["model_state_dict"], read(run / "epoch_002.pt")["model_state_dict"]
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("encoder", "stays"),
    [
        ("frozen", [".encoder.", "decoder"]),
        ("top", [".hidden.0.", ".hidden.1.", "decoder"]),
        ("full", ["decoder"]),
    ],
)
def test_only_what_is_unfrozen_moves(tmp_path, quick_base, encoder, stays):
    assert train(tmp_path / "run", quick_base, "--encoder", encoder) == 0
    names = read(quick_base)["model_state_dict"]
    assert moved(tmp_path / "run", quick_base) == {n for n in names if not any(part in n for part in stays)}


def test_encoders_stand_still_until_the_unfreezing_epoch(tmp_path, quick_base):
    assert train(tmp_path / "run", quick_base, "--unfreeze-epoch", "2", "--weight-decay", "0.1") == 0
    assert not any(".encoder." in name for name in moved(tmp_path / "run", quick_base))


def test_an_option_without_effect_is_noted_and_not_recorded(tmp_path, quick_base, capsys):
    assert train(tmp_path / "run", quick_base, "--encoder", "frozen", "--kl-weight", "0.1") == 0
    assert "--kl-weight has no effect with --encoder frozen" in capsys.readouterr().err
    config = read(tmp_path / "run" / "epoch_002.pt")["config"]
    assert not {"encoder_lr_scale", "unfreeze_epoch", "recon_weight", "kl_weight"} & set(config)


def test_a_run_can_start_at_any_checkpoint(tmp_path, quick_base):
    assert train(tmp_path / "first", quick_base) == 0
    start = tmp_path / "first" / "epoch_001.pt"
    assert main(["--out", str(tmp_path / "second"), "--init-from", str(start), *QUICK, "--lr", "1e-9"]) == 0
    second = read(tmp_path / "second" / "epoch_001.pt")
    assert second["config"]["init_from"] == str(start.resolve())
    assert second["metrics"]["coverage"] == pytest.approx(read(start)["metrics"]["coverage"], abs=1e-3)
    assert not (tmp_path / "base").exists()


def test_projections_start_at_the_base_or_afresh(tmp_path, quick_base):
    name = "branches.a.projection.direction.0.weight"
    base = read(quick_base)["model_state_dict"][name]
    far = {}
    for projection in ("base", "fresh"):
        arguments = ["--projection", projection, "--encoder", "frozen", "--lr", "1e-6"]
        assert train(tmp_path / projection, quick_base, *arguments) == 0
        far[projection] = float((read(tmp_path / projection / "epoch_001.pt")["model_state_dict"][name] - base).norm())
    assert far["base"] < 0.01 < 1 < far["fresh"]


def test_the_base_is_trained_beside_the_run_when_none_is_named(tmp_path):
    arguments = ["--out", str(tmp_path / "run"), "--base-epochs", "1", "--encoder", "frozen", *QUICK]
    assert main(arguments) == 0
    base = read(tmp_path / "base" / "epoch_000.pt")
    assert base["config"]["stage"] == "base"
    assert base["epoch"] == 0
    assert set(base["metrics"]) == {"coverage", "dist_corr", "rad_hier"}


@pytest.mark.slow
def test_two_trainers_that_start_at_once_share_one_base(tmp_path):
    command = [sys.executable, "-m", "epsopt.demo.train", "--base-epochs", "1", "--epochs", "1"]
    trainers = [
        subprocess.Popen([*command, "--out", str(tmp_path / name)], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    errors = [trainer.communicate()[1] for trainer in trainers]
    assert [trainer.returncode for trainer in trainers] == [0, 0]
    assert sum("training the base, once" in error for error in errors) == 1
    assert [path.name for path in (tmp_path / "base").glob("*.pt*")] == ["epoch_000.pt"]
    assert same_weights(read(tmp_path / "one" / "epoch_001.pt"), read(tmp_path / "two" / "epoch_001.pt"))


def test_a_base_of_other_making_is_refused(tmp_path, quick_base, capsys):
    assert train(tmp_path / "run", quick_base, "--base-epochs", "2") == 2
    assert "was trained with base_epochs 1, not 2" in capsys.readouterr().err


def test_a_folder_that_holds_another_run_is_refused_and_the_same_run_is_repeated(tmp_path, quick_base, capsys):
    assert train(tmp_path / "run", quick_base) == 0
    first = read(tmp_path / "run" / "epoch_002.pt")
    assert train(tmp_path / "run", quick_base) == 0
    assert same_weights(first, read(tmp_path / "run" / "epoch_002.pt"))
    assert train(tmp_path / "run", quick_base, "--lr", "0.004") == 2
    assert "holds another run, with lr 0.003 instead of 0.004" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr", "-1"], "argument --lr: expected a number from 1e-09 to 1, not '-1'"),
        (["--lr", "nan"], "expected a number from"),
        (["--dist-weight", "inf"], "expected a number of at least 0, not 'inf'"),
        (["--grad-clip", "much"], "not 'much'"),
        (["--unfreeze-epoch", "1.5"], "expected a whole number of at least 0, not '1.5'"),
        (["--encoder", "half"], "invalid choice: 'half'"),
        (["--batch-size", "100"], "invalid choice: 100"),
        (["--epochs", "0"], "expected a whole number of at least 1, not '0'"),
        (["--enc", "full"], "unrecognized arguments: --enc full"),
    ],
)
def test_a_bad_option_gets_one_sentence_and_status_2(tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(tmp_path / "run"), *arguments])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_start_that_is_missing_or_no_checkpoint_gets_one_sentence_and_status_2(tmp_path, capsys):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    foreign = tmp_path / "foreign.pt"
    torch.save({"model_state_dict": {"weight": torch.zeros(2)}}, foreign)
    for path, sentence in (
        (tmp_path / "none.pt", "there is no checkpoint at"),
        (broken, "is no checkpoint of the ternary model"),
        (foreign, "is no checkpoint of the ternary model"),
    ):
        assert main(["--out", str(tmp_path / "run"), "--init-from", str(path)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert str(path) in error
        assert error.count("\n") == 1


def test_base_and_init_from_together_are_refused(tmp_path, quick_base, capsys):
    assert train(tmp_path / "run", quick_base, "--init-from", str(quick_base)) == 2
    assert "--base and --init-from" in capsys.readouterr().err


def test_a_diverged_run_says_so_and_keeps_no_worthless_checkpoint(tmp_path, quick_base):
    poisoned = read(quick_base)
    poisoned["model_state_dict"]["branches.a.projection.radius.0.bias"][:] = float("nan")
    torch.save(poisoned, tmp_path / "poisoned.pt")
    with pytest.raises(DivergedError, match="the loss became nan in epoch 1: try a smaller --lr"):
        carry_out(Plan(tmp_path / "run", tmp_path / "poisoned.pt", DEFAULTS, epochs=1))
    assert not (tmp_path / "run").exists()
