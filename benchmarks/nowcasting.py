"""Whether weights can be foretold from a run's last five checkpoints: lines, averages, and a published network.

    python benchmarks/nowcasting.py --network nino_mlp.pt [FAMILY ...]     # minutes; needs the zoos of families.py

`wnn+` is the network without a graph of *Accelerating training with neuron interaction and nowcasting networks*
(Knyazev et al., ICLR 2025) as its authors published it, checkpoints/nino_mlp.pt of
github.com/SamsungSAILMontreal/nino; the forward pass here is written from their description: five states of a
parameter, scaled by the mean and deviation of its tensor, and the kind of tensor (fully connected, bias, convolution,
norm), to its change after k further states. It was trained on states 200 steps of Adam apart, and here meets epochs of
other optimizers, as it would in a folder of somebody's runs. NiNo itself, which adds a graph of neurons, is not
compared: it needs a description of each architecture.

Of every run that has six checkpoints, the sixth and the last are foretold from the first five. Way: distance of the
forecast from the real weights, to that of the fifth checkpoint from them: below 1 is nearer than staying where the run
is. Off: mean absolute difference, in the spread of the family's metrics, of what the family's hook measures on the
forecast from what it measures on the real checkpoint. Better: share of runs whose forecast measures better in every
objective than the fifth checkpoint, and worse: in every objective worse. Nothing was chosen here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import families
import numpy as np
import torch
from merging_hooks import OBJECTIVES, hook
from numpy.typing import NDArray
from torch import Tensor, nn

from epsopt.optimize.objectives import Objective
from epsopt.zoo import Catalogue, load_weights
from epsopt.zoo.catalogue.types import Checkpoint

STATES = 5
FAMILIES = ("mlp-finetune", "cnn-lightning", "resnet-bn", "ternary-relu", "encoder", "vit", "digits")
FULLY_CONNECTED, BIAS, CONVOLUTION, NORM = 1, 2, 3, 4  # kinds of tensors, as the network numbers them
FORECASTS = ("stays", "last step", "line", "mean of five", "wnn+")
Floats = NDArray[np.float64]
State = dict[str, Tensor]


class Nowcaster:
    """The published network.

    Args:
        file: of its weights.
    """

    def __init__(self, file: Path) -> None:
        weights = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
        places = sorted({int(name.split(".")[2]) for name in weights if name.startswith("edge_mlp")})

        def linear(name: str) -> nn.Linear:
            layer = nn.Linear(*reversed(weights[f"{name}.weight"].shape))
            layer.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
            return layer

        self._kinds, self._first = weights["layer_embed.weight"], linear("edge_proj.fc.0")
        self._rest = [linear(f"edge_mlp.fc.{place}") for place in places]

    def __call__(self, name: str, states: Tensor, ahead: int) -> Tensor:
        """``(5, ...)`` values of a tensor at five checkpoints to those so many checkpoints later."""
        shape = states.shape[1:]
        kind = {4: CONVOLUTION, 2: FULLY_CONNECTED}.get(len(shape), BIAS)
        if len(shape) == 1 and name.endswith(".weight"):
            kind = NORM
        mean, deviation = states.mean(), states.std() + 1e-6
        scaled = ((states - mean) / deviation).reshape(STATES, -1).T
        x = self._first(scaled) + self._kinds[kind]
        for layer in self._rest[:-1]:
            x = nn.functional.silu(layer(x))
        change = self._rest[-1](x)[:, ahead - 1]
        return ((scaled[:, -1] + change) * deviation + mean).reshape(shape)


def forecasts(states: Sequence[State], ahead: int, network: Nowcaster) -> dict[str, State]:
    """Foretell a state from the five before it; what are no weights (counters) stay as they are."""
    out: dict[str, State] = {name: dict(states[-1]) for name in FORECASTS}
    moments = torch.arange(STATES, dtype=torch.float32) - (STATES - 1)
    centred = moments - moments.mean()
    for name, now in states[-1].items():
        if not now.is_floating_point() or now.numel() < 2:
            continue
        past = torch.stack([state[name] for state in states]).float()
        slope = torch.einsum("s,s...->...", centred, past) / centred.square().sum()
        out["last step"][name] = (past[-1] + ahead * (past[-1] - past[-2])).to(now)
        out["line"][name] = (past.mean(dim=0) + slope * (ahead - moments.mean())).to(now)
        out["mean of five"][name] = past.mean(dim=0).to(now)
        out["wnn+"][name] = network(name, past, ahead).to(now)
    return out


def distance(a: State, b: State) -> float:
    """Euclidean, of all that is learned."""
    return sum(float((a[n].double() - b[n].double()).square().sum()) for n in a if a[n].is_floating_point()) ** 0.5


def compare(name: str, network: Nowcaster) -> None:
    """Print a family's lines."""
    objectives = OBJECTIVES[name]
    module, function = hook(name).split(":")
    measure = getattr(importlib.import_module(module), function)

    def values(state: Mapping[str, Tensor]) -> Floats:
        measured = measure(state)
        measured = measured[0] if isinstance(measured, tuple) else measured  # and the state that was corrected
        return np.array([(1.0 if o.maximize else -1.0) * measured[o.name] for o in objectives])

    with Catalogue(f"sqlite:///{families.OUT / f'{name}-{families.SEED}'}.db") as catalogue:
        runs: dict[int, list[Checkpoint]] = {}
        for c in catalogue.checkpoints():
            runs.setdefault(c.run_id, []).append(c)
    whole = [sorted(run, key=lambda c: c.epoch or 0) for run in runs.values()]
    whole = [run for run in whole if len(run) > STATES]
    spread = _spread([c for run in whole for c in run], objectives)
    rows: dict[tuple[int, str], list[tuple[float, Floats, Floats]]] = {}
    for run in whole:
        states = [load_weights(c.path) for c in run[:STATES]]
        now = values(states[-1])
        for place in sorted({STATES, len(run) - 1}):
            ahead = place - STATES + 1
            real = load_weights(run[place].path)
            truth, far = values(real), max(distance(states[-1], real), 1e-12)
            for how, state in forecasts(states, ahead, network).items():
                found = values(state)
                rows.setdefault((ahead, how), []).append(
                    (distance(state, real) / far, np.abs(found - truth) / spread, found - now)
                )
    print(f"\n{name}: {len(whole)} runs; off: {', '.join(o.name for o in objectives)}")
    for (ahead, how), found in sorted(rows.items(), key=lambda item: item[0][0]):
        way, off, gain = (np.array(column) for column in zip(*found, strict=True))
        better, worse = (gain > 0).all(axis=1).mean(), (gain < 0).all(axis=1).mean()
        cells = "  ".join(f"{v:.2f}" for v in np.nanmean(off, axis=0))
        print(f"  {ahead} ahead  {how:14}{np.median(way):6.2f}    {cells}    {better:5.0%} {worse:5.0%}")


def _spread(checkpoints: Sequence[Checkpoint], objectives: Sequence[Objective]) -> Floats:
    table = np.array([[c.metrics.get(o.name) for o in objectives] for c in checkpoints], dtype=np.float64)
    return np.asarray(np.nanstd(table, axis=0))


def main() -> None:
    """Compare on each family whose zoo there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="nino_mlp.pt")
    parser.add_argument("family", nargs="*", help=f"default: {', '.join(FAMILIES)}")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    network = Nowcaster(options.network)
    print(f"$ python benchmarks/nowcasting.py --network {options.network.name} {' '.join(options.family)}".rstrip())
    print(f"{'':26}{'way':>6}    off           better worse")
    for name in options.family or FAMILIES:
        if not (families.OUT / f"{name}-{families.SEED}.db").exists():
            print(f"no zoo of {name}: python benchmarks/families.py make {name}", file=sys.stderr)
            continue
        compare(name, network)


if __name__ == "__main__":
    main()
