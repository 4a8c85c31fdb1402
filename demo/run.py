"""One training run: from a checkpoint to a folder of checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from epsopt.demo.errors import BadOptionError
from epsopt.demo.files import checkpoint_path, load, save
from epsopt.demo.finetune import finetune
from epsopt.demo.model import Projection, TernaryVAE
from epsopt.demo.space import Value, active


@dataclass(frozen=True)
class Plan:
    """All that decides a run.

    Attributes:
        out: the run folder.
        init_from: the checkpoint it starts at.
        hyperparameters: of `epsopt.demo.space`; inactive ones are ignored and not recorded.
        epochs: how many to train.
        seed: of batches and noise.
        save_every: every how many epochs a checkpoint is written; the last epoch always is.
        projection: start at the checkpoint's own projections ("base") or at new ones ("fresh").
    """

    out: Path
    init_from: Path
    hyperparameters: Mapping[str, Value]
    epochs: int = 10
    seed: int = 0
    save_every: int = 1
    projection: str = "base"

    def config(self) -> dict[str, Value]:
        """What is written into every checkpoint of the run."""
        return {
            **active(self.hyperparameters),
            "epochs": self.epochs,
            "seed": self.seed,
            "projection": self.projection,
            "init_from": str(self.init_from.resolve()),
        }

    def last(self) -> Path:
        """The checkpoint that marks the run as finished."""
        return checkpoint_path(self.out, self.epochs)


def train(plan: Plan, report: Callable[[int, dict[str, float]], None] | None = None) -> dict[str, float]:
    """Carry a plan out.

    Args:
        plan: what to do.
        report: called after each epoch with its number and metrics.

    Returns:
        The metrics of the last epoch.

    Raises:
        BadOptionError: `plan.init_from` is no ternary checkpoint, or `plan.out` holds another run.
        DivergedError: the loss is no longer a number; checkpoints of earlier epochs stay.
    """
    refuse_foreign(plan)
    model = TernaryVAE.from_state_dict(load(plan.init_from)["model_state_dict"])
    if plan.projection == "fresh":
        _renew_projections(model, plan.seed)
    config = plan.config()
    metrics: dict[str, float] = {}
    for epoch, metrics in enumerate(finetune(model, config, plan.epochs, plan.seed), start=1):
        if epoch % plan.save_every == 0 or epoch == plan.epochs:
            save(checkpoint_path(plan.out, epoch), model, metrics, config, epoch)
        if report:
            report(epoch, metrics)
    return metrics


def refuse_foreign(plan: Plan) -> None:
    """Never write two runs into one folder. The same run may be trained again: it writes the same files.

    Raises:
        BadOptionError: `plan.out` holds checkpoints of a run with another config.
    """
    for path in sorted(plan.out.glob("epoch_*.pt"))[:1]:
        found, wanted = load(path).get("config", {}), plan.config()
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise BadOptionError(
                    f"{plan.out} holds another run, with {name} {found.get(name)} instead of "
                    f"{wanted.get(name)}: name another folder with --out"
                )


def _renew_projections(model: TernaryVAE, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for branch in model.branches.values():
            branch.projection.load_state_dict(Projection().state_dict())  # type: ignore[union-attr]
