"""Whether z of the checkpoint that a run starts from helps the model of runs that every choice rests on.

    python benchmarks/run_model_z.py [FAMILY ...]     # of the families whose maps temporal.py has fitted

The model that ships (epsopt.optimize.forecast.learning_curve_gp.fit_curves) knows of a start what was measured there.
Here it is given more, as further hyperparameters of its space, each with a relevance of its own: the first principal
components of z (`z`), what the map predicts of the start (`map`), or as many random numbers (`noise`). Families,
development and reported, and the runs that are held out of the map and of the model are those of temporal.py. Every run
is learned from its start and, as a run from there, from its checkpoints at a third and two thirds; of each held-out run
the end is predicted from its first checkpoint and from these two.

Error: mean absolute, to that of the model without. NLL: negative logarithm of the predicted density of the measurement
on the model's scale, less that of the model without: below zero is better. Both with the standard error over runs.
Inside: share of measurements in 90 % intervals. Whether a metric is better when it is larger plays no part.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from families import DEVELOPMENT, FAMILIES, FURTHER_DEVELOPMENT, load
from numpy.typing import NDArray
from temporal import KEPT, SPLIT, held_out_runs, map_of, paths_of
from zoos import Zoo

from epsopt.optimize.forecast.learning_curve_gp import Curve, CurveModel, fit_curves
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space
from epsopt.optimize.space_inference import infer_space
from epsopt.surrogate import Surrogate

COMPONENTS = 4
Z90 = 1.645
Floats = NDArray[np.float64]


class Said:
    """What the model is given of a start beside its measurements.

    Args:
        of: ``(n, latent)`` z to what is said of it, ``(n, k)``.
        known: ``(n, latent)`` z of all checkpoints that are learned from.
    """

    def __init__(self, of: Callable[[Floats], Floats], known: Floats) -> None:
        self._of, rows = of, of(known)
        self._usual = rows.mean(axis=0)
        self.parameters = tuple(
            Parameter(f"start_{j}", "float", low=float(low), high=float(high))
            for j, (low, high) in enumerate(zip(rows.min(axis=0), rows.max(axis=0), strict=True))
        )

    def config(self, z: Floats | None) -> dict[str, float]:
        """Return them as hyperparameters; of an unknown start what is usual."""
        row = self._usual if z is None else self._of(z[None])[0]
        return {p.name: min(max(float(v), p.low), p.high) for p, v in zip(self.parameters, row, strict=True)}


def ways(surrogate: Surrogate, known: Floats) -> dict[str, Said]:
    """What there is to say of starts, by name."""
    centre = known.mean(axis=0)
    axes = np.linalg.svd(known - centre, full_matrices=False)[2][:COMPONENTS].T
    rng = np.random.default_rng(SPLIT)

    def predicted(z: Floats) -> Floats:
        return np.asarray(surrogate.predict(torch.from_numpy(z).float()).point)

    return {
        "without": Said(lambda z: np.empty((len(z), 0)), known),
        "z": Said(lambda z: (z - centre) @ axes, known),
        "map": Said(predicted, known),
        "noise": Said(lambda z: rng.uniform(size=(len(z), COMPONENTS)), known),
    }


def parts(path: RunPath, config: Mapping[str, Any], said: Said, places: Sequence[int]) -> list[Curve]:
    """A run as curves: from where it starts, and from some of its checkpoints."""
    z = path.z.double().numpy()
    begun = path.epochs[0] == 0
    first = int(begun)
    start, at = (path.metrics[0], z[0]) if begun else (None, None)
    whole = Curve({**config, **said.config(at)}, path.epochs[first:], path.metrics[first:], start)
    later = [
        Curve(
            {**config, **said.config(z[p])}, path.epochs[p + 1 :] - path.epochs[p], path.metrics[p + 1 :],
            path.metrics[p],
        )
        for p in places
    ]  # fmt: skip
    return [whole, *later] if len(whole.steps) else later


def thirds(path: RunPath) -> list[int]:
    """Places of checkpoints that runs are taken to start from."""
    n = len(path)
    return [p for p in sorted({n // 3, (2 * n) // 3}) if p < n - 1 and np.isfinite(path.metrics[p]).all()]


def judge(model: CurveModel, run: Curve) -> tuple[Floats, Floats, Floats]:
    """``(m,)`` error of a run's last checkpoint, in the metric's unit; density; whether it is inside."""
    x = model.inputs([run.config], run.steps[-1:], [run.start], len(model.curves))
    with torch.no_grad():
        posterior = model.model.posterior(x)
    mean = posterior.mean[0, 0].numpy()
    variance = posterior.variance[0, 0].numpy() + np.array([float(p.noise) for p in model.processes])
    truth = run.values[-1]
    scaled = np.array([t.forward(truth[j : j + 1])[0] for j, t in enumerate(model.transforms)])
    point = (model.untransform(posterior.mean[0, 0]) * model.signs).numpy()
    nll = 0.5 * np.log(variance) + 0.5 * (scaled - mean) ** 2 / variance
    return np.abs(point - truth), nll, np.abs(scaled - mean) <= Z90 * np.sqrt(variance)


def compare(name: str, zoo: Zoo, surrogate: Surrogate) -> dict[str, tuple[float, float]]:
    """Print a family's lines; give the mean ratio of errors and difference of NLL of each way."""
    held = set(held_out_runs(zoo).tolist())
    past, new = ([p for run, p in paths_of(zoo, surrogate) if (run in held) is wanted] for wanted in (False, True))
    space = infer_space([p.config for p in past])
    past, new = ([p for p in some if space.accepts(p.config) and len(p) > 2] for some in (past, new))
    known = np.concatenate([p.z.double().numpy() for p in past])
    objectives = [Objective(metric, maximize=True) for metric in surrogate.metric_names]
    found: dict[str, tuple[Floats, Floats, Floats]] = {}
    for way, said in ways(surrogate, known).items():
        wider = Space((*space.parameters, *said.parameters), space.fixed)
        curves = [c for p in past for c in parts(p, space.given(p.config), said, thirds(p))]
        model = fit_curves(wider, objectives, curves, length=float(np.median([p.epochs[-1] for p in past])))
        judged = []
        for path in new:
            places = sorted({0, *thirds(path)})
            runs = [c for c in parts(path, space.given(path.config), said, places) if c.start is not None]
            judged.append([np.nanmean(part, axis=0) for part in zip(*(judge(model, run) for run in runs), strict=True)])
        errors, nll, inside = (np.stack(column) for column in zip(*judged, strict=True))
        found[way] = errors, nll, inside
    print(f"\n{name}: {len(past)} runs learned from, {len(new)} held out")
    base = found["without"]
    out = {}
    for way, (errors, nll, inside) in found.items():
        ratio = np.nanmean(errors, axis=0) / np.nanmean(base[0], axis=0)
        gaps = nll - base[1]
        spread = np.nanstd(gaps, axis=0, ddof=1) / np.sqrt(len(gaps))
        cells = "   ".join(
            f"{r:.2f} {g:+.2f} ± {s:.2f} {100 * i:3.0f} %"
            for r, g, s, i in zip(ratio, np.nanmean(gaps, axis=0), spread, np.nanmean(inside, axis=0), strict=True)
        )
        print(f"  {way:10}{cells}")
        out[way] = float(ratio.mean()), float(np.nanmean(gaps))
    print(f"  {'':10}{'   '.join(f'{m[:22]:22}' for m in surrogate.metric_names)}")
    return out


def main() -> None:
    """Compare on every family that has a map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help="default: all whose maps are kept")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"$ python benchmarks/run_model_z.py {' '.join(sys.argv[1:])}".rstrip())
    print("by metric: error to that without, NLL less that without ± standard error over runs, inside 90 % intervals")
    means: dict[str, list[dict[str, tuple[float, float]]]] = {"development": [], "reported": []}
    for name in options.family or FAMILIES:
        if (KEPT / f"{name}-{SPLIT}.safetensors").exists():
            zoo = load(name)
            surrogate = map_of(name, zoo)
            assert surrogate is not None
            group = "development" if name in (DEVELOPMENT | FURTHER_DEVELOPMENT) else "reported"
            means[group].append(compare(name, zoo, surrogate))
    for title, families in means.items():
        if families:
            print(f"\n{title}, mean of {len(families)} families: error to that without, NLL less that without")
            for way in families[0]:
                ratio, gap = np.mean([f[way] for f in families], axis=0)
                print(f"  {way:10}{ratio:.3f} {gap:+.3f}")


if __name__ == "__main__":
    main()
