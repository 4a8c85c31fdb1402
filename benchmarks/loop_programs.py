"""Small training programs of the loop's benchmark that train in well under a second a run.

So choosers are weighed on real training in minutes. A seed of a workload draws its base, its data and, with the number
of a run, that run's luck.

finetune     an MLP that knows upright digits learns inverted ones: new accuracy against old, from one base. Development
classifier   an MLP or a CNN on few, partly mislabelled digits: accuracy under noise against calibration error, from
             weights of their own. Development
encoder      a transformer that counts words of one kind learns to count those of another: new accuracy against old,
             from one base. Reported: nothing was chosen on it
tabular      an MLP on scikit-learn's `make_classification` with wrong labels: accuracy against calibration error, from
             weights of their own. Reported: nothing was chosen on it
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from digits import images
from family_data import GROUPS, LENGTH, WORDS, accuracy, calibration_error, noisy_images, some_digits
from family_models import SequenceClassifier, cnn, mlp
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from torch import Tensor, nn
from zoos import OUT

from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space

CACHE = OUT.parent / "loop"
Floats = NDArray[np.float64]
State = dict[str, Tensor]


def _optimisation() -> tuple[Parameter, ...]:
    return (
        Parameter("optimizer", "categorical", choices=("adam", "sgd")),
        Parameter("lr", "float", 1e-4, 0.3, log=True),
        Parameter("momentum", "float", 0.0, 0.95, active_when=("optimizer", ("sgd",))),
        Parameter("weight_decay", "float", 1e-6, 1e-1, log=True),
        Parameter("batch_size", "categorical", choices=(16, 32, 64)),
    )


class Program(ABC):
    """A training program as a workload of the loop's benchmark.

    Args:
        seed: of its base and its data.
        cache: where runs from before are kept.

    Attributes:
        bounds: what a user would declare, or `init` derives.
    """

    name: ClassVar[str]
    space: ClassVar[Space]
    objectives: ClassVar[tuple[Objective, Objective]]
    length: ClassVar[int] = 6
    fixed: ClassVar[tuple[str, ...]] = ()
    failed: ClassVar[tuple[float, float]]
    evaluation: ClassVar[float] = 0.2
    enough: ClassVar[float]
    steps: ClassVar[int]
    bounds: ClassVar[Mapping[str, tuple[float, float]]]
    shared: ClassVar[bool]

    def __init__(self, seed: int = 0, cache: Path = CACHE) -> None:
        self.seed, self.cache = seed, cache

    @functools.cached_property
    def origin(self) -> State | None:
        """The base that runs start from; None: each draws its own weights."""
        if not self.shared:
            return None
        torch.manual_seed(self.seed)
        model, rng = self.network({}), np.random.default_rng([self.seed, 1])
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        self._train(model, optimizer, lambda: self.base_loss(model, rng), 300)
        return copy.deepcopy(model.state_dict())

    @property
    def reference(self) -> Floats:
        """What is just not good enough."""
        return np.array(self.failed)

    @abstractmethod
    def network(self, config: Mapping[str, Any]) -> nn.Module:
        """A network of fresh weights."""

    @abstractmethod
    def loss(self, model: nn.Module, config: Mapping[str, Any], rng: np.random.Generator, start: State) -> Tensor:
        """Of a batch."""

    def base_loss(self, model: nn.Module, rng: np.random.Generator) -> Tensor:
        """Of a batch of what the base learns."""
        raise NotImplementedError

    @abstractmethod
    def judge(self, model: nn.Module) -> tuple[float, float]:
        """The objectives."""

    @torch.no_grad()
    def _judged(self, model: nn.Module) -> Floats:
        model.eval()
        return np.nan_to_num(np.array(self.judge(model)))

    @staticmethod
    def _train(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> None:
        model.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    def evaluate(self, state: State) -> Floats:
        """See Workload; of networks that all have one shape."""
        model = self.network({})
        model.load_state_dict(state)
        return self._judged(model)

    def epochs(
        self, config: Mapping[str, Any], state: State | None, epochs: int, seed: int
    ) -> Iterator[tuple[Floats, State]]:
        """See Workload."""
        rng = np.random.default_rng([self.seed, seed])
        torch.manual_seed(int(rng.integers(2**31)))
        model, state = self.network(config), self.origin if state is None else state
        if state is not None:
            model.load_state_dict(state)
        weights = copy.deepcopy(model.state_dict())
        for child in list(model.children())[: 2 * int(config.get("frozen", 0))]:
            child.requires_grad_(requires_grad=False)
        trained, decay = [p for p in model.parameters() if p.requires_grad], config["weight_decay"]
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(trained, config["lr"], weight_decay=decay)
            if config["optimizer"] == "adam"
            else torch.optim.SGD(trained, config["lr"], config["momentum"], weight_decay=decay)
        )
        for _ in range(epochs):
            self._train(model, optimizer, lambda: self.loss(model, config, rng, weights), self.steps)
            yield self._judged(model), copy.deepcopy(model.state_dict())


_ANCHORING = (
    Parameter("anchor", "float", 1e-6, 0.1, log=True),
    Parameter("replay", "float", 0.0, 0.5),
    Parameter("smoothing", "float", 0.0, 0.3),
)


class _Anchored(Program):
    """Fine-tunes: a batch holds old examples, a share of `replay`, and weights are held back to where they began."""

    shared = True
    objectives = (Objective("new_accuracy", maximize=True), Objective("old_accuracy", maximize=True))
    bounds: ClassVar = {"new_accuracy": (0.0, 1.0), "old_accuracy": (0.0, 1.0)}

    def batch(self, rng: np.random.Generator, count: int, *, old: bool) -> tuple[Tensor, Tensor]:
        """Inputs and labels."""
        raise NotImplementedError

    def base_loss(self, model: nn.Module, rng: np.random.Generator) -> Tensor:
        """See the class."""
        inputs, labels = self.batch(rng, 64, old=True)
        return nn.functional.cross_entropy(model(inputs), labels)

    def loss(self, model: nn.Module, config: Mapping[str, Any], rng: np.random.Generator, start: State) -> Tensor:
        """See the class."""
        count = config["batch_size"]
        old = int(rng.binomial(count, config["replay"]))
        parts = [self.batch(rng, n, old=which) for n, which in ((old, True), (count - old, False)) if n]
        inputs, labels = (torch.cat(p) for p in zip(*parts, strict=True))
        away = sum((p - start[n]).square().sum() for n, p in model.named_parameters())
        value = nn.functional.cross_entropy(model(inputs), labels, label_smoothing=config["smoothing"])
        return value + config["anchor"] * away


class Finetune(_Anchored):
    """See the module."""

    name, failed, enough = "finetune", (0.0, 0.0), 0.7
    steps = 50
    space = Space((
        *_optimisation(),
        Parameter("frozen", "int", 0, 2),
        *_ANCHORING,
    ))  # fmt: skip

    def network(self, config: Mapping[str, Any]) -> nn.Module:  # noqa: ARG002 - all alike
        """See the class."""
        return mlp()

    def batch(self, rng: np.random.Generator, count: int, *, old: bool) -> tuple[Tensor, Tensor]:
        """See the class."""
        rows = torch.from_numpy(rng.integers(0, len(images()[0]), count))
        pixels = images()[0][rows].flatten(1)
        return (pixels if old else 1.0 - pixels), images()[1][rows]

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """See the class."""
        pixels, labels = images()[2].flatten(1), images()[3]
        return accuracy(model(1.0 - pixels), labels), accuracy(model(pixels), labels)


@functools.cache
def _counted(language: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words and labels to train on and to test on: which group of words a sequence has most of; groups by language."""
    rng = np.random.default_rng([23, language])
    groups = rng.permutation(WORDS).reshape(GROUPS, -1)
    labels = rng.integers(0, GROUPS, 1536)
    group = np.where(rng.random((1536, LENGTH)) < 0.3, labels[:, None], rng.integers(0, GROUPS, (1536, LENGTH)))
    words = groups[group, rng.integers(0, WORDS // GROUPS, (1536, LENGTH))]
    parts = (words[:1024], labels[:1024], words[1024:], labels[1024:])
    return tuple(torch.from_numpy(part) for part in parts)  # type: ignore[return-value]


class Encoder(_Anchored):
    """See the module."""

    name, failed, enough = "encoder", (0.25, 0.25), 0.7
    steps = 20
    space = Space((
        *_optimisation(),
        *_ANCHORING,
        Parameter("dropout", "float", 0.0, 0.4),
    ))  # fmt: skip

    def network(self, config: Mapping[str, Any]) -> nn.Module:
        """See the class."""
        return SequenceClassifier(dropout=config.get("dropout", 0.0))

    def batch(self, rng: np.random.Generator, count: int, *, old: bool) -> tuple[Tensor, Tensor]:
        """See the class."""
        words, labels = _counted(0 if old else 1)[:2]
        rows = torch.from_numpy(rng.integers(0, len(words), count))
        return words[rows], labels[rows]

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """See the class."""
        new, old = (accuracy(model(_counted(k)[2]), _counted(k)[3]) for k in (1, 0))
        return new, old


class Classifier(Program):
    """See the module."""

    name, failed, enough = "classifier", (0.1, 0.5), 0.6
    shared, steps, fixed = False, 20, ("arch", "width")
    objectives = (Objective("noisy_accuracy", maximize=True), Objective("calibration_error", maximize=False))
    bounds: ClassVar = {"noisy_accuracy": (0.0, 1.0), "calibration_error": (0.0, 1.0)}
    space = Space((
        *_optimisation(),
        Parameter("arch", "categorical", choices=("mlp", "cnn")),
        Parameter("width", "int", 4, 16, log=True, active_when=("arch", ("cnn",))),
        Parameter("smoothing", "float", 0.0, 0.4),
        Parameter("noise", "float", 0.0, 0.6),
    ))  # fmt: skip

    def network(self, config: Mapping[str, Any]) -> nn.Module:
        """See the class."""
        return cnn(config["width"]) if config["arch"] == "cnn" else nn.Sequential(nn.Flatten(), *mlp())

    @functools.cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        return some_digits(np.random.default_rng([self.seed, 3]), 300, 0.15)

    def loss(self, model: nn.Module, config: Mapping[str, Any], rng: np.random.Generator, start: State) -> Tensor:  # noqa: ARG002
        """See the class."""
        x, y = self._data
        rows = torch.from_numpy(rng.integers(0, len(y), config["batch_size"]))
        noisy = x[rows][:, None] + config["noise"] * torch.randn(len(rows), 1, 8, 8)
        return nn.functional.cross_entropy(model(noisy), y[rows], label_smoothing=config["smoothing"])

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """See the class."""
        labels, clean = images()[3], model(images()[2][:, None])
        return accuracy(model(noisy_images()[:, None]), labels), calibration_error(clean, labels)


class Tabular(Program):
    """See the module."""

    name, failed, enough = "tabular", (1 / 3, 0.5), 0.7
    shared, steps, fixed = False, 20, ("width",)
    objectives = (Objective("accuracy", maximize=True), Objective("calibration_error", maximize=False))
    bounds: ClassVar = {"accuracy": (0.0, 1.0), "calibration_error": (0.0, 1.0)}
    space = Space((
        *_optimisation(),
        Parameter("width", "int", 8, 64, log=True),
        Parameter("dropout", "float", 0.0, 0.5),
        Parameter("smoothing", "float", 0.0, 0.4),
        Parameter("mixup", "float", 0.0, 1.0),
    ))  # fmt: skip

    def network(self, config: Mapping[str, Any]) -> nn.Module:
        """See the class."""
        width, drop = config["width"], nn.Dropout(config["dropout"])
        return nn.Sequential(nn.Linear(20, width), nn.ReLU(), drop, nn.Linear(width, width), nn.ReLU(), drop,
                             nn.Linear(width, 3))  # fmt: skip

    @functools.cached_property
    def _data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y = make_classification(
            1400, 20, n_informative=8, n_classes=3, n_clusters_per_class=3, class_sep=1.2, random_state=self.seed
        )
        wrong = y.copy()
        rng = np.random.default_rng([self.seed, 3])
        some = rng.random(len(y)) < 0.15
        wrong[some] = rng.integers(0, 3, int(some.sum()))
        x = torch.from_numpy(x).float()
        return x[:400], torch.from_numpy(wrong[:400]), x[400:], torch.from_numpy(y[400:])

    def loss(self, model: nn.Module, config: Mapping[str, Any], rng: np.random.Generator, start: State) -> Tensor:  # noqa: ARG002
        """See the class."""
        x, y = self._data[:2]
        rows = torch.from_numpy(rng.integers(0, len(y), config["batch_size"]))
        target = nn.functional.one_hot(y[rows], 3).float()
        share = float(rng.beta(0.4, 0.4)) * config["mixup"]
        order = torch.from_numpy(rng.permutation(len(rows)))
        inputs = (1.0 - share) * x[rows] + share * x[rows][order]
        target = (1.0 - share) * target + share * target[order]
        return nn.functional.cross_entropy(model(inputs), target, label_smoothing=config["smoothing"])

    def judge(self, model: nn.Module) -> tuple[float, float]:
        """See the class."""
        logits, labels = model(self._data[2]), self._data[3]
        return accuracy(logits, labels), calibration_error(logits, labels)


PROGRAMS: Mapping[str, type[Program]] = {p.name: p for p in (Finetune, Classifier, Encoder, Tabular)}
