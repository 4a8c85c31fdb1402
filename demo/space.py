"""The search space as data: what a random sweep draws from, and which choices switch which others on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Value = str | int | float | bool


@dataclass(frozen=True)
class Hyperparameter:
    """One dimension of the space.

    Attributes:
        name: as in the config and, with dashes, on the command line.
        kind: float, int or categorical.
        default: what the training program takes when nothing is said.
        help: one line for ``--help``.
        low: smallest value drawn (numbers only).
        high: largest value drawn, included (numbers only).
        log: draw on a logarithmic scale.
        limits: what the training program accepts, ends included (numbers only); wider than what is drawn.
        choices: the values of a categorical; the training program accepts no others.
        active_when: name of another hyperparameter to the values that switch this one on; empty: always on.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    default: Value
    help: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    limits: tuple[float, float] = (0.0, math.inf)
    choices: tuple[Value, ...] = ()
    active_when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def is_active(self, config: Mapping[str, Value]) -> bool:
        """Whether this hyperparameter has any effect beside the others' values in `config`."""
        return all(config.get(name) in values for name, values in self.active_when.items())

    def draw(self, rng: np.random.Generator) -> Value:
        """A random value, uniform on its own (linear or logarithmic) scale."""
        if self.kind == "categorical":
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.kind == "int":
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))


# With a frozen encoder nothing that only reaches the encoder has an effect.
_UNFROZEN: Mapping[str, tuple[Value, ...]] = {"encoder": ("top", "full")}

# The ranges are such that of random runs a bit over half keep a coverage above .9 and the others spread below
# (benchmarks/results/tradeoff.txt).
SPACE: tuple[Hyperparameter, ...] = (
    Hyperparameter("lr", "float", 3e-3, "learning rate of the projections", 1e-3, 1e-2, log=True, limits=(1e-9, 1.0)),
    Hyperparameter("batch_size", "categorical", 128, "operations per step", choices=(64, 128, 256)),
    Hyperparameter(
        "encoder",
        "categorical",
        "full",
        "what of the encoders is trained: nothing, the last hidden layer and both heads, or everything",
        choices=("frozen", "top", "full"),
    ),
    Hyperparameter(
        "encoder_lr_scale",
        "float",
        0.1,
        "learning rate of the encoders as a share of --lr",
        1e-2,
        1.0,
        log=True,
        limits=(0.0, 10.0),
        active_when=_UNFROZEN,
    ),
    Hyperparameter(
        "unfreeze_epoch",
        "int",
        0,
        "epochs before the encoders start to learn",
        0,
        6,
        active_when=_UNFROZEN,
    ),
    Hyperparameter(
        "recon_weight",
        "float",
        3e-3,
        "weight of the reconstruction loss",
        1e-4,
        0.1,
        log=True,
        active_when=_UNFROZEN,
    ),
    Hyperparameter(
        "kl_weight",
        "float",
        1e-2,
        "weight of the posterior's divergence from a standard normal",
        1e-3,
        0.3,
        log=True,
        active_when=_UNFROZEN,
    ),
    Hyperparameter("dist_weight", "float", 1.0, "weight of the loss on distances", 0.1, 3.0, log=True),
    Hyperparameter("radial_weight", "float", 0.3, "weight of the loss on radii", 0.03, 3.0, log=True),
    Hyperparameter("weight_decay", "float", 1e-4, "decay of AdamW", 1e-6, 0.1, log=True),
    Hyperparameter(
        "max_radius",
        "float",
        0.9,
        "radius aimed at for operations that 3 does not divide",
        0.6,
        0.97,
        limits=(0.2, 0.98),
    ),
    Hyperparameter(
        "grad_clip",
        "float",
        1.0,
        "largest gradient norm of a step",
        0.1,
        10.0,
        log=True,
        limits=(1e-9, math.inf),
    ),
)


def active(config: Mapping[str, Value]) -> dict[str, Value]:
    """The hyperparameters of `config` that have an effect, in the order of the space; others are left out."""
    return {p.name: config[p.name] for p in SPACE if p.name in config and p.is_active(config)}


def draw(rng: np.random.Generator) -> dict[str, Value]:
    """A random config, inactive hyperparameters absent."""
    return active({parameter.name: parameter.draw(rng) for parameter in SPACE})
