"""The fitted surrogate: encode checkpoints, predict metrics and embeddings, decode weights as recombinations."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from botorch.models import ModelListGP
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from epsopt.surrogate.hyperparameter_table import ColumnScale, Hyperparameters, HyperparameterTable
from epsopt.surrogate.interval_reach import cut, interval_reach
from epsopt.surrogate.local_reconstruction import reconstruct
from epsopt.surrogate.map_format import FORMAT, READABLE, WITHOUT_TREES, OtherVersion
from epsopt.surrogate.metric_gp import (
    CROSS_VALIDATED,
    CachedGP,
    GPHyperparameters,
    build_model,
    conformal_factor,
    solve,
)
from epsopt.surrogate.neighbour_gp import NeighbourGP
from epsopt.surrogate.network import EpsilonVAE, NetworkShape, load_network
from epsopt.surrogate.plane import Plane, fit_plane, plane_of, shared_rows, turned
from epsopt.surrogate.statistics_trees import StatisticsTrees, weights_digest
from epsopt.surrogate.transforms import NO_TAILS, MetricTransform
from epsopt.surrogate.view_process import ViewProcess
from epsopt.surrogate.views import FeatureEncoder, View
from epsopt.zoo.errors import UsageError
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.fingerprints.formats import READABLE as FINGERPRINT_FORMATS
from epsopt.zoo.formatting import count

_NORMAL_90 = 1.6449  # standard deviations on either side of a normal's 90 % interval
_SAME = 1e-4
"""Distance of z, in the spread of all that is known, below which weights are the same but for rounding."""
_AT_A_TIME = 512  # rows of z that are compared with all that is known


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted metrics of ``n`` points.

    Attributes:
        metric_names: ``m`` names.
        point: ``(n, m)`` medians, in the metrics' own units; finite, and within the metrics' bounds, as the
            intervals are.
        low: ``(n, m)`` lower ends of the intervals.
        high: ``(n, m)`` upper ends of the intervals.
        level: share of held-out checkpoints that the intervals were calibrated to cover.
    """

    metric_names: tuple[str, ...]
    point: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    level: float


@dataclass(frozen=True, eq=False)
class EncodedCheckpoints:
    """The real checkpoints that the surrogate was trained on, encoded.

    Attributes:
        keys: ``n`` identities (sha256).
        latents: ``(n, latent)``.
        metrics: ``(n, m)`` on the model's scale; NaN where not measured or set aside.
        runs: ``(n,)`` int64.
        lineages: ``(n,)`` int64.
        head_rows: rows that one Gaussian process holds.
        far_out: ``(n, m)`` bool, values that were set aside or pulled in (:mod:`epsopt.surrogate.outliers`).
        weights: what identifies each one's weights (:func:`epsopt.surrogate.statistics_trees.weights_digest`); empty in
            a map without trees.
        learned: how many of them, the first ones, were learned from; the others were only placed on the map. None: all.
        prediction_rows: rows that answer, in increasing order; None: `head_rows`, as in maps of earlier versions.
    """

    keys: tuple[str, ...]
    latents: Tensor
    metrics: Tensor
    runs: Tensor
    lineages: Tensor
    head_rows: Tensor
    far_out: Tensor
    weights: tuple[str, ...] = ()
    learned: int | None = None
    prediction_rows: Tensor | None = None

    @property
    def n_learned(self) -> int:
        """How many checkpoints were learned from: the first ones."""
        return len(self.keys) if self.learned is None else self.learned

    @property
    def learned_only(self) -> EncodedCheckpoints:
        """The checkpoints that were learned from, without those that were only placed on the map."""
        if self.learned is None:
            return self
        first = slice(self.learned)
        return EncodedCheckpoints(
            self.keys[first], self.latents[first], self.metrics[first], self.runs[first], self.lineages[first],
            self.head_rows, self.far_out[first], self.weights[first], None, self.prediction_rows,
        )  # fmt: skip

    def longer(
        self, keys: Sequence[str], latents: Tensor, metrics: Tensor, runs: Tensor, lineages: Tensor, far_out: Tensor,
        weights: Sequence[str], head_rows: Tensor, prediction_rows: Tensor | None = None,
    ) -> EncodedCheckpoints:  # fmt: skip
        """Return these checkpoints with others behind them; arguments as the attributes, of the others alone.

        Args:
            keys: as the attribute.
            latents: as the attribute.
            metrics: as the attribute.
            runs: as the attribute.
            lineages: as the attribute.
            far_out: as the attribute.
            weights: as the attribute.
            head_rows: as the attribute, of all together.
            prediction_rows: as the attribute, of all together.
        """
        return EncodedCheckpoints(
            keys=(*self.keys, *keys),
            latents=torch.cat([self.latents, latents]),
            metrics=torch.cat([self.metrics, metrics]),
            runs=torch.cat([self.runs, runs]),
            lineages=torch.cat([self.lineages, lineages]),
            head_rows=head_rows,
            far_out=torch.cat([self.far_out, far_out]),
            weights=(*self.weights, *weights),
            learned=self.learned,
            prediction_rows=prediction_rows,
        )

    @cached_property
    def place(self) -> dict[str, int]:
        """Row of each known weights; the first, where several checkpoints have them."""
        return {digest: i for i, digest in reversed(list(enumerate(self.weights)))}


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted Epsilon-VAE with calibrated heads; made by :func:`epsopt.surrogate.fit`.

    Attributes:
        metric_names: ``m`` names.
        transforms: one per metric.
        tokenizer: fingerprints to tokens.
        network: encoder and heads.
        memory: what it was trained on.
        settings: one Gaussian process's hyperparameters per metric.
        scores: per metric, the standardised absolute residuals on held-out runs and their weights, ``(2, k)``,
            finite: what was not measured is left out.
        architectures: signatures (tensor names and shapes) of the checkpoints that it was trained on.
        unseen_scores: as ``scores``, ``(2, k)`` for each metric, of held-out checkpoints whose architecture the
            fold's network had never seen; every architecture counts once.
        embedding_scale: ``(mean (anchors, dim), scale ())`` or ``None``.
        trained_on: digest of the training set.
        tensor_kinds: of all these architectures (:attr:`epsopt.zoo.fingerprints.fingerprint.Fingerprint.tensor_kinds`);
            empty in a map of an earlier version.
        trees: their predictions are the last coordinates of z; ``None`` in a map of an earlier version.
        weights_alone_scores: as ``scores``, ``(2, k)`` for each metric, of held-out runs as if their
            hyperparameters were unknown; empty where trees look at none.
        projection: centre ``(latent,)`` and axes ``(latent, 2)`` of the plane in which the map is drawn (see
            :attr:`plane`); by default what :func:`epsopt.surrogate.plane.fit_plane` finds.
    """

    metric_names: tuple[str, ...]
    transforms: tuple[MetricTransform, ...]
    tokenizer: FeatureEncoder
    network: EpsilonVAE
    memory: EncodedCheckpoints
    settings: tuple[GPHyperparameters, ...]
    scores: tuple[Tensor, ...]
    architectures: frozenset[str]
    unseen_scores: tuple[Tensor, ...]
    embedding_scale: tuple[Tensor, Tensor] | None
    trained_on: str
    tensor_kinds: frozenset[str] = frozenset()
    trees: StatisticsTrees | None = None
    weights_alone_scores: tuple[Tensor, ...] = ()
    projection: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        if self.projection is None:  # now, not on demand: what is derived from this map keeps its plane
            found = fit_plane(self.memory.latents)
            object.__setattr__(self, "projection", (found.centre, found.axes))

    @cached_property
    def plane(self) -> Plane:
        """The plane in which every picture draws this map, with its frame and each axis' share of the variance.

        It is kept with the map. A refined map has the plane of the map before.
        """
        if self.projection is None:
            return fit_plane(self.memory.latents)
        return plane_of(*self.projection, self.memory.latents)

    def plane_coordinates(self, z: Tensor) -> NDArray[np.float64]:
        """Project points of the latent space to the plane in which every picture draws this map.

        Args:
            z: ``(n, latent)``; NaN gives NaN.

        Returns:
            ``(n, 2)`` coordinates, in units of z.
        """
        return self.plane.coordinates(z)

    def aligned_with(self, before: Surrogate) -> Surrogate:
        """Turn this map's plane so that checkpoints lie as near as possible to where an earlier map drew them.

        Args:
            before: the earlier map.

        Returns:
            This map with the turned plane; unchanged where both know fewer than three checkpoints.
        """
        mine, others = shared_rows(self.memory.keys, before.memory.keys)
        there = before.plane_coordinates(before.memory.latents[others])
        found = turned(self.plane, self.memory.latents[mine], there) if len(mine) else self.plane
        return replace(self, projection=(found.centre, found.axes))

    @property
    def latent(self) -> int:
        """Length of z: the encoder's coordinates, and then what trees predict of each metric on the model's scale."""
        return self.network.shape.latent + (0 if self.trees is None else len(self.metric_names))

    @cached_property
    def model(self) -> ModelListGP:
        """The metrics as a BoTorch model of z, on the model's scale (see :meth:`to_metrics`).

        It holds at most 800 measurements. With more, :meth:`predict` answers from all of them, and the scale of the
        variances is that of these answers.

        Its variances are scaled so that 90 % intervals cover 90 % of held-out runs' checkpoints.
        """
        widened = []
        for j, chosen in enumerate(self.settings):
            widening = max(self.calibration_factor(j) ** 2, 1e-6)
            widened.append(replace(chosen, variance=chosen.variance * widening))
        rows = self.memory.head_rows
        return build_model(self.memory.latents[rows], self.memory.metrics[rows], widened, self.network.inverse_lengths)

    def calibration_factor(self, metric: int) -> float:
        """Return the factor on a metric's standard deviations with which a normal's 90 % interval covers 90 %.

        Args:
            metric: column of the metric.

        Returns:
            The factor; 1 where held-out residuals are as wide as the model expects.
        """
        scores, weights = (t.double().numpy() for t in self.scores[metric])
        return conformal_factor(scores, weights, 0.9, CROSS_VALIDATED) / _NORMAL_90

    @cached_property
    def _solved_model(self) -> tuple[CachedGP, ...]:
        return tuple(solve(process) for process in self.model.models)

    @cached_property
    def _solved(self) -> tuple[CachedGP | NeighbourGP, ...]:
        """What answers: the model's processes, solved once; with more rows than they hold, those rows near a point."""
        rows = self.memory.prediction_rows
        if rows is None or len(rows) <= len(self.memory.head_rows):
            return self._solved_model
        z, y = self.memory.latents[rows], self.memory.metrics[rows]
        return tuple(NeighbourGP.of(process, z, y[:, j]) for j, process in enumerate(self.model.models))

    def posterior_mean(self, z: Tensor) -> Tensor:
        """Predict means alone, at a fraction of the cost of :meth:`posterior_moments`, for samplers that ask for many.

        Of a map of more than 800 checkpoints these are the means of :attr:`model`, not those that it answers with.

        Args:
            z: ``(..., latent)``, finite; gradients flow back to it.

        Returns:
            ``(..., m)`` on the model's scale, float64 computed in float32.
        """
        flat = z.reshape(-1, z.shape[-1]).float()
        parts = [torch.stack([p.mean(piece) for p in self._solved_model], dim=-1) for piece in torch.split(flat, 8192)]
        return torch.cat(parts).reshape(*z.shape[:-1], -1).double()

    @property
    def probes(self) -> bool:
        """Whether checkpoints are read with their anchor embeddings; otherwise weights are all that is looked at."""
        return self.tokenizer.probes

    def encode(
        self,
        fingerprints: Sequence[Fingerprint],
        embeddings: NDArray[np.float32] | None = None,
        hyperparameters: Sequence[Hyperparameters | None] | None = None,
    ) -> Tensor:
        """Encode checkpoints.

        Args:
            fingerprints: ``n`` fingerprints.
            embeddings: ``(n, anchors, dim)`` real anchor embeddings, NaN where there are none; a map without probes
                does not look at them.
            hyperparameters: of each one's run, with its epoch
                (:func:`epsopt.surrogate.hyperparameter_table.with_epoch`); None: not known, trees look at the weights
                alone, and :meth:`predict` has to know (:meth:`weights_alone`).

        Returns:
            ``(n, latent)`` float32 means of z. Of weights that the map was trained on, trees say what they said before
            they had seen them: a known checkpoint is encoded to where it lies.
        """
        tokens = self.tokenizer(fingerprints, embeddings)
        with torch.no_grad():
            z = self.network.encode(tokens)[0]
        if self.trees is None:
            return z
        by_trees = self.trees(fingerprints, self.tokenizer.seen(tokens), hyperparameters)
        predicted = torch.from_numpy(by_trees).float()
        known = self._known(fingerprints, z)
        rows = np.flatnonzero(known >= 0)
        predicted[rows] = self.memory.latents[known[rows], z.shape[1] :]
        return torch.cat([z, predicted], dim=1)

    def weights_alone(
        self,
        fingerprints: Sequence[Fingerprint],
        z: Tensor,
        hyperparameters: Sequence[Hyperparameters | None] | None = None,
    ) -> NDArray[np.bool_]:
        """Tell which checkpoints the map knows less of than of those that its intervals were calibrated on.

        Args:
            fingerprints: ``n`` checkpoints.
            z: ``(n, latent)``, finite: where :meth:`encode` places them.
            hyperparameters: as :meth:`encode` is given them.

        Returns:
            ``(n,)`` whether trees that look at hyperparameters had none to look at, of weights that are new.
        """
        known = [None] * len(fingerprints) if hyperparameters is None else hyperparameters
        found = self.lacks_hyperparameters(known)
        if found.any():
            found &= self._known(fingerprints, z[:, : self.network.shape.latent].float()) < 0
        return found

    @property
    def sees_hyperparameters(self) -> bool:
        """Whether trees look at hyperparameters and the epoch where these are known."""
        return self.trees is not None and bool(self.trees.informed)

    def lacks_hyperparameters(self, hyperparameters: Sequence[Hyperparameters | None]) -> NDArray[np.bool_]:
        """Tell of which checkpoints trees have no hyperparameters to look at.

        Args:
            hyperparameters: of ``n`` checkpoints, as :meth:`encode` is given them.

        Returns:
            ``(n,)`` whether fewer than half of those that trees look at are known; nowhere if they look at none.
        """
        if self.trees is None or not self.sees_hyperparameters:
            return np.zeros(len(hyperparameters), dtype=bool)
        return ~self.trees.columns.tells(hyperparameters)

    def _known(self, fingerprints: Sequence[Fingerprint], z: Tensor) -> NDArray[np.int64]:
        """Return the ``(n,)`` rows of the memory that hold the same weights, -1 where none does.

        Weights that were rounded otherwise (another order of an adapter's rank, a copy that was saved again) are the
        same: their z are as good as equal.
        """
        known = np.array([self.memory.place.get(weights_digest(f), -1) for f in fingerprints], dtype=np.int64)
        others = np.flatnonzero(known < 0)
        if not self.memory.weights or not len(others):
            return known
        latents = self.memory.latents[: len(self.memory.weights), : z.shape[1]]
        near = _SAME * float(latents.std(dim=0).norm())
        for rows in np.array_split(others, -(-len(others) // _AT_A_TIME)):
            apart = torch.cdist(z[rows], latents, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
            found = (apart.values <= near).numpy()
            known[rows[found]] = apart.indices.numpy()[found]
        return known

    def posterior_moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Predictive mean and standard deviation on the model's scale, measurement noise included.

        Args:
            z: ``(n, latent)``, finite; gradients flow back to it.

        Returns:
            ``(n, m)`` means and ``(n, m)`` standard deviations, float64.
        """
        means, deviations = [], []
        for piece in torch.split(z.double(), 8192):
            of_metrics = [process.posterior_moments(piece) for process in self._solved]
            means.append(torch.stack([mean for mean, _ in of_metrics], dim=-1))
            deviations.append(torch.stack([variance.clamp(min=1e-10).sqrt() for _, variance in of_metrics], dim=-1))
        return torch.cat(means), torch.cat(deviations)

    def refusal(self, signature: str, level: float = 0.9, kinds: frozenset[str] = frozenset()) -> str | None:
        """Say why a checkpoint's metrics cannot be predicted with honest intervals; None: they can.

        Intervals are calibrated on held-out runs of known architectures. Of another architecture they say something
        only if enough architectures were held out whole: ``n`` of them hold intervals up to the level ``n / (n + 1)``.
        Those that were held out are of other widths and depths: of a network of other parts, convolutions where all
        others are fully connected, they say nothing.

        Args:
            signature: of the checkpoint (:attr:`epsopt.zoo.fingerprints.fingerprint.Fingerprint.signature`).
            level: coverage of the intervals.
            kinds: the checkpoint's kinds of tensors.

        Returns:
            One sentence, or None.
        """
        if signature in self.architectures:
            return None
        held_out = min((_units(s) for s in self.unseen_scores), default=0)
        if held_out >= level * (held_out + 1) - 1e-9:
            return self._of_other_parts(kinds)
        known = len(self.architectures)
        tested = f"only {count(held_out, 'architecture')}" if held_out else "no architecture"
        return (
            f"its architecture (tensor names and shapes) is none of the {known} that the map was trained on"
            if known != 1
            else "its architecture (tensor names and shapes) is not the one that the map was trained on"
        ) + f", and the map was tested on {tested} that it had not seen"

    def _of_other_parts(self, kinds: frozenset[str]) -> str | None:
        """Say that an architecture has tensors of a kind that none of the known ones has; None: it has not."""
        new = sorted(kinds - self.tensor_kinds) if self.tensor_kinds else []
        if new:
            example, _, dimensions = new[0].rpartition(" ")
            return (
                f"none of the architectures that the map was trained on has tensors such as {example} of "
                f"{count(int(dimensions[1:-1]), 'dimension')}, so intervals were never tested on one like it"
            )
        return None

    def predict(
        self,
        z: Tensor,
        level: float = 0.9,
        unseen: NDArray[np.bool_] | None = None,
        weights_alone: NDArray[np.bool_] | None = None,
    ) -> Prediction:
        """Predict the metrics of points of the latent space.

        Args:
            z: ``(n, latent)``, finite.
            level: coverage of the intervals, in (0, 1); calibrated on held-out runs.
            unseen: ``(n,)`` points that are checkpoints of an unseen architecture, for which :meth:`refusal` is None:
                their intervals are calibrated on held-out architectures and are never narrower; default: none.
            weights_alone: ``(n,)`` points that are checkpoints of unknown hyperparameters
                (:meth:`weights_alone`): their intervals are calibrated on runs held out as if theirs were unknown;
                default: none.

        Returns:
            Points and intervals in the metrics' own units.

        Raises:
            UsageError: the level is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise UsageError(f"the interval level is {level}, expected a number between 0 and 1")
        with torch.no_grad():
            mean, deviation = self.posterior_moments(z)
        names = range(len(self.metric_names))
        factors = torch.tensor([self._factor(j, level) for j in names], dtype=torch.float64)
        for rows, held_out, raised in (
            (unseen, self.unseen_scores, 1.0),
            (weights_alone, self.weights_alone_scores, CROSS_VALIDATED),
        ):
            if rows is not None and rows.any() and held_out:
                wider = torch.tensor([self._wider(held_out[j], j, level, raised) for j in names], dtype=torch.float64)
                factors = torch.where(torch.from_numpy(rows)[:, None], torch.maximum(factors, wider), factors)
        # As draws: beyond everything measured, a logarithmic scale would make any number of a point or an end.
        point = self.draws_to_metrics(mean).numpy()
        ends = [self.draws_to_metrics(mean + sign * factors * deviation).numpy() for sign in (-1.0, 1.0)]
        low, high = cut(ends[0], point, ends[1], self.interval_reach)
        if unseen is not None and unseen.any():  # another architecture may reach what none of these did
            low[unseen], high[unseen] = ends[0][unseen], ends[1][unseen]
        return Prediction(self.metric_names, point, low, high, level)

    @cached_property
    def interval_reach(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(m,)`` lowest and ``(m,)`` highest end that an interval may have (:mod:`.interval_reach`)."""
        memory = self.memory.learned_only
        measured = self.to_metrics(memory.metrics.double()).masked_fill(memory.far_out, torch.nan)
        return interval_reach(measured.numpy(), memory.runs.numpy())

    def _factor(self, metric: int, level: float) -> float:
        """Deviations on either side of an interval: the model's are calibrated at 90 %, other levels follow suit."""
        scores, weights = (t.double().numpy() for t in self.scores[metric])
        calibrated = conformal_factor(scores, weights, 0.9, CROSS_VALIDATED)
        if calibrated <= 0.0:
            return _NORMAL_90
        return _NORMAL_90 * conformal_factor(scores, weights, level, CROSS_VALIDATED) / calibrated

    def _wider(self, held_out: Tensor, metric: int, level: float, raised: float) -> float:
        """As :meth:`_factor`, calibrated on ``(2, k)`` other scores: of what is known less well."""
        scores, weights = (t.double().numpy() for t in held_out)
        widening = self.calibration_factor(metric)
        return conformal_factor(scores, weights, level, raised) / widening if widening > 0.0 else _NORMAL_90

    def to_metrics(self, values: Tensor) -> Tensor:
        """Map values from the model's scale to the metrics' own units; monotone, differentiable.

        Args:
            values: ``(..., m)`` on the model's scale; NaN stays NaN. Gradients flow back to it.

        Returns:
            ``(..., m)`` in the metrics' own units, within their bounds.
        """
        return torch.stack([t.backward(values[..., j]) for j, t in enumerate(self.transforms)], dim=-1)

    def draws_to_metrics(self, values: Tensor) -> Tensor:
        """Map draws of a model from its scale to the metrics' own units.

        Args:
            values: ``(..., m)`` draws on the model's scale; NaN stays NaN.

        Returns:
            ``(..., m)`` in the metrics' own units, within their bounds; beyond everything measured small enough to
            average.
        """
        return torch.stack([t.backward_draws(values[..., j]) for j, t in enumerate(self.transforms)], dim=-1)

    def to_scale(self, name: str, value: float) -> float:
        """Map one metric's value to the model's scale.

        Args:
            name: one of :attr:`metric_names`.
            value: in the metric's own unit.

        Returns:
            The value on the model's scale, where the metric's centre is 0 and its spread 1.
        """
        return float(self.transforms[self.metric_names.index(name)].forward(np.array([value]))[0])

    def decode_embeddings(self, z: Tensor) -> Tensor:
        """Predict the embeddings of the anchors.

        Args:
            z: ``(n, latent)``, finite.

        Returns:
            ``(n, anchors, dim)`` in the embeddings' own units.

        Raises:
            UsageError: the zoo had no embeddings to learn from.
        """
        if self.embedding_scale is None:
            raise UsageError(
                "this map has no embedding head, because no checkpoint has anchor embeddings: "
                "set hooks.embed in epsopt.toml, then run 'epsopt ingest' and 'epsopt fit' again"
            )
        mean, scale = self.embedding_scale
        with torch.no_grad():
            return self.network.decode_embeddings(z[:, : self.network.shape.latent].float()) * scale + mean

    @property
    def relevance(self) -> Tensor:
        """``(latent,)`` how much each dimension of z tells about the metrics, all of them alike; mean square one."""
        encoded = self.network.inverse_lengths.detach()
        own = torch.diag(torch.tensor([s.alike for s in self.settings], dtype=encoded.dtype))
        per_metric = (encoded if self.trees is None else torch.cat([encoded, own], dim=1)).square()
        share = (per_metric / per_metric.sum(dim=1, keepdim=True)).mean(dim=0)
        return (share / share.mean()).sqrt()

    def recombine(self, z: Tensor, lineage: int, parents: int = 8) -> list[list[tuple[str, float]]]:
        """Decode weights as recombinations of real checkpoints of one lineage.

        Checkpoints are sought whose merge has the same z, dimensions that tell about the metrics counting more
        (:mod:`epsopt.surrogate.local_reconstruction`); what z says is not what the decoded weights will measure.

        Args:
            z: ``(n, latent)``, finite.
            lineage: whose checkpoints may be used.
            parents: at most so many per point; their coefficients sum to one.

        Returns:
            For each point its parents as ``(key, coefficient)``, largest first: the decoded weights are
            ``base + sum c_i (w_i - base)``, which is ``sum c_i w_i``.

        Raises:
            UsageError: the lineage has no checkpoint in the map, or no parent is allowed.
        """
        rows = torch.nonzero(self.memory.lineages == lineage).flatten()
        if len(rows) == 0:
            raise UsageError(f"the map holds no checkpoint of lineage {lineage}")
        if parents < 1:
            raise UsageError(f"a point is decoded from {parents} parents, expected at least 1")
        found = reconstruct(z.float() * self.relevance, self.memory.latents[rows] * self.relevance, parents)
        out = []
        for row in found:
            places = torch.nonzero(row).flatten()
            places = places[row[places].argsort(descending=True)]
            out.append([(self.memory.keys[int(rows[i])], float(row[i])) for i in places.tolist()])
        return out

    def to_bytes(self) -> tuple[bytes, dict[str, Any]]:
        """Return the surrogate as a safetensors document and JSON values; no pickle."""
        tensors = {f"network.{k}": v.cpu().contiguous() for k, v in self.network.state_dict().items()}
        for i, view in enumerate(self.tokenizer.views):
            for name in ("mean", "scale", "basis"):
                tensors[f"view.{i}.{name}"] = torch.from_numpy(np.ascontiguousarray(getattr(view, name)))
        for name in ("latents", "metrics", "runs", "lineages", "head_rows", "far_out"):
            tensors[f"memory.{name}"] = getattr(self.memory, name).contiguous()
        for i, scores in enumerate(self.scores):
            tensors[f"scores.{i}"] = scores.contiguous()
            tensors[f"unseen_scores.{i}"] = self.unseen_scores[i].contiguous()
            if self.weights_alone_scores:
                tensors[f"weights_alone_scores.{i}"] = self.weights_alone_scores[i].contiguous()
        if self.embedding_scale is not None:
            tensors["embeddings.mean"], tensors["embeddings.scale"] = (t.contiguous() for t in self.embedding_scale)
        if self.projection is not None:
            for name, part in zip(("centre", "axes"), self.projection, strict=True):
                tensors[f"plane.{name}"] = torch.from_numpy(np.ascontiguousarray(part))
        meta = {
            "format": FORMAT if self.trees is not None else WITHOUT_TREES,
            "fingerprint_format": self.tokenizer.of_format,
            "trained_on": self.trained_on,
            "metrics": list(self.metric_names),
            "transforms": [_transform_json(t) for t in self.transforms],
            "settings": [asdict(s) for s in self.settings],
            "shape": self.network.shape.to_json(),
            "kinds": list(self.tokenizer.kinds),
            "answering": list(self.tokenizer.answering),
            "views": [view.name for view in self.tokenizer.views],
            "keys": list(self.memory.keys),
            "architectures": sorted(self.architectures),
            "tensor_kinds": sorted(self.tensor_kinds),
            "weights": list(self.memory.weights),
        }
        if self.memory.prediction_rows is not None:
            tensors["memory.prediction_rows"] = self.memory.prediction_rows.contiguous()
        if self.memory.learned is not None:
            meta["learned"] = self.memory.learned
        if self.trees is not None:
            meta["tree_tensors"], meta["tree_answers"] = list(self.trees.names), self.trees.answers
            meta["tree_columns"] = asdict(self.trees.columns)
            meta["tree_shares"] = [list(self.trees.weighed), list(self.trees.shares)]
            meta["tree_scale"] = asdict(self.trees.scale)
            meta["process_shares"] = [list(self.trees.process_shares), list(self.trees.informed_shares)]
            for name, process in (("process", self.trees.process), ("informed_process", self.trees.informed_process)):
                for what, numbers in ({} if process is None else vars(process)).items():
                    tensors[f"{name}.{what}"] = torch.tensor(numbers)  # a copy: Ray's are read-only
            for name, texts in (
                ("trees", self.trees.models), ("informed_trees", self.trees.informed), ("forests", self.trees.forests),
            ):  # fmt: skip
                for i, text in enumerate(texts):
                    packed = b"" if text is None else zlib.compress(text.encode())
                    tensors[f"{name}.{i}"] = torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())
        return save_tensors(tensors, metadata={"epsopt": json.dumps(meta)}), meta

    @classmethod
    def from_bytes(cls, data: bytes, meta: dict[str, Any]) -> Surrogate:
        """Read what :meth:`to_bytes` returned.

        Args:
            data: the safetensors document.
            meta: the JSON values that came with it.

        Returns:
            A surrogate that predicts as the one that was kept.

        Raises:
            OtherVersion: written by another version of epsopt; run 'epsopt fit' again.
        """
        if meta.get("format") not in READABLE or meta.get("fingerprint_format") not in FINGERPRINT_FORMATS:
            raise OtherVersion("the fitted map was written by another version of epsopt: run 'epsopt fit' again")
        tensors = load_tensors(data)
        state = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        network = load_network(NetworkShape.from_json(meta["shape"]), state)
        views = tuple(
            View(name, *(tensors[f"view.{i}.{part}"].numpy() for part in ("mean", "scale", "basis")))
            for i, name in enumerate(meta["views"])
        )
        memory = {n: tensors[f"memory.{n}"] for n in ("latents", "metrics", "runs", "lineages", "head_rows", "far_out")}
        trees = None
        if meta["format"] != WITHOUT_TREES:
            columns = meta.get("tree_columns", {"numbers": (), "categories": ()})
            shares, informed_shares = map(tuple, meta.get("process_shares", ((), ())))
            weighed, of_forests = map(tuple, meta.get("tree_shares", ((), ())))
            trees = StatisticsTrees(
                names=tuple(meta["tree_tensors"]),
                models=_tree_texts(tensors, "trees"),
                answers=meta.get("tree_answers", 0),
                informed=_tree_texts(tensors, "informed_trees"),
                columns=HyperparameterTable(
                    tuple(columns["numbers"]), tuple((n, word) for n, word in columns["categories"])
                ),
                scale=ColumnScale(**{name: tuple(values) for name, values in meta.get("tree_scale", {}).items()}),
                process=_kept_process(tensors, "process"),
                informed_process=_kept_process(tensors, "informed_process"),
                process_shares=shares,
                informed_shares=informed_shares,
                forests=_tree_texts(tensors, "forests"),
                weighed=weighed,
                shares=of_forests,
            )
        embedding = (tensors["embeddings.mean"], tensors["embeddings.scale"]) if "embeddings.mean" in tensors else None
        return cls(
            metric_names=tuple(meta["metrics"]),
            transforms=tuple(
                MetricTransform(
                    _bounds(t["bounds"]), t["centre"], t["scale"], t.get("floor"), tuple(t.get("reach", NO_TAILS))
                )
                for t in meta["transforms"]
            ),
            tokenizer=FeatureEncoder(
                tuple(meta["kinds"]),
                tuple(meta.get("answering", meta["kinds"])),
                views,
                of_format=meta["fingerprint_format"],
            ),
            network=network,
            memory=EncodedCheckpoints(
                keys=tuple(meta["keys"]),
                weights=tuple(meta.get("weights", ())),
                learned=meta.get("learned"),
                prediction_rows=tensors.get("memory.prediction_rows"),
                **memory,
            ),
            settings=tuple(GPHyperparameters(**s) for s in meta["settings"]),
            scores=tuple(tensors[f"scores.{i}"] for i in range(len(meta["metrics"]))),
            architectures=frozenset(meta["architectures"]),
            tensor_kinds=frozenset(meta.get("tensor_kinds", ())),
            unseen_scores=tuple(tensors[f"unseen_scores.{i}"] for i in range(len(meta["metrics"]))),
            weights_alone_scores=_numbered(tensors, "weights_alone_scores"),
            embedding_scale=embedding,
            trained_on=meta["trained_on"],
            trees=trees,
            # Maps of earlier versions have none: it is found again, from what is kept alone.
            projection=(
                (tensors["plane.centre"].numpy(), tensors["plane.axes"].numpy()) if "plane.axes" in tensors else None
            ),
        )


def _numbered(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """Those that are called ``name.0``, ``name.1`` and so on, in order."""
    return tuple(tensors[key] for i in range(len(tensors)) if (key := f"{name}.{i}") in tensors)


def _kept_process(tensors: Mapping[str, Tensor], name: str) -> ViewProcess | None:
    """A process of views as :meth:`Surrogate.to_bytes` keeps it; None: there is none."""
    parts = [f.name for f in fields(ViewProcess)]
    if f"{name}.{parts[0]}" not in tensors:
        return None
    return ViewProcess(**{part: tensors[f"{name}.{part}"].numpy() for part in parts})


def _tree_texts(tensors: Mapping[str, Tensor], name: str) -> tuple[str | None, ...]:
    """What LightGBM calls its trees, one a metric; None: there are none of it."""
    packed = (part.numpy().tobytes() for part in _numbered(tensors, name))
    return tuple(zlib.decompress(p).decode() if p else None for p in packed)


def _units(scores: Tensor) -> int:
    """How many independent units (runs, architectures) weighted scores come from."""
    return round(float(scores[1].sum()))


def _transform_json(transform: MetricTransform) -> dict[str, Any]:
    """A transform as JSON values, which know no infinity: an open end is null."""
    found = asdict(transform)
    if transform.bounds is not None:
        found["bounds"] = [end if math.isfinite(end) else None for end in transform.bounds]
    return found


def _bounds(ends: Sequence[float | None] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    low, high = ends
    return (-math.inf if low is None else low, math.inf if high is None else high)
