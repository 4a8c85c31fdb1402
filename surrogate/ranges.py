"""The values that a metric can take, guessed from its name and never against what was measured.

An accuracy lies between 0 and 1 (or 0 and 100), a loss is not negative, R² is at most 1: nothing that is predicted of
them should say otherwise. The last word of a name that says anything decides, and a guess that a measurement
contradicts gives way to a wider one, or to none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Range = tuple[float, float]

_UNIT, _PERCENT = (0.0, 1.0), (0.0, 100.0)
_POSITIVE: Range = (0.0, math.inf)

# What each word says, narrowest first: the first range that holds every measurement is the guess.
_KINDS: tuple[tuple[str, tuple[Range, ...]], ...] = (
    (
        """
        acc accuracy ap auc aucpr auprc auroc bleu chrf cov coverage dice em exactmatch f1 f1score fbeta fscore gacc
        hit hits iou jaccard macc map meteor miou mrr ndcg precision prauc purity recall rocauc rouge rouge1 rouge2
        rougel rougelsum sensitivity specificity ssim success top1 top3 top5 tpr tnr winrate
        """,
        (_UNIT, _PERCENT, _POSITIVE),
    ),
    ("error_rate err_rate ece fdr fnr fpr percent percentage pct", (_UNIT, _PERCENT, _POSITIVE)),
    ("frac fraction probability prob rate share", (_UNIT, _POSITIVE)),
    ("brier", ((0.0, 2.0), _POSITIVE)),  # over several classes it reaches 2 (Brier 1950)
    (
        """
        corr corrcoef correlation cosine kappa kendall kendalltau mcc pcc pearson pearsonr plcc silhouette spearman
        spearmanr srcc
        """,
        ((-1.0, 1.0), (-100.0, 100.0)),
    ),
    ("explained_variance r2 r2score rsquared", ((-math.inf, 1.0),)),
    ("perplexity ppl", ((1.0, math.inf),)),
    (
        """
        abserr bce bits bpb bpc bytes ce cer cost count counts cross_entropy crossentropy delay distance duration err
        error errors fid flops focal gflops hinge huber kl latency length logloss loss lpips macs mae mape mase medae
        mem memory mflops mse msle norm num number params parameters regret rmse rmsle runtime seconds sec size smape
        std stddev steps throughput time tps variance wer xent
        """,
        (_POSITIVE,),
    ),
)
_RANGES = {word: ranges for words_, ranges in _KINDS for word in words_.split()}

# Words with which a quantity has no sign of its own, whatever the rest of its name says: likelihoods and bounds of
# densities, losses of two players or of a policy, and differences.
_SIGNED = frozenset(
    """
    actor advantage adversarial bias bound change contrast critic delta diff difference disc discriminator effect elbo
    energy entropy free gain gan gap gen generator improvement likelihood ll llh log10 logdensity logit logits
    loglikelihood logp logprob lnprob margin minus nll policy ppo ratio signed skill standardized surrogate vlb
    wasserstein wgan zscore
    """.split()
)
_NEGATED = frozenset({"neg", "negative", "negated"})

# What is never zero: nothing takes no time at all, and no model has no size.
_NEVER_ZERO = frozenset(
    """
    bytes duration flops gflops latency macs mem memory mflops parameters params runtime seconds sec size throughput
    time tps
    """.split()
)
_FLOOR = 1e-3  # of the smallest measurement: far below what is likely, and not zero
_SMALLEST = 1e-37  # in single precision, 1e-38 and less is nearly zero
_ROUNDING = 1e-6  # of a range, or of 1: 1.0000001 is an accuracy in single precision


def words(name: str) -> list[str]:
    """Split a metric's name: ``val/topAcc_1`` is ``val, top, acc, 1``."""
    humps = re.sub(r"([a-z])([A-Z])", r"\1 \2", name.replace("IoU", "Iou"))
    return [w for w in re.split(r"[^a-z0-9]+", humps.lower().replace("²", "2")) if w]


def named_ranges(name: str) -> tuple[Range, ...] | None:
    """Return the ranges that a metric's name may mean, narrowest first.

    Returns:
        None of them: it may be any number, by its name (a likelihood, a difference). ``None``: the name says nothing.
    """
    parts = words(name)
    signed = _SIGNED.intersection(parts) - ({"entropy"} if "cross" in parts else set())
    if signed or ("log" in parts and "loss" not in parts):
        return ()
    word = _deciding_word(parts)
    if word is None or not _NEGATED.intersection(parts):
        return None if word is None else _RANGES[word]
    return tuple((0.0 - high, 0.0 - low) for low, high in _RANGES[word])


def _deciding_word(parts: Sequence[str]) -> str | None:
    """Return the last word of a name that says a range, as it is listed; None if none does."""
    joined = [f"{a}_{b}" for a, b in zip(["", *parts], parts, strict=False)]
    for word, pair in zip(reversed(parts), reversed(joined), strict=True):
        for listed in (pair, word, word.rstrip("0123456789")):
            if listed in _RANGES:
                return listed
    return next((j for pair in pairwise(parts) if (j := "".join(pair)) in _RANGES), None)


def guess_range(name: str, values: ArrayLike) -> Range | None:
    """Guess what values a metric can take from its name.

    Args:
        name: the metric's.
        values: all that was measured of it; NaN and infinities are ignored.

    Returns:
        ``(low, high)``, one of them infinite where the range is open there; ``None`` where the name says nothing,
        every range that it may mean is contradicted by a measurement, or nothing was measured.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    if not len(finite):
        return None
    return next((r for r in named_ranges(name) or () if holds(r, float(finite.min()), float(finite.max()))), None)


def positive_floor(name: str, values: ArrayLike, declared: Mapping[str, Range] | None = None) -> float | None:
    """Return the smallest value that is predicted of a metric that is never zero by its name: a time, a size.

    Its range is open at zero, and no number is the smallest in an open range: a small share of the smallest measurement
    stands for it.

    Args:
        name: the metric's.
        values: all that was measured of it; NaN and infinities are ignored.
        declared: ranges that somebody stated, by name; one that reaches below zero says that zero is possible.

    Returns:
        A positive number, at most the smallest measurement; ``None`` where the name says nothing of the kind, zero or
        less was measured or declared possible, or nothing was measured.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    finite = array[np.isfinite(array)]
    if not len(finite) or finite.min() <= 0.0 or (declared is not None and declared.get(name, _POSITIVE)[0] < 0.0):
        return None
    if named_ranges(name) != (_POSITIVE,) or _deciding_word(words(name)) not in _NEVER_ZERO:
        return None
    smallest = float(finite.min())
    return min(smallest, max(_FLOOR * smallest, _SMALLEST))


def holds(limits: Range, lowest: float, highest: float) -> bool:
    """Say whether measurements lie in a range, but for rounding."""
    low, high = limits
    slack = _ROUNDING * (high - low if math.isfinite(high - low) else 1.0)
    return low - slack <= lowest and highest <= high + slack


def n_outside(limits: Range, values: ArrayLike) -> int:
    """Count the measurements that lie outside a range, but for rounding; NaN and infinities are none."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return sum(not holds(limits, value, value) for value in array[np.isfinite(array)].tolist())


def metric_range(name: str, values: ArrayLike, declared: Mapping[str, Range] | None = None) -> Range | None:
    """Return the values that a metric can take: as declared, else by its name, else by how measurements lie.

    Args:
        name: the metric's.
        values: all that was measured of it; NaN and infinities are ignored.
        declared: ranges that somebody stated, by name; ``(-inf, inf)`` states that there is none.

    Returns:
        ``(low, high)``, an end infinite where it is open, or ``None`` for any value.
    """
    if declared is not None and name in declared:
        return declared[name]
    if named_ranges(name) is None:
        return likely_bounds(np.asarray(values, dtype=np.float64))
    return guess_range(name, values)


def range_text(limits: Sequence[float]) -> str:
    """Say a range: ``between 0 and 1``, ``at least 0``, ``at most 1``."""
    low, high = limits
    if math.isinf(low):
        return "any number" if math.isinf(high) else f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def likely_bounds(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Guess whether a metric is a share: within [0, 1], and either exactly at an end or near both of them."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() < 0.0 or finite.max() > 1.0:
        return None
    at_an_end = finite.min() == 0.0 or finite.max() == 1.0
    near_both = finite.min() <= 0.01 and finite.max() >= 0.99
    return (0.0, 1.0) if at_an_end or near_both else None
