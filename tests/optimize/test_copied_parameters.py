"""What is recorded twice, or follows from a choice, is searched once: whoever sets one of them sets them all."""

from __future__ import annotations

from epsopt.optimize.copied_parameters import copied_parameters
from epsopt.optimize.space_inference import infer_space, left_out

RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
WIDTHS = {"small": 4, "wide": 8}


def runs_of_groups():
    """Runs of Hydra with two groups, of which Lightning keeps what it was given."""
    out = []
    for i, lr in enumerate(RATES):
        model, optimizer = ("small", "wide")[i % 2], ("adam", "sgd")[i // 3]
        run = {
            "model": model, "model.name": model, "model.width": WIDTHS[model], "width": WIDTHS[model],
            "optimizer": optimizer, "optimizer.name": optimizer, "optimizer.lr": lr, "lr": lr,
        }  # fmt: skip
        if optimizer == "sgd":
            run |= {"optimizer.momentum": 0.9 - lr, "momentum": 0.9 - lr}
        out.append(run)
    return out


def test_what_a_group_or_another_name_sets_is_searched_once():
    space = infer_space(runs_of_groups())
    assert [p.name for p in space.parameters] == ["model", "optimizer", "optimizer.lr", "optimizer.momentum"]
    assert space.parameters[-1].active_when == ("optimizer", ("sgd",))
    assert left_out(runs_of_groups()) == {
        "lr": "optimizer.lr sets it",
        "model.name": "model sets it",
        "model.width": "model sets it",
        "momentum": "optimizer.momentum sets it",
        "optimizer.name": "optimizer sets it",
        "width": "model sets it",
    }


def test_two_hyperparameters_that_are_the_same_by_chance_are_two():
    runs = [{"hidden1": n, "hidden2": n, "lr": lr} for n, lr in zip((8, 16, 32, 64), RATES, strict=False)]
    assert copied_parameters(runs) == {}


def test_one_run_that_differs_makes_two_of_them():
    runs = runs_of_groups()
    runs[0]["lr"] = 0.5
    assert "lr" not in copied_parameters(runs)
    runs[0]["model.width"] = 5
    assert "model.width" not in copied_parameters(runs)


def test_a_choice_of_each_run_decides_nothing():
    runs = [{"model": f"m{i}", "model.width": i, "lr": lr} for i, lr in enumerate(RATES)]
    assert "model.width" not in copied_parameters(runs)


def test_a_range_is_logarithmic_by_its_name_or_as_its_values_are_spread():
    steps = [i / 19 for i in range(20)]
    runs = [
        {
            "lr": 0.01 + 0.09 * s, "dropout": 0.05 + 0.55 * s, "label_smoothing": 0.01 * 30**s,
            "noise": 0.02 + 0.48 * s, "temperature": 0.02 * 25**s, "scale": 0.001 * 1000**s,
        }
        for s in steps
    ]  # fmt: skip
    log = {p.name for p in infer_space(runs).parameters if p.log}
    assert log == {"lr", "temperature", "scale"}


def test_what_a_library_writes_under_its_own_name_is_what_the_program_was_given():
    runs = [
        {"rank": 2 ** (i % 3 + 1), "r": 2 ** (i % 3 + 1), "alpha": 8 * (i + 1), "lora_alpha": 8 * (i + 1),
         "batch_size": (8, 16)[i % 2], "train_batch_size": (8, 16)[i % 2], "num_train_epochs": (3, 6)[i % 2]}
        for i in range(8)
    ]  # fmt: skip
    assert copied_parameters(runs) == {
        "r": "rank", "lora_alpha": "alpha", "train_batch_size": "batch_size", "num_train_epochs": "batch_size",
    }  # fmt: skip
    assert [p.name for p in infer_space(runs).parameters] == ["alpha", "batch_size", "rank"]
    assert left_out(runs)["lora_alpha"] == "alpha sets it"
    runs[0]["lora_alpha"] = 4
    assert "lora_alpha" not in copied_parameters(runs)
    own = [{"r": 2 ** (i % 3), "lora_alpha": 8 * (i + 1), "num_train_epochs": i} for i in range(8)]
    assert copied_parameters(own) == {}
