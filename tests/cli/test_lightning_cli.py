"""A project of LightningCLI is understood by the names of its command line, and launched as LightningCLI is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from epsopt.studies import load_project, open_storage, record_proposals
from epsopt.studies.optuna_io.queue import ProposalRecord
from epsopt.studies.project.launch_form import launch_form

from .conftest import Project, call
from .foreign_projects import train

_TRAIN = '''
"""Fit a line with a small network, launched by LightningCLI."""
import json, logging, sys, warnings
from pathlib import Path
import torch
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI
from torch import nn

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(1)


class Net(pl.LightningModule):
    def __init__(self, width: int = 4, lr: float = 0.01, dropout: float = 0.1):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, width), nn.Dropout(dropout), nn.Linear(width, 1))

    def training_step(self, batch, _):
        x, y = batch
        return ((self.net(x) - y) ** 2).mean()

    def validation_step(self, batch, _):
        x, y = batch
        error = self.net(x) - y
        self.log("val_mse", (error ** 2).mean())
        self.log("val_mae", error.abs().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Data(pl.LightningDataModule):
    def __init__(self, noise: float = 0.1, batch_size: int = 16):
        super().__init__()
        self.noise, self.batch_size = noise, batch_size

    def _loader(self, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 8, generator=generator)
        y = x.sum(1, keepdim=True) + self.noise * torch.randn(rows, 1, generator=generator)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=self.batch_size)

    def train_dataloader(self):
        return self._loader(64, 0)

    def val_dataloader(self):
        return self._loader(32, 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--several"]:  # one start of the interpreter for many runs
        for line in json.loads(Path(sys.argv[2]).read_text()):
            LightningCLI(Net, Data, args=line)
    else:
        LightningCLI(Net, Data)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
    folder = tmp_path_factory.mktemp("lightning_cli")
    (folder / "train.py").write_text(_TRAIN)
    quiet = [f"--trainer.{name}=false" for name in ("enable_progress_bar", "enable_model_summary")]
    lines = [
        ["fit", f"--seed_everything={i}", f"--model.lr={rate}", f"--data.noise={noise}", "--model.width=6", *quiet,
         "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.logger=CSVLogger",
         "--trainer.logger.save_dir=logs"]
        for i, (rate, noise) in enumerate(((0.001, 0.1), (0.01, 0.2), (0.1, 0.3)))
    ]  # fmt: skip
    (folder / "lines.json").write_text(json.dumps(lines))
    train(folder, "train.py", "--several", "lines.json")
    assert call(folder, "init", "logs").status == 0
    result = call(folder, "ingest")
    assert result.status == 0, result.err
    return Project(folder, folder / "logs")


@pytest.mark.slow
def test_its_space_has_the_names_that_its_command_line_takes(project):
    written = tomllib.loads((project.folder / "epsopt.toml").read_text())
    assert set(written["space"]) == {"model.lr", "data.noise"}
    assert set(written["objectives"]) == {"val_mse", "val_mae"}
    command = written["train"]["command"]
    assert command[:4] == ["{python}", "train.py", "fit", "--config"]
    assert (project.folder / command[4]).is_file()
    assert command[5:] == [
        "--trainer.default_root_dir={out}", "--trainer.logger.init_args.save_dir={out}", "--data.noise={data.noise}",
        "--model.lr={model.lr}", "--seed_everything={seed}", ["--trainer.max_epochs={epochs}"],
    ]  # fmt: skip


@pytest.mark.slow
def test_what_a_run_was_given_is_launched_again_with_everything_else_as_it_was(project):
    found = load_project(project.folder / "epsopt.toml")
    assert found.space is not None
    params = {"model.lr": 0.0123, "data.noise": 0.25}
    storage = open_storage(found.storage)
    (number,) = record_proposals(storage, found.name, found.objectives, found.space, [ProposalRecord(params)])
    result = call(project.folder, "work", "--learn-after", "0")
    assert result.status == 0, result.err
    assert "1 trained" in result.out, result.out
    (kept,) = (project.runs / f"proposal_{number:03d}").rglob("config.yaml")
    config = yaml.safe_load(kept.read_text())
    assert (config["model"], config["data"]["noise"]) == ({"width": 6, "lr": 0.0123, "dropout": 0.1}, 0.25)
    assert (config["trainer"]["max_epochs"], config["seed_everything"]) == (2, number)
    (listed,) = (r for r in call(project.folder, "runs", "--json").document["runs"] if r["proposal"] == number)
    assert (listed["state"], listed["checkpoints"]) == ("complete", 1)
    assert listed["metrics"]["val_mse"] is not None


def _kept(folder: Path, text: str, script: str = "LightningCLI(Net)\n") -> list[str]:
    """Constants of the command for a configuration that lies beside a checkpoint."""
    (folder / "main.py").write_text(script)
    run = folder / "logs" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(text)
    form = launch_form([run / "checkpoints" / "epoch=0.ckpt"], folder)
    assert (form.kind, form.script) == ("lightning", "main.py")
    return list(form.constants)


def test_of_several_loggers_the_first_is_kept_and_a_continued_run_begins_anew(tmp_path):
    text = (
        "trainer: {logger: [{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs}}, "
        "{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: logs}}]}\n"
        "model: {lr: 0.1}\nckpt_path: last.ckpt\n"
    )
    assert _kept(tmp_path, text) == [
        "fit", "--config", "logs/version_0/config.yaml", "--trainer.default_root_dir={out}",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.init_args.save_dir={out}",
        "--ckpt_path=null",
    ]  # fmt: skip


def test_a_program_without_subcommands_is_given_none(tmp_path):
    said = _kept(tmp_path, "trainer: {logger: null}\nmodel: {lr: 0.1}\n", "cli = LightningCLI(Net, run=False)\n")
    assert said == ["--config", "logs/version_0/config.yaml", "--trainer.default_root_dir={out}"]


def test_another_programs_config_is_none_of_lightning_cli(tmp_path):
    (tmp_path / "train.py").write_text('parser.add_argument("--lr")\n')
    run = tmp_path / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("lr: 0.1\nmodel: resnet\n")
    assert launch_form([run / "checkpoints" / "epoch=0.ckpt"], tmp_path).kind == "arguments"
