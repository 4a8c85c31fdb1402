"""Networks of the families (benchmarks/families.py), as a stranger might write them. No command of its own."""

from __future__ import annotations

import torch
from family_data import GROUPS, LENGTH, WORDS
from torch import Tensor, nn

from epsopt.demo.ternary import N_TRITS

LATENT = 8


def mlp() -> nn.Sequential:
    """(n, 64) pixels to (n, 10) logits."""
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))


def cnn(width: int) -> nn.Sequential:
    """(n, 1, 8, 8) images to (n, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * width, 10),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """(n, 1, 8, 8) images to (n, 10) logits: a stem, three residual blocks with BatchNorm, a linear head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = (
            _Block(width, width),
            _Block(width, 2 * width),
            _Block(2 * width, 2 * width),
        )
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class SequenceClassifier(nn.Module):
    """(n, LENGTH) words to (n, 4) logits, through PyTorch's own encoder with its fused ``in_proj_weight``."""

    def __init__(self, width: int = 24, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, GROUPS)

    def forward(self, words: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.encoder(self.embedding(words) + self.position).mean(dim=1))  # type: ignore[no-any-return]


class TernaryReLU(nn.Module):
    """Codes of ternary operations on a ball: the demo's question with other layers, widths and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(N_TRITS, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, LATENT)
        )
        self.radius = nn.Sequential(nn.Linear(LATENT, 24), nn.ReLU(), nn.Linear(24, 1))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.ReLU(), nn.Linear(64, 3 * N_TRITS))

    def forward(self, trits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 9) trits to (n, 8) points of the ball and (n, 9, 3) logits."""
        code = self.encoder(trits)
        points = 0.98 * self.radius(code).sigmoid() * nn.functional.normalize(code, dim=1)
        return points, self.decoder(code).view(-1, N_TRITS, 3)
