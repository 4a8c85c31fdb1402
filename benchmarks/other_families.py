"""How one run of each of six further families is trained (benchmarks/families.py). No command of its own.

These kinds of networks are none of the first families': recurrent, generative, temporal convolutions, an image-to-image
network, message passing, and a network that is a picture. They were added when all else had been chosen.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import images
from family_data import GROUPS, WORDS, accuracy, sequences, some_digits
from family_trainers import Rng, log_uniform, optimisation, train_plain
from torch import Tensor, nn

_HORIZON = 8  # values that a forecaster predicts
_WINDOW = 32
_NODES = 10  # of a graph


class Recurrent(nn.Module):
    """(n, LENGTH) words to (n, GROUPS) logits, by the mean over time of an LSTM's states."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(WORDS, 16), nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(24, GROUPS)

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.dropout(self.lstm(self.embedding(words))[0].mean(dim=1)))  # type: ignore[no-any-return]


def lstm(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001 - every trainer is called alike
    """An LSTM says which words a sequence has most of."""
    config = optimisation(rng, 3e-4, 0.1, adam_only=True)
    config["dropout"], config["train_size"] = float(rng.uniform(0.0, 0.5)), round(log_uniform(rng, 60, 1024))
    config["label_noise"] = float(max(0.0, rng.uniform(-0.4, 0.6)))
    model = Recurrent(config["dropout"])
    words, labels = sequences()[:2]
    wrong = torch.from_numpy(rng.random(len(labels)) < config["label_noise"])
    labels = torch.where(wrong, torch.from_numpy(rng.integers(0, GROUPS, len(labels))), labels)

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, config["train_size"], config["batch_size"]))
        return nn.functional.cross_entropy(model(words[rows]), labels[rows])

    def judge() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            clean, strange, truth = model(sequences()[2]), model(sequences()[3]), sequences()[4]
        return {"accuracy": accuracy(clean, truth), "strange_accuracy": accuracy(strange, truth),
                "test_loss": float(nn.functional.cross_entropy(clean, truth))}  # fmt: skip

    train_plain(folder, model, config, loss, judge, epochs=6, steps=25)


class Autoencoder(nn.Module):
    """A variational autoencoder of (n, 64) pixels: (reconstruction, mean, log variance)."""

    def __init__(self, width: int = 48, latent: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.mean, self.log_variance = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.GELU(), nn.Linear(width, 64))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        hidden = self.encoder(pixels)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden).clamp(-8.0, 8.0)
        drawn = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
        return self.decoder(drawn), mean, log_variance


def vae(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A variational autoencoder of digits: how well it rebuilds against how much its code says."""
    config = {
        **optimisation(rng, 1e-4, 0.3),
        "beta": log_uniform(rng, 1e-3, 3.0),
        "train_size": round(log_uniform(rng, 50, 1000)),
    }
    model = Autoencoder()
    x, _ = some_digits(rng, config["train_size"], 0.0)

    def terms(pixels: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt, mean, log_variance = model(pixels)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()
        return (rebuilt - pixels).square().sum(dim=1).mean(), divergence

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, len(x), config["batch_size"]))
        error, divergence = terms(x[rows].flatten(1))
        return error + config["beta"] * divergence

    def judge() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            error, divergence = terms(images()[2].flatten(1))
        return {"reconstruction_error": float(error), "divergence": float(divergence)}

    train_plain(folder, model, config, loss, judge, epochs=6, steps=40)


@functools.cache
def series() -> tuple[Tensor, Tensor]:
    """(1024, _WINDOW + _HORIZON) windows of noisy, slowly changing waves to learn from, and 512 to test with."""
    rng = np.random.default_rng(22)
    t = np.arange(_WINDOW + _HORIZON)
    period, phase, trend = (rng.uniform(low, high, (1536, 1)) for low, high in ((5, 20), (0, 2 * np.pi), (-0.03, 0.03)))
    waves = np.sin(2 * np.pi * t / period + phase) + 0.4 * np.sin(4 * np.pi * t / period) + trend * t
    noisy = torch.from_numpy(waves + 0.15 * rng.normal(size=waves.shape)).float()
    return noisy[:1024], noisy[1024:]


def forecaster(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """Dilated convolutions over time forecast a series: the next values against those further away."""
    config = {**optimisation(rng, 3e-4, 0.3), "far_weight": float(rng.uniform(0.0, 1.0)),
              "train_size": round(log_uniform(rng, 60, 1024))}  # fmt: skip
    model = nn.Sequential(
        nn.Conv1d(1, 8, 3), nn.LeakyReLU(), nn.Conv1d(8, 8, 3, dilation=2), nn.LeakyReLU(),
        nn.Conv1d(8, 8, 3, dilation=4), nn.LeakyReLU(), nn.Flatten(), nn.Linear(8 * (_WINDOW - 14), _HORIZON),
    )  # fmt: skip
    half = _HORIZON // 2

    def errors(windows: Tensor) -> Tensor:
        return (model(windows[:, None, :_WINDOW]) - windows[:, _WINDOW:]).square().mean(dim=0)

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(0, config["train_size"], config["batch_size"]))
        each = errors(series()[0][rows])
        return (1.0 - config["far_weight"]) * each[:half].mean() + config["far_weight"] * each[half:].mean()

    def judge() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            each = errors(series()[1])
        return {"near_mse": float(each[:half].mean()), "far_mse": float(each[half:].mean())}

    train_plain(folder, model, config, loss, judge, epochs=6, steps=30)


class UNet(nn.Module):
    """(n, 1, 8, 8) noisy images to clean ones, down twice and up twice, with skips and GroupNorm."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU())

        self.down1, self.down2, self.bottom = block(1, width), block(width, 2 * width), block(2 * width, 2 * width)
        self.rise2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, 2)
        self.up2, self.rise1 = block(4 * width, width), nn.ConvTranspose2d(width, width, 2, 2)
        self.up1, self.head = block(2 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        first = self.down1(images)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        bottom = self.bottom(nn.functional.max_pool2d(second, 2))
        up = self.up2(torch.cat((second, self.rise2(bottom)), dim=1))
        return self.head(self.up1(torch.cat((first, self.rise1(up)), dim=1)))  # type: ignore[no-any-return]


def unet(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A small U-Net takes noise from digits: judged with little noise and with much."""
    config = {
        **optimisation(rng, 3e-4, 0.1),
        "noise": log_uniform(rng, 0.02, 1.0),
        "train_size": round(log_uniform(rng, 20, 1000)),
    }
    model = UNet()
    x, _ = some_digits(rng, config["train_size"], 0.0)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def loss() -> Tensor:
        clean = x[torch.from_numpy(rng.integers(0, len(x), config["batch_size"]))][:, None]
        noise = config["noise"] * torch.randn(clean.shape, generator=generator)
        return (model(clean + noise) - clean).square().mean()

    def judge() -> dict[str, float]:
        model.eval()
        clean = images()[2][:400, None]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            found = {n: float((model(clean + s * noise) - clean).square().mean()) for n, s in _NOISES.items()}
        return {f"psnr_{name}": -10.0 * math.log10(error) for name, error in found.items()}

    train_plain(folder, model, config, loss, judge, epochs=6, steps=15)


_NOISES = {"clear": 0.1, "noisy": 0.5}


class MessagePassing(nn.Module):
    """Node features (n, _NODES, 4) and adjacency (n, _NODES, _NODES) to (n, 2) numbers, by three rounds of messages."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.read = nn.Linear(4, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.neighbours = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """See the class."""
        x = self.read(nodes).relu()
        for own, neighbours, norm in zip(self.own, self.neighbours, self.norms, strict=True):
            x = norm(x + (own(x) + neighbours(edges @ x)).relu())
        return self.head(x.mean(dim=1))  # type: ignore[no-any-return]


@functools.cache
def graphs() -> tuple[Tensor, Tensor, Tensor]:
    """1,536 random graphs: features, adjacency, and two numbers: share of triangles, and how alike neighbours are."""
    rng = np.random.default_rng(23)
    upper = np.triu(rng.random((1536, _NODES, _NODES)) < rng.uniform(0.1, 0.6, (1536, 1, 1)), 1)
    edges = (upper + upper.transpose(0, 2, 1)).astype(np.float32)
    nodes = rng.normal(size=(1536, _NODES, 4)).astype(np.float32)
    triangles = np.einsum("nij,njk,nki->n", edges, edges, edges) / _NODES**2
    alike = np.einsum("nid,nij,njd->n", nodes, edges, nodes) / np.maximum(edges.sum(axis=(1, 2)), 1.0)
    truth = np.stack((triangles / triangles.std(), alike / alike.std()), axis=1)
    return torch.from_numpy(nodes), torch.from_numpy(edges), torch.from_numpy(truth.astype(np.float32))


def gnn(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """Message passing predicts two properties of graphs: one error against the other."""
    config = {**optimisation(rng, 1e-4, 0.1), "alike_weight": float(rng.uniform(0.0, 1.0)),
              "train_size": round(log_uniform(rng, 60, 1024))}  # fmt: skip
    model = MessagePassing()
    nodes, edges, truth = graphs()

    def errors(rows: Tensor) -> Tensor:
        return (model(nodes[rows], edges[rows]) - truth[rows]).abs().mean(dim=0)

    def loss() -> Tensor:
        each = errors(torch.from_numpy(rng.integers(0, config["train_size"], config["batch_size"])))
        return (1.0 - config["alike_weight"]) * each[0] + config["alike_weight"] * each[1]

    def judge() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            each = errors(torch.arange(1024, 1536))
        return {"triangle_mae": float(each[0]), "alike_mae": float(each[1])}

    train_plain(folder, model, config, loss, judge, epochs=6, steps=30)


class _Sine(nn.Module):
    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return (self.frequency * x).sin()


def implicit(folder: Path, rng: Rng, home: Path) -> None:  # noqa: ARG001
    """A network of sines is a picture: its error where it was trained and in between."""
    config: dict[str, Any] = optimisation(rng, 1e-4, 0.03, adam_only=True)
    config.update(frequency=log_uniform(rng, 1.0, 40.0), pixel_noise=float(rng.uniform(0.0, 0.5)))
    model = nn.Sequential(
        nn.Linear(2, 32), _Sine(config["frequency"]), nn.Linear(32, 32), _Sine(config["frequency"]), nn.Linear(32, 1)
    )
    side = torch.linspace(-1.0, 1.0, 33)
    places = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).flatten(0, 1)
    picture = (torch.sin(6 * places[:, 0]) * torch.cos(9 * places[:, 1] * places[:, 0]))[:, None]
    seen = torch.arange(len(places)) % 2 == 0
    noisy = picture + config["pixel_noise"] * torch.from_numpy(rng.normal(size=picture.shape)).float()

    def loss() -> Tensor:
        rows = torch.nonzero(seen)[:, 0][torch.from_numpy(rng.integers(0, int(seen.sum()), 4 * config["batch_size"]))]
        return (model(places[rows]) - noisy[rows]).square().mean()

    def judge() -> dict[str, float]:
        with torch.no_grad():
            error = (model(places) - picture).square()
        return {"seen_mse": float(error[seen].mean()), "unseen_mse": float(error[~seen].mean())}

    train_plain(folder, model, config, loss, judge, epochs=6, steps=50)
