"""A scan of runs: which metrics are measured along the way, and which only the ends of runs have."""

from __future__ import annotations

import warnings

import pytest
import torch

from epsopt.studies.project.scan_runs import survey
from tests.zoo.layouts.examples import bert_trainer


def run_of(folder, metrics, lr=0.1, first=1):
    """A run of plain PyTorch, a checkpoint for each mapping of metrics."""
    folder.mkdir(parents=True)
    for epoch, said in enumerate(metrics, first):
        state = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(hash((lr, epoch)) % 2**31))}
        torch.save(
            {"model_state_dict": state, "epoch": epoch, "metrics": said, "config": {"lr": lr}},
            folder / f"epoch_{epoch:02d}.pt",
        )


@pytest.mark.parametrize("n", [2, 5, 12])
def test_a_test_score_that_only_the_last_checkpoints_have_is_distinguished(tmp_path, n):
    for i in range(3):
        metrics = [{"val_loss": 1 / e + i} for e in range(1, n + 1)]
        metrics[-1]["test_accuracy"] = 0.5 + 0.1 * i
        run_of(tmp_path / f"run_{i}", metrics, lr=0.1 * (i + 1))
    assert survey(tmp_path).at_ends == ("test_accuracy",)


def test_a_metric_that_is_measured_now_and_then_is_measured_along_the_way(tmp_path):
    for i in range(4):
        run_of(tmp_path / f"run_{i}", [{"loss": 1.0, **({"acc": 0.5} if e % 5 == 0 else {})} for e in range(1, 21)])
    assert survey(tmp_path).at_ends == ()


def test_what_only_earlier_checkpoints_say_is_known_where_the_last_file_has_the_test_score_alone(tmp_path):
    for i in range(2):
        run_of(tmp_path / f"run_{i}", [{"val_loss": 1 / e} for e in (1, 2, 3)], lr=0.1 + i)
        state = torch.load(tmp_path / f"run_{i}" / "epoch_03.pt")
        torch.save({**state, "metrics": {"test_acc": 0.75}}, tmp_path / f"run_{i}" / "final.pt")
    seen = survey(tmp_path)
    assert (sorted(seen.metrics), seen.at_ends) == (["test_acc", "val_loss"], ("test_acc",))


def test_runs_of_one_checkpoint_say_nothing_of_the_way(tmp_path):
    run_of(tmp_path / "a", [{"test_acc": 0.5}])
    run_of(tmp_path / "b", [{"test_acc": 0.6}], lr=0.2)
    assert survey(tmp_path).at_ends == ()


def test_lightning_measures_a_test_after_training_at_the_ends_alone(tmp_path):
    pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    class Model(pl.LightningModule):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Linear(3, 1)

        def training_step(self, batch, index):
            return self.net(batch[0]).square().mean()

        def validation_step(self, batch, index):
            self.log("val_acc", 0.25 * self.current_epoch)

        def test_step(self, batch, index):
            self.log("test_acc", 0.5)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)), batch_size=2)
    for lr in (0.1, 0.01):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=3, accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False,
                enable_model_summary=False, callbacks=[ModelCheckpoint(save_top_k=-1)],
            )  # fmt: skip
            model = Model(lr)
            trainer.fit(model, data, data)
            trainer.test(model, data, verbose=False)
    seen = survey(tmp_path)
    assert {"val_acc", "test_acc"} <= set(seen.metrics)
    assert "test_acc" in seen.at_ends
    assert "val_acc" not in seen.at_ends


def test_steps_that_epochs_and_rows_come_to_are_no_choice_of_a_trainer(tmp_path):
    """The Trainer keeps the number of steps in its state, whether or not it was given one."""
    for name, more in (("a", {}), ("b", {"max_steps": 3})):
        trainer = bert_trainer(tmp_path / name, (0.25, 0.5, 0.75, 1.0), learning_rate=0.001, **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
    seen = survey(tmp_path)
    by_epochs, by_steps = seen.hyperparameters
    assert "max_steps" not in by_epochs
    assert (by_epochs["num_train_epochs"], by_steps["max_steps"]) == (2, 3)
    assert seen.counts_steps


def test_checkpoints_of_epochs_count_none(tmp_path):
    run_of(tmp_path / "a", [{"loss": 1.0}])
    assert not survey(tmp_path).counts_steps


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_is_the_one_that_a_linear_decay_began_with(tmp_path, schedule):
    """Logged every other step, the first entry of a decay is lower than what the Trainer was given."""
    trainer = bert_trainer(tmp_path / "a", (0.25, 0.5, 0.75, 1.0), learning_rate=0.001, lr_scheduler_type=schedule)
    trainer.args.logging_steps = trainer.state.logging_steps = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    said = survey(tmp_path).hyperparameters[0]["learning_rate"]
    if schedule == "cosine":
        assert said < 0.001
    else:
        assert said == pytest.approx(0.001)


def test_a_run_whose_newest_file_is_no_model_is_judged_by_another(tmp_path):
    for i in range(2):
        run_of(tmp_path / f"run_{i}", [{"val_loss": 1 / e} for e in (1, 2)], lr=0.1 + i)
        state = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 2}
        torch.save(state, tmp_path / f"run_{i}" / "training_state_2.pt")
    seen = survey(tmp_path)
    assert [p.name for p in seen.newest] == ["epoch_02.pt", "epoch_02.pt"]
    assert sorted(seen.metrics) == ["val_loss"]
    assert [f.path.rpartition("/")[2] for f in seen.failed] == ["training_state_2.pt"] * 2


def networks_of_one_moment(run):
    """A run that saves two networks at each moment, and one log of both."""
    run.mkdir()
    for epoch in (1, 2):
        for name, width in (("actor", 4), ("critic", 5)):
            torch.save({"w": torch.randn(width, 3), "b": torch.randn(width)}, run / f"{name}_{epoch}.pt")
    (run / "metrics.csv").write_text("epoch,reward\n1,0.5\n2,0.7\n")


def test_metrics_that_no_network_of_a_moment_is_given_are_distinguished(tmp_path):
    for i in range(2):
        networks_of_one_moment(tmp_path / f"run_{i}")
    seen = survey(tmp_path)
    assert seen.unnamed_model == ("reward",)
    assert any("weights_key" in f.reason for f in seen.side_file_failures)


def test_copies_of_one_network_leave_its_metrics_measured(tmp_path):
    for i in range(2):
        run_of(tmp_path / f"run_{i}", [{}, {}], lr=0.1 + i)
        torch.save(torch.load(tmp_path / f"run_{i}" / "epoch_02.pt"), tmp_path / f"run_{i}" / "model_02.pt")
        (tmp_path / f"run_{i}" / "metrics.csv").write_text("epoch,reward\n1,0.5\n2,0.7\n")
    seen = survey(tmp_path)
    assert (sorted(seen.metrics), seen.unnamed_model) == (["reward"], ())


def test_a_run_whose_newest_files_are_broken_is_judged_by_an_earlier_one(tmp_path):
    run_of(tmp_path / "a", [{"val_loss": 1 / e} for e in (1, 2, 3, 4)])
    (tmp_path / "a" / "epoch_04.pt").write_bytes(b"")
    whole = (tmp_path / "a" / "epoch_03.pt").read_bytes()
    (tmp_path / "a" / "epoch_03.pt").write_bytes(whole[: len(whole) // 2])
    seen = survey(tmp_path)
    assert [p.name for p in seen.newest] == ["epoch_02.pt"]
    assert (sorted(seen.metrics), len(seen.failed)) == (["val_loss"], 1)
