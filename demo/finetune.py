"""Fine-tuning: teach the embeddings the 3-adic tree while the frozen decoder loses track of the codes."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from epsopt.demo.errors import DemoError
from epsopt.demo.metrics import measure, valuations
from epsopt.demo.model import TernaryVAE, divergence, poincare_distance
from epsopt.demo.space import Value
from epsopt.demo.ternary import N_OPERATIONS, N_TRITS, operations, partners, target_distance

# What an epoch sees: a third of the operations, so that ten epochs stay within a few seconds on one core.
OPERATIONS_PER_EPOCH = N_OPERATIONS // 3
# Reconstruction is rehearsed on this many operations of each batch. With more, structure costs too little.
REHEARSED = 32
# Radius aimed at for the operation that 3 divides for ever.
INNER_RADIUS = 0.1


class DivergedError(DemoError):
    """The loss stopped being a number."""


def finetune(model: TernaryVAE, config: Mapping[str, Value], epochs: int, seed: int) -> Iterator[dict[str, float]]:
    """Train `model` in place and yield its metrics after each epoch.

    Args:
        model: starts at the base; its decoder is never trained.
        config: the hyperparameters of `epsopt.demo.space` (inactive ones may be absent).
        epochs: how many epochs to train.
        seed: same model, config and seed give the same epochs on the same machine.

    Raises:
        DivergedError: when the loss is no longer finite; the model is then worthless.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    frozen = config["encoder"] == "frozen"
    unfreeze_epoch = epochs if frozen else int(config["unfreeze_epoch"])
    optimizer = _optimizer(model, config)
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with torch.no_grad():  # all that is needed until the encoders move
        all_mu, all_logvar = model.encode(operations())
    for epoch in range(epochs):
        learning = epoch >= unfreeze_epoch
        for batch in _batches(int(config["batch_size"]), rng):
            if learning:
                mu, logvar = model.encode(operations()[batch])
            else:
                mu, logvar = all_mu[:, batch], all_logvar[:, batch]
            codes = mu + torch.randn(mu.shape, generator=generator) * torch.exp(0.5 * logvar)
            loss = _structure_loss(model.embed(codes), batch, config)
            if learning:
                loss = loss + float(config["recon_weight"]) * _reconstruction_loss(model, codes, batch)
                loss = loss + float(config["kl_weight"]) * divergence(mu, logvar)
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"the loss became {loss.item()} in epoch {epoch + 1}: try a smaller --lr or --grad-clip"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(learned, float(config["grad_clip"]))
            optimizer.step()
        yield measure(model)


def _optimizer(model: TernaryVAE, config: Mapping[str, Value]) -> torch.optim.Optimizer:
    lr, encoder = float(config["lr"]), str(config["encoder"])
    named = dict(model.named_parameters())
    groups = [{"params": [p for name, p in named.items() if ".projection." in name], "lr": lr}]
    if encoder != "frozen":
        moving = [p for name, p in named.items() if _is_unfrozen(name, encoder)]
        groups.append({"params": moving, "lr": lr * float(config["encoder_lr_scale"])})
    # Parameters without a gradient are skipped, so encoders do not even decay before they are unfrozen.
    return torch.optim.AdamW(groups, weight_decay=float(config["weight_decay"]), fused=True)


def _is_unfrozen(name: str, encoder: str) -> bool:
    """Whether an encoder's parameter is trained when the encoders are unfrozen "top" or "full"."""
    deep = ".hidden.0." in name or ".hidden.1." in name
    return ".encoder." in name and (encoder == "full" or not deep)


def _batches(size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Batches of `size` operations; the second half of each holds the partners of the first."""
    lefts = rng.permutation(N_OPERATIONS)[: OPERATIONS_PER_EPOCH // 2]
    for start in range(0, len(lefts), size // 2):
        left = lefts[start : start + size // 2]
        yield torch.from_numpy(np.concatenate([left, partners(left, rng)]))


def _structure_loss(points: Tensor, batch: Tensor, config: Mapping[str, Value]) -> Tensor:
    distance = float(config["dist_weight"]) * _distance_loss(points, batch)
    return distance + float(config["radial_weight"]) * _radial_loss(points, batch, float(config["max_radius"]))


def _distance_loss(points: Tensor, batch: Tensor) -> Tensor:
    """One minus the correlation of hyperbolic and 3-adic distance between the halves of the batch."""
    left, right = points.chunk(2)
    first, second = batch.chunk(2)
    distance = poincare_distance(left, right)
    target = torch.from_numpy(target_distance(first.numpy(), second.numpy())).float()
    distance = distance - distance.mean()
    target = target - target.mean()
    similarity: Tensor = (distance * target).sum() / (distance.norm() * target.norm() + 1e-8)
    return 1 - similarity


def _radial_loss(points: Tensor, batch: Tensor, max_radius: float) -> Tensor:
    """Mean squared difference from a radius that falls with the valuation, `max_radius` to INNER_RADIUS."""
    aim = max_radius - (max_radius - INNER_RADIUS) * valuations()[batch] / N_TRITS
    loss: Tensor = (points.norm(dim=-1) - aim).square().mean()
    return loss


def _reconstruction_loss(model: TernaryVAE, codes: Tensor, batch: Tensor) -> Tensor:
    """Cross entropy of the nine trits, summed over trits, mean over the rehearsed operations."""
    logits = model.decode(codes[:, :REHEARSED])
    truth = operations()[batch[:REHEARSED]].long() + 1
    return nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten()) * N_TRITS
