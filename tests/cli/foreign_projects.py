"""Two projects of the usual kinds, as strangers have them: their own training programs, and runs that these wrote.

One trains a small CNN from scratch with Lightning under Hydra, with nested configuration groups. The other fine-tunes
an MLP from one base with argparse and a YAML file, and keeps the base outside its folder of runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

_HYDRA_TRAIN = '''
"""Train a CNN on the digits: accuracy under noise against calibration."""
import json, logging, sys, warnings
from pathlib import Path
import hydra, numpy, torch
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(1)
DIGITS = numpy.load(Path(__file__).with_name("digits.npz"))
X = torch.tensor(DIGITS["data"], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
Y = torch.tensor(DIGITS["target"])
KNOWN, HELD = slice(0, 600), slice(1200, 1600)


class Net(pl.LightningModule):
    def __init__(self, width, dropout, label_smoothing, lr, optimizer, momentum, noise):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width * 9, 10))
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        loss = self.loss(self(x + self.hparams.noise * torch.randn_like(x)), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_end(self):
        pass

    def validation_step(self, batch, _):
        x, y = batch
        generator = torch.Generator().manual_seed(0)
        noisy = x + 0.5 * torch.randn(x.shape, generator=generator)
        p = self(noisy).softmax(-1)
        confidence, guess = p.max(-1)
        right = (guess == y).float()
        bins = (confidence * 10).long().clamp(max=9)
        ece = sum((bins == b).float().mean() * (right[bins == b].mean() - confidence[bins == b].mean()).abs()
                  for b in range(10) if (bins == b).any())
        self.log("val/noisy_acc", right.mean())
        self.log("val/ece", torch.as_tensor(ece, dtype=torch.float32))
        self.log("val/loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        h = self.hparams
        if h.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=h.lr, momentum=h.momentum)
        return torch.optim.Adam(self.parameters(), lr=h.lr)


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    out = Path(HydraConfig.get().runtime.output_dir)
    pl.seed_everything(cfg.seed, verbose=False)
    net = Net(cfg.model.width, cfg.model.dropout, cfg.label_smoothing, cfg.optimizer.lr, cfg.optimizer.name,
              cfg.optimizer.get("momentum"), cfg.data.noise)
    load = lambda part, shuffle: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X[part], Y[part]), batch_size=64 if shuffle else 400, shuffle=shuffle)
    trainer = pl.Trainer(
        max_epochs=cfg.trainer.max_epochs, accelerator="cpu", logger=CSVLogger(out, name="logs"),
        callbacks=[ModelCheckpoint(save_top_k=-1, filename="{epoch}")], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1000)
    trainer.fit(net, load(KNOWN, True), load(HELD, False))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--several"]:  # one start of the interpreter for many runs
        for line in json.loads(Path(sys.argv[2]).read_text()):
            sys.argv[1:] = line
            main()
    else:
        main()
'''
_HYDRA_CONF = {
    "config.yaml": """
defaults:
  - model: small
  - optimizer: adam
  - data: digits
  - _self_
label_smoothing: 0.0
seed: 0
trainer: {max_epochs: 3}
""",
    "model/small.yaml": "name: small\nwidth: 4\ndropout: 0.1\n",
    "model/wide.yaml": "name: wide\nwidth: 8\ndropout: 0.2\n",
    "optimizer/adam.yaml": "name: adam\nlr: 0.003\n",
    "optimizer/sgd.yaml": "name: sgd\nlr: 0.05\nmomentum: 0.9\n",
    "data/digits.yaml": "name: digits\nnoise: 0.1\n",
}


def hydra_runs(folder: Path, runs: int = 10, epochs: int = 3) -> Path:
    """Write the program and let it train; returns the folder of runs."""
    (folder / "train.py").write_text(_HYDRA_TRAIN)
    _save_digits(folder)
    for name, text in _HYDRA_CONF.items():
        file = folder / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.lstrip("\n"))
    rng = np.random.default_rng(3)
    lines = []
    for i in range(runs):
        optimizer = "sgd" if i % 3 == 1 else "adam"
        lr = 10 ** (rng.uniform(-2.0, -0.5) if optimizer == "sgd" else rng.uniform(-3.5, -1.5))
        line = [
            f"model={'wide' if i % 2 else 'small'}", f"optimizer={optimizer}", f"optimizer.lr={lr:.5g}",
            f"model.dropout={rng.uniform(0.05, 0.6):.3f}", f"label_smoothing={rng.uniform(0.0, 0.3):.3f}",
            f"data.noise={rng.uniform(0.02, 0.5):.3f}", f"seed={i}", f"trainer.max_epochs={epochs}",
            f"hydra.run.dir=outputs/2026-11-28/08-{15 + i // 4}-{11 * (i % 4) + 7:02d}",
        ]  # fmt: skip
        line += [f"optimizer.momentum={rng.uniform(0.5, 0.98):.3f}"] if optimizer == "sgd" else []
        lines.append(line)
    (folder / "lines.json").write_text(json.dumps(lines))
    train(folder, "train.py", "--several", "lines.json")
    return folder / "outputs"


_FINETUNE_TRAIN = '''
"""Fine-tune an MLP from a base: the new task against the old one."""
import argparse, json, sys
from pathlib import Path
import numpy, torch, yaml
from torch import nn

torch.set_num_threads(1)
DIGITS = numpy.load(Path(__file__).with_name("digits.npz"))
X = torch.tensor(DIGITS["data"], dtype=torch.float32) / 16
Y = torch.tensor(DIGITS["target"])
OLD, NEW = Y < 5, Y >= 5
KNOWN = torch.arange(len(Y)) < 1200


def model():
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def accuracy(net, rows):
    with torch.no_grad():
        return (net(X[rows]).argmax(-1) == Y[rows]).float().mean().item()


def fit(net, rows, lr, l2_to_base=0.0, frozen=False, base=None):
    chosen = [p for n, p in net.named_parameters() if not (frozen and n.startswith("0."))]
    step = torch.optim.Adam(chosen, lr=lr)
    order = rows.nonzero().flatten()[torch.randperm(int(rows.sum()))]
    for part in order.split(64):
        loss = nn.functional.cross_entropy(net(X[part]), Y[part])
        if base is not None:
            loss = loss + l2_to_base * sum(((p - base[n]) ** 2).sum() for n, p in net.named_parameters())
        step.zero_grad(); loss.backward(); step.step()
    return loss.item()


def run(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="finetune.yaml")
    parser.add_argument("--out", required=True)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--l2-to-base", type=float)
    parser.add_argument("--replay", type=float)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--init-from")
    parser.add_argument("--freeze", choices=("true", "false"))
    args = parser.parse_args(arguments)
    config = yaml.safe_load(Path(args.config).read_text())
    config.update({k: v for k, v in vars(args).items() if v is not None and k not in ("config", "out")})
    config["freeze"] = str(config["freeze"]).lower() == "true"
    out = Path(args.out)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    (out / "argv.json").write_text(json.dumps(arguments))
    torch.manual_seed(config["seed"])
    net = model()
    net.load_state_dict(torch.load(config.get("init_from") or config["base"])["model_state_dict"])
    base = {n: p.detach().clone() for n, p in net.named_parameters()}
    rows = KNOWN & (NEW | (OLD & (torch.rand(len(Y)) < config["replay"])))
    for epoch in range(1, config["epochs"] + 1):
        loss = fit(net, rows, config["lr"], config["l2_to_base"], config["freeze"], base)
        metrics = {"train_loss": loss, "old_acc": accuracy(net, ~KNOWN & OLD), "new_acc": accuracy(net, ~KNOWN & NEW)}
        torch.save({"model_state_dict": net.state_dict(), "epoch": epoch, "metrics": metrics},
                   out / "checkpoints" / f"epoch_{epoch:02d}.pt")


def pretrain():
    torch.manual_seed(0)
    net = model()
    for _ in range(8):
        fit(net, KNOWN & OLD, 0.01)
    Path("base").mkdir(exist_ok=True)
    torch.save({"model_state_dict": net.state_dict()}, "base/pretrained.pt")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--several"]:
        pretrain()
        for line in json.loads(Path(sys.argv[2]).read_text()):
            run(line)
    else:
        run(sys.argv[1:])
'''
_FINETUNE_CONF = """\
base: base/pretrained.pt
lr: 0.003
l2_to_base: 0.001
replay: 0.0
freeze: false
epochs: 4
seed: 0
"""
_EVALUATE = '''
"""The hook that measures weights."""
import train


def evaluate(state_dict):
    net = train.model()
    net.load_state_dict(state_dict)
    held = ~train.KNOWN
    return {"old_acc": train.accuracy(net, held & train.OLD), "new_acc": train.accuracy(net, held & train.NEW)}
'''


def finetune_runs(folder: Path, runs: int = 12, epochs: int = 4) -> Path:
    """Write the program, the base and the hook, and let it train; returns the folder of runs."""
    (folder / "train.py").write_text(_FINETUNE_TRAIN)
    _save_digits(folder)
    (folder / "measure.py").write_text(_EVALUATE)
    (folder / "finetune.yaml").write_text(_FINETUNE_CONF)
    rng = np.random.default_rng(5)
    lines = [
        ["--out", f"runs/ft-{i:02d}", "--lr", f"{10 ** rng.uniform(-3.5, -1.7):.4g}",
         "--l2-to-base", f"{10 ** rng.uniform(-5, -1):.4g}", "--replay", f"{rng.uniform(0.0, 0.3):.3f}",
         "--freeze", "true" if i % 3 == 0 else "false", "--epochs", str(epochs), "--seed", str(i)]
        for i in range(runs)
    ]  # fmt: skip
    (folder / "lines.json").write_text(json.dumps(lines))
    train(folder, "train.py", "--several", "lines.json")
    return folder / "runs"


def _save_digits(folder: Path) -> None:
    """Write the data beside the program: each start of scikit-learn would take two seconds."""
    digits = load_digits()
    np.savez(folder / "digits.npz", data=digits.data.astype(np.uint8), target=digits.target)


def train(folder: Path, *arguments: str) -> None:
    """Run a program in a folder."""
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
