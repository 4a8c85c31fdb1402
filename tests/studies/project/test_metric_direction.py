"""Names tell which way a metric is better, or honestly do not."""

from __future__ import annotations

import pytest

from epsopt.studies.project.metric_direction import MOST_OBJECTIVES, guess_maximize, is_bookkeeping, leave_out


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "valLoss", "test/MAE", "perplexity", "eval.wer", "accuracy_error"]
)
def test_errors_are_minimized(name):
    assert guess_maximize(name) is False


@pytest.mark.parametrize(
    "name", ["accuracy", "val/acc", "coverage", "dist_corr", "R2", "topAcc", "error_recall", "test_acc1", "recall5"]
)
def test_scores_are_maximized(name):
    assert guess_maximize(name) is True


@pytest.mark.parametrize(
    ("name", "maximize"),
    [
        ("neg_mean_squared_error", True),
        ("val/neg_log_loss", True),
        ("negative_similarity", False),
        ("false_negative_error", False),
        ("test_neg_loss", True),
    ],
)
def test_a_negated_metric_is_better_the_other_way(name, maximize):
    assert guess_maximize(name) is maximize


@pytest.mark.parametrize("name", ["accuracy_drop", "loss_reduction", "acc_gap", "score/delta", "error_decrease"])
def test_a_change_of_a_metric_is_not_guessed(name):
    assert guess_maximize(name) is None


@pytest.mark.parametrize("name", ["rad_hier", "x", "", "alpha_2", "glossary"])
def test_a_name_that_says_nothing_is_not_guessed(name):
    assert guess_maximize(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("eval_a_runtime", "eval_b_samples_per_second", "train_steps_per_second", "total_flos", "epoch", "step"),
        *("global_step", "lr", "lr-AdamW/pg1", "learning_rate", "grad_norm", "grad_2.0_norm_total", "hp_metric"),
        *(
            "gpu_mem_alloc",
            "peak_memory",
            "data_time",
            "time_total_s",
            "training_iteration",
            "tokens/sec",
            "throughput",
        ),
    ],
)
def test_what_a_trainer_keeps_books_of_is_no_objective(name):
    assert is_bookkeeping(name)
    assert [e.reason for e in leave_out([name, "val_loss"])] == ["bookkeeping"]


@pytest.mark.parametrize(
    "name",
    ["latency", "inference_time", "n_params", "flops", "val_loss_epoch", "val_acc", "eval_loss", "wer", "recall"],
)
def test_what_a_model_costs_and_reaches_may_be_an_objective(name):
    assert not is_bookkeeping(name)
    assert leave_out([name]) == []


@pytest.mark.parametrize(
    ("names", "training"),
    [
        (["train_loss", "val_loss"], ["train_loss"]),
        (["loss", "eval_loss"], ["loss"]),  # Hugging Face's Trainer
        (["loss", "accuracy", "val_loss", "val_accuracy"], ["loss", "accuracy"]),  # Keras
        (["train/loss_step", "train/loss_epoch", "val/acc"], ["train/loss_step", "train/loss_epoch"]),
        (["loss", "test_acc"], ["loss"]),
        (["train_loss"], []),  # nothing else says how good the model is
        (["loss", "accuracy"], []),
        (["trainLoss", "coverage"], ["trainLoss"]),
        (["val_loss", "test_loss"], []),
    ],
)
def test_training_metrics_are_no_objectives_beside_others(names, training):
    assert [e.name for e in leave_out(names) if e.reason == "training"] == training


def test_the_best_so_far_is_no_objective_beside_what_each_checkpoint_reaches():
    out = {e.name: e.reason for e in leave_out(["val_acc", "best_val_acc", "best_loss"])}
    assert out == {"best_val_acc": "best", "best_loss": "best"}
    assert leave_out(["best_acc1"]) == []


def test_of_very_many_metrics_those_of_short_names_are_objectives():
    names = ["mIoU", *(f"IoU/class_{i}" for i in range(150))]
    out = leave_out(names)
    assert {e.reason for e in out} == {"more"}
    assert len(names) - len(out) == MOST_OBJECTIVES
    assert "mIoU" not in [e.name for e in out]


@pytest.mark.parametrize(
    ("names", "at_ends", "objectives"),
    [
        (["val_loss", "val_acc", "test_acc"], ["test_acc"], ["val_loss", "val_acc"]),
        (["loss", "accuracy", "test_accuracy"], ["test_accuracy"], ["loss", "accuracy"]),
        (["train_loss", "test_acc"], ["test_acc"], ["test_acc"]),  # a loss of training says little of the model
        (["epoch_time", "test_acc", "test_loss"], ["test_acc", "test_loss"], ["test_acc", "test_loss"]),
        (["val_loss", "odd", "test_acc"], ["odd", "test_acc"], ["val_loss", "odd"]),  # nobody knows its direction
        (["test_acc", "val_loss"], [], ["test_acc", "val_loss"]),
    ],
)
def test_what_only_the_ends_of_runs_have_is_no_objective_beside_what_is_measured_along_the_way(
    names, at_ends, objectives
):
    out = {e.name: e.reason for e in leave_out(names, at_ends)}
    assert [n for n in names if n not in out] == objectives
    assert {out[n] for n in at_ends if n in out} <= {"ends"}


def test_a_metric_of_one_value_is_no_objective_beside_one_that_varies():
    out = {e.name: e.reason for e in leave_out(["val_loss", "top5", "lr"], constant=["top5", "lr"])}
    assert out == {"top5": "constant", "lr": "bookkeeping"}
    assert leave_out(["top5", "odd"], constant=["top5"]) == []  # the other may vary
