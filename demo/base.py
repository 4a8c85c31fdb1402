"""The base: a variational autoencoder of all operations, trained once and shared by all runs."""

import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from epsopt.demo.errors import BadOptionError
from epsopt.demo.files import checkpoint_path, load, save
from epsopt.demo.metrics import measure
from epsopt.demo.model import TernaryVAE, divergence
from epsopt.demo.space import Value
from epsopt.demo.ternary import N_OPERATIONS, N_TRITS, operations

BASE_EPOCHS = 60
BASE_SEED = 0
_LR = 3e-3
_BATCH_SIZE = 512
# Large enough to spread the posteriors to their floor, small enough to keep coverage at 1.0.
_KL_WEIGHT = 0.1


def base_path(runs: Path) -> Path:
    """Where the base of a folder of runs lies: it is a run of its own, with a single checkpoint."""
    return checkpoint_path(runs / "base", 0)


def ensure_base(
    path: Path,
    epochs: int | None = None,
    seed: int | None = None,
    report: Callable[[str], None] | None = None,
) -> None:
    """Train the base unless it is there already. Of several processes one trains, the others wait for it.

    Args:
        path: the base checkpoint.
        epochs: passes over all operations. None: whatever the base had, else 60 (about 20 s on one core).
        seed: of initialisation, order and noise. None: whatever the base there had, else 0.
        report: called with a line now and then.

    Raises:
        BadOptionError: what is there is no base, or one that was trained with other epochs or another seed.
    """
    if not path.exists():
        with _locked(path):
            if not path.exists():  # another process may have trained it while this one waited
                _train_to(path, epochs or BASE_EPOCHS, BASE_SEED if seed is None else seed, report)
    found = load(path).get("config", {})
    for name, wanted in (("base_epochs", epochs), ("base_seed", seed)):
        if wanted is not None and found.get(name) != wanted:
            raise BadOptionError(
                f"the base at {path} was trained with {name} {found.get(name)}, not {wanted}: "
                f"leave the option out, or have another base trained in another folder"
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`; the system frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train_to(path: Path, epochs: int, seed: int, report: Callable[[str], None] | None) -> None:
    if report:
        report(f"training the base, once: {path}")
    config: dict[str, Value] = {
        "stage": "base",
        "base_epochs": epochs,
        "base_seed": seed,
        "base_lr": _LR,
        "base_batch_size": _BATCH_SIZE,
        "base_kl_weight": _KL_WEIGHT,
    }
    model = _train(epochs, seed, report)
    save(path, model, measure(model), config, epoch=0)


def _train(epochs: int, seed: int, report: Callable[[str], None] | None) -> TernaryVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # modules initialise from the global generator
        model = TernaryVAE()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), _LR)
    steps = epochs * math.ceil(N_OPERATIONS / _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps)
    truth = operations().long() + 1
    for epoch in range(epochs):
        for batch in torch.split(torch.randperm(N_OPERATIONS, generator=generator), _BATCH_SIZE):
            mu, logvar = model.encode(operations()[batch])
            codes = mu + torch.randn(mu.shape, generator=generator) * torch.exp(0.5 * logvar)
            logits = model.decode(codes)
            loss = N_TRITS * nn.functional.cross_entropy(logits.flatten(0, 1), truth[batch].flatten())
            loss = loss + _KL_WEIGHT * divergence(mu, logvar)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if report and (epoch + 1) % 20 == 0:
            report(f"base epoch {epoch + 1}/{epochs}: loss {loss.item():.2f}")
    return model
