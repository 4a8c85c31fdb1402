"""The Epsilon-VAE: a set of weight blocks -> latent z -> anchor embeddings, metrics and recombined weights.

Architecture of seeds/sideways_vae.md ("attention over weight blocks") and seeds/epsilon_vae.md (the hybrid of embedding
decoder and metric predictor), with two changes that the figures in docs/decisions.md asked for: tokens are
fingerprints of blocks instead of raw weights (D4), and the weight decoder recombines real checkpoints instead of
inventing weights (D5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epsopt.surrogate.tokens import Tokens


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of an :class:`EpsilonVAE`.

    Attributes:
        components: length of a token's vector.
        kinds: number of known kinds of block.
        metrics: number of metrics.
        anchors: ``(anchors, dim)`` of the embedding head, ``None`` without one.
        latent: length of z.
        width: width of the token stream.
        heads: attention heads.
        layers: attention layers.
        dropout: share of activations dropped while training.
    """

    components: int
    kinds: int
    metrics: int
    anchors: tuple[int, int] | None
    latent: int = 64
    width: int = 64
    heads: int = 4
    layers: int = 1
    dropout: float = 0.1

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkShape:
        """Read what :meth:`to_json` returned."""
        anchors = data["anchors"]
        return cls(**{**data, "anchors": None if anchors is None else (int(anchors[0]), int(anchors[1]))})


class EpsilonVAE(nn.Module):
    """Encoder and three heads; see the module's docstring."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        width, latent = shape.width, shape.latent
        # One linear map for every kind of block on top of a shared one: a block of an unknown kind (another
        # architecture) still gets a sensible token from the shared map.
        self.shared = nn.Linear(shape.components, width)
        self.per_kind = nn.Parameter(torch.randn(1 + shape.kinds, shape.components, width) / shape.components**0.5)
        self.kind = nn.Embedding(1 + shape.kinds, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, shape.heads, width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(shape.layers)
        )
        self.pool = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Dropout(shape.dropout), nn.Linear(2 * width, 2 * width), nn.GELU()
        )
        self.to_latent = nn.Linear(2 * width, 2 * latent)
        self.metric_head = nn.Sequential(
            nn.Linear(latent, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, shape.metrics)
        )
        self.embedding_head: nn.Module | None = None
        if shape.anchors is not None:
            self.embedding_head = nn.Sequential(
                nn.Linear(latent, 128), nn.GELU(), nn.Linear(128, shape.anchors[0] * shape.anchors[1])
            )
        self.recombination = Recombination(latent)

    def encode(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Encode ``n`` checkpoints.

        Args:
            tokens: the checkpoints' blocks.

        Returns:
            Mean and log-variance of z, each ``(n, latent)``.
        """
        kinds, present = tokens.kinds.clamp(min=0), (tokens.kinds >= 0)[tokens.layouts]
        mask = present.unsqueeze(-1).to(tokens.values.dtype)
        x = self.shared(tokens.values) + self.kind(kinds)[tokens.layouts] + self._by_kind(tokens, kinds)
        count = mask.sum(1).clamp(min=1)
        # The pooled raw tokens skip the attention: alone they are what a plain network on all features would see.
        first = (x * mask).sum(1) / count.sqrt()
        padding = None if bool(present.all()) else ~present
        for block in self.blocks:
            x = block(x, src_key_padding_mask=padding)
        last = (x * mask).sum(1) / count
        mean, log_variance = self.to_latent(self.pool(torch.cat([first, last], dim=1))).chunk(2, dim=1)
        return mean, log_variance.clamp(-8.0, 4.0)

    def _by_kind(self, tokens: Tokens, kinds: Tensor) -> Tensor:
        if len(kinds) == 1:  # one architecture: a single batched product
            return torch.einsum("nbc,bcw->nbw", tokens.values, self.per_kind[kinds[0]])
        out = tokens.values.new_zeros(*tokens.values.shape[:2], self.shape.width)
        for layout in torch.unique(tokens.layouts).tolist():
            mine = tokens.layouts == layout
            out[mine] = torch.einsum("nbc,bcw->nbw", tokens.values[mine], self.per_kind[kinds[layout]])
        return out

    def decode_metrics(self, z: Tensor) -> Tensor:
        """(..., latent) -> (..., metrics) on the model's (standardised) scale."""
        out: Tensor = self.metric_head(z)
        return out

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
    """The weight decoder: coefficients of real checkpoints, as attention from z to the checkpoints' own z (D5).

    Decoded weights are ``base + sum_i c_i(z) (w_i - base)`` with ``c`` non-negative and summing to one. Trained through
    the linear sketches of the fingerprints, so that no weights are touched: the sketch of the recombination is the
    recombination of the sketches.
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
