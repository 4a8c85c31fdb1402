"""The Epsilon-VAE: views of a checkpoint -> latent z -> anchor embeddings, metrics and recombined weights.

An embedding decoder and a metric predictor share one latent over the blocks of a network. Three choices rest on figures
(docs/decisions): tokens are fingerprints of blocks instead of raw weights; attention is a learned relevance of each
view instead of self-attention, which overfits a few dozen runs; and the weight decoder recombines real checkpoints
instead of generating weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of an :class:`EpsilonVAE`.

    Attributes:
        columns: columns of a checkpoint's tokens.
        metrics: number of metrics.
        anchors: ``(anchors, dim)`` of the embedding head, ``None`` without one.
        latent: length of z.
    """

    columns: int
    metrics: int
    anchors: tuple[int, int] | None
    latent: int = 64

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkShape:
        """Read what :meth:`to_json` returned."""
        anchors = data["anchors"]
        return cls(**{**data, "anchors": None if anchors is None else (int(anchors[0]), int(anchors[1]))})


class EpsilonVAE(nn.Module):
    """Encoder and heads; see the module's docstring. Gaussian processes on z predict the metrics (``metric_gp.py``)."""

    relevance: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        latent = shape.latent
        self.register_buffer("relevance", torch.ones(shape.columns))
        self.to_mean = nn.Linear(shape.columns, latent)
        self.to_log_variance = nn.Linear(shape.columns, latent)
        nn.init.zeros_(self.to_log_variance.weight)
        nn.init.constant_(self.to_log_variance.bias, -4.0)
        # How fast each metric changes along each latent dimension, and its Gaussian process's amplitude and noise.
        self.log_inverse_lengths = nn.Parameter(torch.zeros(shape.metrics, latent))
        self.log_amplitude = nn.Parameter(torch.zeros(shape.metrics))
        self.log_noise = nn.Parameter(torch.full((shape.metrics,), -3.0))
        self.embedding_head: nn.Module | None = None
        if shape.anchors is not None:
            self.embedding_head = nn.Sequential(
                nn.Linear(latent, 128), nn.GELU(), nn.Linear(128, shape.anchors[0] * shape.anchors[1])
            )
        self.recombination = Recombination(latent)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``n`` checkpoints.

        Args:
            tokens: ``(n, columns)``.

        Returns:
            Mean and log-variance of z, each ``(n, latent)``.
        """
        weighed = tokens * self.relevance
        return self.to_mean(weighed), self.to_log_variance(weighed).clamp(-8.0, 2.0)

    @property
    def inverse_lengths(self) -> Tensor:
        """``(metrics, latent)``: metrics' distances are those of ``z * inverse_lengths[j]``."""
        return self.log_inverse_lengths.exp()

    def decode_embeddings(self, z: Tensor) -> Tensor:
        """(n, latent) -> (n, anchors, dim) on the model's (standardised) scale; needs an embedding head."""
        if self.embedding_head is None or self.shape.anchors is None:
            raise RuntimeError("this network was built without an embedding head")
        out: Tensor = self.embedding_head(z)
        return out.reshape(len(z), *self.shape.anchors)


def load_network(shape: NetworkShape, state: Mapping[str, Tensor]) -> EpsilonVAE:
    """Build a trained network from its weights, in evaluation mode; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        network = EpsilonVAE(shape)
    network.load_state_dict(dict(state))
    network.requires_grad_(requires_grad=False)
    return network.eval()


class Recombination(nn.Module):
    """Teaches z about weights: coefficients of real checkpoints, as attention from z to the checkpoints' own z.

    Decoded weights are ``base + sum_i c_i(z) (w_i - base)`` with ``c`` non-negative and summing to one. Trained through
    the linear sketches of the fingerprints, so that no weights are touched: the sketch of the recombination is the
    recombination of the sketches. Its coefficients spread too evenly to decode with: that is done by local
    reconstruction (``recombination.py``; figures in benchmarks/results/interpolation.txt).
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.project = nn.Linear(latent, latent, bias=False)
        nn.init.eye_(self.project.weight)
        self.log_sharpness = nn.Parameter(torch.tensor(0.0))

    def forward(self, z: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
        """Return coefficients.

        Args:
            z: ``(n, latent)`` points to decode.
            memory: ``(k, latent)`` encoded real checkpoints.
            allowed: ``(n, k)`` bool; which checkpoints each point may use (its lineage's).

        Returns:
            ``(n, k)`` coefficients, rows summing to one; zero where not allowed.
        """
        distance = torch.cdist(self.project(z), self.project(memory)).square()
        return torch.softmax(torch.where(allowed, -distance * self.log_sharpness.exp(), -torch.inf), dim=1)
