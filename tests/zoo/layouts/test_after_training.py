"""What transformers' Trainer measures after training belongs to the checkpoint that it loaded then."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from epsopt.zoo.ingestion.ingest import ingest

from .examples import bert_trainer

ON_THE_WAY = (0.25, 0.9, 0.5, 0.4)
"""The second of four checkpoints is the best."""


def train(folder: Path, *, load_best: bool, save_model: bool = True) -> None:
    """Train four steps, save the model, and measure it on two sets of data, as the example scripts do."""
    at_end = 0.9 if load_best else 0.4
    trainer = bert_trainer(
        folder, (*ON_THE_WAY, at_end, 0.8),
        learning_rate=0.01, load_best_model_at_end=load_best, metric_for_best_model="acc",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
        if save_model:
            trainer.save_model()
        for name in ("eval", "test"):
            trainer.save_metrics(name, trainer.evaluate(metric_key_prefix=name))
        trainer.save_state()


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best checkpoint was loaded at the end, saved, and measured."""
    folder = tmp_path_factory.mktemp("best") / "run"
    train(folder, load_best=True)
    return folder


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that measured its last weights, and has no model beside its checkpoints."""
    folder = tmp_path_factory.mktemp("last") / "run"
    train(folder, load_best=False, save_model=False)
    return folder


def taken(catalogue, run: Path) -> dict[int | None, tuple[float | None, float | None]]:
    """Accuracy in the evaluation and in the test, by step."""
    report = ingest(catalogue, run.parent, jobs=1)
    assert (report.side_file_failures, report.failed) == ([], [])
    return {c.epoch: (c.metrics.get("eval_acc"), c.metrics.get("test_acc")) for c in catalogue.checkpoints()}


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy" / "run"))


def test_the_best_checkpoint_has_what_was_measured_after_it_was_loaded(catalogue, best):
    assert taken(catalogue, best) == {1: (0.25, None), 2: (0.9, 0.8), 3: (0.5, None), 4: (0.4, None)}


def test_the_last_checkpoint_has_it_where_no_other_was_loaded(catalogue, last):
    assert taken(catalogue, last) == {1: (0.25, None), 2: (0.9, None), 3: (0.5, None), 4: (0.4, 0.8)}


def test_the_log_of_the_whole_run_does_not_give_the_best_value_to_the_last_checkpoint(catalogue, best, tmp_path):
    """Only the Trainer's own state is left: it has two evaluations of step 4."""
    run = copy(best, tmp_path)
    for state in run.glob("checkpoint-*/trainer_state.json"):
        state.unlink()
    assert taken(catalogue, run)[2] == (0.9, 0.8)
    assert {c.epoch: c.metrics.get("eval_acc") for c in catalogue.checkpoints()}[4] == 0.4


def test_a_model_that_is_left_alone_has_what_was_measured_on_it(catalogue, best, tmp_path):
    run = copy(best, tmp_path)
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    assert taken(catalogue, run) == {None: (0.9, 0.8)}


def test_results_alone_are_enough(catalogue, best, tmp_path):
    run = copy(best, tmp_path)
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    (run / "trainer_state.json").unlink()
    assert taken(catalogue, run) == {None: (0.9, 0.8)}


def without_end(state: Path) -> None:
    """Take from a log what was measured after training."""
    content = json.loads(state.read_text())
    end = next(i for i, entry in enumerate(content["log_history"]) if "train_runtime" in entry)
    state.write_text(json.dumps({**content, "log_history": content["log_history"][: end + 1]}))
    for results in state.parent.glob("*_results.json"):
        results.unlink()


def test_a_model_of_which_nothing_says_which_it_is_has_neither_value(catalogue, best, tmp_path):
    run = copy(best, tmp_path)
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    without_end(run / "trainer_state.json")
    (said,) = ingest(catalogue, run.parent, jobs=1).side_file_failures
    assert said.path == str(run / "model.safetensors")
    assert said.reason.startswith("eval_acc, eval_loss: tested after training, and the log does not say whether on")
    assert catalogue.checkpoints()[0].metrics == {}


def test_a_test_that_repeats_no_evaluation_is_said_and_given_to_nobody(catalogue, best, tmp_path):
    run = copy(best, tmp_path)
    (run / "model.safetensors").unlink()
    without_end(run / "trainer_state.json")
    (run / "test_results.json").write_text(json.dumps({"epoch": 2.0, "test_acc": 0.7}))
    (said,) = ingest(catalogue, run.parent, jobs=1).side_file_failures
    assert said.path == str(run / "trainer_state.json")
    assert "test_acc: tested after training" in said.reason
    assert {c.metrics.get("test_acc") for c in catalogue.checkpoints()} == {None}
