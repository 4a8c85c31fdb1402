"""Guess what a metric is from its name and values: which way is better, and whether it is a share."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words of names, as people write them; a name is split at everything that is no letter or digit, and at humps.
_LESS = """
    abserr bits bpb bpc brier ce cer cost crossentropy delay divergence duration ece err error errors fid flops hinge
    kid kl latency logloss loss lpips mae mape memory mse msle nll perplexity ppl regret residual rmse rmsle runtime
    size smape time wer xent
"""
_MORE = """
    acc accuracy ap auc aucpr auprc auroc bleu corr correlation cosine cov coverage dice em f1 fitness fscore gain hit
    hits iou jaccard kappa loglikelihood map mcc meteor miou mrr ndcg pearson precision psnr purity r2 recall return
    reward rouge score sensitivity similarity skill spearman specificity ssim success throughput top1 top5 tps win
    winrate
"""
_SHARES = """
    acc accuracy ap auc auprc auroc cov coverage dice em f1 fscore hit hits iou jaccard map miou mrr ndcg precision
    purity recall sensitivity specificity ssim success top1 top5 winrate
"""
_DIRECTIONS = dict.fromkeys(_LESS.split(), False) | dict.fromkeys(_MORE.split(), True)


def words(name: str) -> list[str]:
    """Split a metric's name: ``val/topAcc_1`` is ``val, top, acc, 1``."""
    humps = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [w for w in re.split(r"[^a-z0-9]+", humps.lower()) if w]


def guess_maximize(name: str) -> bool | None:
    """Say whether more of a metric is better, as far as its name tells; None when it does not.

    The last word that says anything decides: ``error_recall`` is a recall.
    """
    return next((_DIRECTIONS[word] for word in reversed(words(name)) if word in _DIRECTIONS), None)


def guess_bounds(name: str, values: Sequence[float]) -> tuple[float, float] | None:
    """Say that a metric lies in [0, 1] when its name is that of a share and every value agrees; else None."""
    if values and all(0.0 <= v <= 1.0 for v in values) and set(_SHARES.split()) & set(words(name)):
        return (0.0, 1.0)
    return None
