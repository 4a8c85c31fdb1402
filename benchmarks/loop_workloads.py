"""What the loop's benchmark trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import digits
import numpy as np
import torch
from loop_programs import CACHE, PROGRAMS
from numpy.typing import NDArray

from epsopt.demo.base import base_path, ensure_base
from epsopt.demo.files import load as load_checkpoint
from epsopt.demo.finetune import DivergedError, finetune
from epsopt.demo.metrics import measure
from epsopt.demo.model import TernaryVAE
from epsopt.demo.space import SPACE
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space

WIDE = {
    "lr": (1e-5, 0.1),
    "encoder_lr_scale": (1e-3, 1.0),
    "recon_weight": (1e-5, 1.0),
    "kl_weight": (1e-5, 1.0),
    "dist_weight": (1e-2, 10.0),
    "radial_weight": (1e-2, 10.0),
    "weight_decay": (1e-6, 1.0),
    "max_radius": (0.3, 0.97),
    "grad_clip": (1e-2, 10.0),
}
WIDEST = {"mlp": 128, "cnn": 32}
DEEPEST = 3
Floats = NDArray[np.float64]
State = dict[str, torch.Tensor]


class Workload(Protocol):
    """A training program, its space, and what counts.

    Attributes:
        name: as on the command line and in the results.
        space: of the hyperparameters.
        objectives: what counts, in the order of all values.
        length: epochs of a run.
        fixed: hyperparameters that a run must share with the run whose checkpoint it starts from.
        failed: what an epoch counts as that diverged, and a run that left nothing.
        evaluation: epochs that it costs to measure weights without training: what `loop.py price` prints, rounded up.
        enough: value of the first objective that a target asks for; what of the second, random runs say.
        cache: folder of what is made once and used again.
    """

    name: str
    space: Space
    objectives: tuple[Objective, Objective]
    length: int
    fixed: tuple[str, ...]
    failed: tuple[float, float]
    evaluation: float
    enough: float
    cache: Path

    @property
    def origin(self) -> State | None:
        """Weights that runs start from; None: each draws its own."""

    @property
    def reference(self) -> Floats:
        """``(2,)`` the objectives' values that are just not good enough."""

    def epochs(self, config: Mapping[str, Any], state: State | None, epochs: int, seed: int) -> Iterator[Trained]:
        """Train from a copy of `state` and yield what each epoch measured and left; the same with the same seed.

        Raises:
            DivergedError: the weights are worthless; the epoch counts all the same.
        """

    def evaluate(self, state: State) -> Floats:
        """Measure the objectives, ``(2,)``, of weights that nobody trained (mixed, decoded)."""


Trained = tuple[Floats, State]


def demo_space(ranges: Mapping[str, tuple[float, float]] | None = None) -> Space:
    """The demo's hyperparameters, in its own ranges or in those given."""
    return Space(tuple(
        Parameter(p.name, p.kind, *(ranges or {}).get(p.name, (p.low, p.high)), p.log, p.choices,
                  next(iter(p.active_when.items()), None))
        for p in SPACE
    ))  # fmt: skip


def wide_space() -> Space:
    """The demo's hyperparameters, ranges that reach decades beyond what works."""
    return demo_space(WIDE)


class Ternary:
    """The demo's program, from one base, in the wide space.

    Args:
        cache: where the base lies.
    """

    name = "ternary"
    space: ClassVar[Space] = wide_space()
    objectives = (Objective("coverage", maximize=True), Objective("dist_corr", maximize=True))
    length = 10
    fixed = ()
    failed = (0.0, 0.0)
    evaluation = 0.5
    enough = 0.95

    def __init__(self, cache: Path = CACHE) -> None:
        self.cache = cache

    @cached_property
    def origin(self) -> State:
        """The base; trained first if it is not there."""
        path = base_path(self.cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        ensure_base(path)
        found: State = load_checkpoint(path)["model_state_dict"]
        return found

    @cached_property
    def reference(self) -> Floats:
        """What the base has, without its coverage."""
        return np.array([0.0, self.evaluate(self.origin)[1]])

    def epochs(self, config: Mapping[str, Any], state: State | None, epochs: int, seed: int) -> Iterator[Trained]:
        """See Workload."""
        # A model uses the tensors it is given, and training changes them in place.
        model = TernaryVAE.from_state_dict(_copy(self.origin if state is None else state))
        for metrics in finetune(model, config, epochs, seed):
            # What cannot be measured (weights beyond all bounds) is worth nothing.
            yield np.nan_to_num([metrics[o.name] for o in self.objectives]), _copy(model.state_dict())

    def evaluate(self, state: State) -> Floats:
        """See Workload."""
        metrics = measure(TernaryVAE.from_state_dict(_copy(state)))
        return np.nan_to_num([metrics[o.name] for o in self.objectives])


def digits_space() -> Space:
    """What `digits.draw` draws from, as a space; what depends on the kind of network or optimiser is conditional."""
    return Space((
        Parameter("arch", "categorical", choices=("mlp", "cnn")),
        Parameter("width_mlp", "int", 6, WIDEST["mlp"], log=True, active_when=("arch", ("mlp",))),
        Parameter("width_cnn", "int", 6, WIDEST["cnn"], log=True, active_when=("arch", ("cnn",))),
        Parameter("depth", "int", 1, DEEPEST),
        Parameter("activation", "categorical", choices=tuple(range(len(digits.ACTIVATIONS)))),
        Parameter("init_scale", "float", 0.5, 3.0, log=True),
        Parameter("optimizer", "categorical", choices=("sgd", "adam")),
        Parameter("lr_sgd", "float", 1e-2, 1.0, log=True, active_when=("optimizer", ("sgd",))),
        Parameter("momentum", "float", 0.0, 0.95, active_when=("optimizer", ("sgd",))),
        Parameter("lr_adam", "float", 5e-4, 3e-2, log=True, active_when=("optimizer", ("adam",))),
        Parameter("batch_size", "categorical", choices=(16, 32, 64)),
        Parameter("weight_decay", "float", 1e-6, 2e-2, log=True),
        Parameter("dropout", "float", 0.0, 0.5),
        Parameter("label_noise", "float", 0.0, 0.6),
        Parameter("train_size", "int", 50, digits.TRAINING_IMAGES, log=True),
    ))  # fmt: skip


def _size(arch: str) -> float:
    """Log10 of the weights of the largest network of a kind."""
    with torch.device("meta"):  # draws no weights
        return digits.size(digits.Classifier(arch, WIDEST[arch], DEEPEST))


def _copy(state: Mapping[str, torch.Tensor]) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


class Digits:
    """Small classifiers of handwritten digits: right under noise, and small; the architecture is searched too.

    Runs start from weights of their own. The space is that of the zoo `digits` (digits.py), in which a checkpoint says
    little about networks of other shapes; the size is known before a run begins.

    Args:
        cache: where runs from before are kept.
    """

    name = "digits"
    space: ClassVar[Space] = digits_space()
    objectives = (Objective("noisy_accuracy", maximize=True), Objective("log10_parameters", maximize=False))
    length = digits.EPOCHS
    # How the weights were first drawn is not a restart's to choose either.
    fixed = ("arch", "depth", "activation", "init_scale", "width_mlp", "width_cnn")
    evaluation = 0.2
    enough = 0.6  # one random run in six gets there
    origin = None
    # Chance, and the largest network of the space.
    reference = np.array([0.1, max(map(_size, WIDEST))])
    failed = (float(reference[0]), float(reference[1]))

    def __init__(self, cache: Path = CACHE) -> None:
        self.cache = cache

    def epochs(self, config: Mapping[str, Any], state: State | None, epochs: int, seed: int) -> Iterator[Trained]:
        """See Workload."""
        plain = {name.removesuffix(f"_{config['arch']}").removesuffix(f"_{config['optimizer']}"): value
                 for name, value in config.items()}  # fmt: skip
        try:
            for model, metrics in digits.epochs({**plain, "seed": seed}, epochs, state):
                yield np.array([metrics[o.name] for o in self.objectives]), _copy(model.state_dict())
        except FloatingPointError as error:
            raise DivergedError(str(error)) from error

    def evaluate(self, state: State) -> Floats:
        """See Workload."""
        metrics = digits.measure(digits.Classifier.from_state_dict(state))
        return np.array([metrics[o.name] for o in self.objectives])


WORKLOADS: Mapping[str, Callable[[], Workload]] = {Ternary.name: Ternary, Digits.name: Digits, **PROGRAMS}
