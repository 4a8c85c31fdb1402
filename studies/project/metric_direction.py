"""Guess what a metric is for from its name: which way is better, and whether anybody would search for the best of it.

What it can be at all is guessed in :mod:`epsopt.surrogate.ranges`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from epsopt.surrogate.ranges import words

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
_CHANGES = frozenset(
    "change decay decline decrease degradation delta diff difference drop gap improvement increase reduction".split()
)
_NEGATED = frozenset("minus neg negated negative".split())
_DIRECTIONS = dict.fromkeys(_LESS.split(), False) | dict.fromkeys(_MORE.split(), True)


def guess_maximize(name: str) -> bool | None:
    """Say whether more of a metric is better, as far as its name tells; None when it does not.

    The last word that says anything decides: ``error_recall`` is a recall. ``neg_mean_squared_error``, as scikit-learn
    calls it, turns it round. What is said of a change (``accuracy_drop``, ``loss_reduction``) tells nothing.
    """
    parts = words(name)
    parts = [p if p in _DIRECTIONS else p.rstrip("0123456789") or p for p in parts]  # acc1, recall5, map50
    place = next((i for i in range(len(parts) - 1, -1, -1) if parts[i] in _DIRECTIONS), None)
    if place is None or _CHANGES.intersection(parts[place + 1 :]):
        return None
    turned = any(
        word in _NEGATED and (i == 0 or parts[i - 1] not in ("false", "true")) for i, word in enumerate(parts[:place])
    )
    return _DIRECTIONS[parts[place]] is not turned


MOST_OBJECTIVES = 6
"""Objectives that are guessed at most: a front of more holds nearly everything."""

# Bookkeeping of trainers and loggers, not what a model is judged by. Names of optimisers' schedules carry more words
# ("lr-AdamW/pg1"), so one of these decides wherever it stands.
_BOOKKEEPING = frozenset(
    """
    elapsed eta flos gradnorm lr mem memory momentum optimizer pid runtime scheduler seed throughput timestamp tps vram
    walltime wandb watt watts weightdecay
    """.split()
)
_COUNTERS = frozenset("epoch epochs iter iteration iterations iters step steps timestep timesteps".split())
_PAIRS = frozenset(
    """
    batch_size data_time dataset_size global_step grad_norm gradient_norm hp_metric input_tokens learning_rate
    loss_scale per_second system_cpu system_gpu tokens_seen weight_decay
    """.split()
)
_CLOCKS = frozenset("time times duration seconds secs sec".split())
_MODELS_OWN = frozenset("inference infer latency predict prediction response".split())  # whose time counts
_TRAINING = frozenset("train training tr trn".split())
_VALIDATION = frozenset("dev eval evaluation heldout holdout test val valid validation".split())


@dataclass(frozen=True)
class LeftOut:
    """A metric that is no objective by guess, and why.

    Attributes:
        name: of the metric.
        reason: ``bookkeeping``, ``training``, ``ends`` (measured at the ends of runs alone, where others are measured
            along the way), ``constant`` (one value everywhere), ``best`` (the best of a run so far), ``more`` (six
            others are objectives already), ``unasked`` (the user named all objectives).
        maximize: which way its name says that it is better.
    """

    name: str
    reason: str
    maximize: bool | None


def is_bookkeeping(name: str) -> bool:
    """Say whether a metric tells of the training program and not of the model: its time, memory, steps, rates."""
    parts = words(name)
    if _MODELS_OWN.intersection(parts):
        return False
    pairs = {f"{a}_{b}" for a, b in pairwise(parts)}
    # "grad_2.0_norm_total" (Lightning) names a gradient's norm with something between.
    gradient = bool({"grad", "gradient"} & set(parts)) and bool({"norm", "norms"} & set(parts))
    # A counter, but not "val_loss_epoch", which is a loss (Lightning).
    counts = bool(_COUNTERS.intersection(parts)) and guess_maximize(name) is None
    clocks = bool(_CLOCKS.intersection(parts))
    return gradient or counts or clocks or bool(_BOOKKEEPING.intersection(parts)) or bool(_PAIRS & pairs)


def is_best_so_far(name: str) -> bool:
    """Say whether a metric is by its name the best of its run so far, which a later and worse checkpoint says, too."""
    return "best" in words(name)


def _why_constant(name: str) -> str:
    return "bookkeeping" if is_bookkeeping(name) else "constant"


def leave_out(names: Sequence[str], at_ends: Collection[str] = (), constant: Collection[str] = ()) -> list[LeftOut]:
    """Say which metrics are no objectives by guess.

    One that only the ends of runs have, such as a test score, is none beside those that are measured along the way:
    with it no checkpoint but the last would be on any front. It stays where only metrics of training are.

    One that has the same value everywhere tells no model from another, and leaves a front no hypervolume.

    The best of a run so far (``best_acc1``) is none beside what was measured of each checkpoint.

    A metric of training is none beside metrics of validation: one that says so (``train_loss``), and one that is
    logged for both, such as ``loss`` beside ``eval_loss``. Six objectives are enough: those of the shortest names.

    Args:
        names: all metrics whose directions nobody stated.
        at_ends: those of them that only the ends of runs have.
        constant: those of them that have one value everywhere: they are none where another varies.
    """
    if constant:
        out = leave_out([n for n in names if n not in constant], at_ends)
        without = {entry.name for entry in out}
        if any(n not in constant and n not in without and guess_maximize(n) is not None for n in names):
            return out + [LeftOut(n, _why_constant(n), guess_maximize(n)) for n in names if n in constant]
    late = [n for n in names if n in at_ends and guess_maximize(n) is not None and not is_bookkeeping(n)]
    if late:
        along = [n for n in names if n not in late]
        out = leave_out(along)
        without = {entry.name for entry in out}
        if any(guess_maximize(n) is not None and not _TRAINING & {*words(n)} for n in along if n not in without):
            return out + [LeftOut(n, "ends", guess_maximize(n)) for n in late]
    out = [LeftOut(n, "bookkeeping", guess_maximize(n)) for n in names if is_bookkeeping(n)]
    rest = [n for n in names if not is_bookkeeping(n)]
    parts = {n: words(n) for n in rest}
    validated = {tuple(w for w in own if w not in _VALIDATION) for own in parts.values() if _VALIDATION & set(own)}
    directed = [n for n in rest if guess_maximize(n) is not None]
    others = any(not _TRAINING & set(parts[n]) for n in directed)

    def trains(name: str) -> bool:
        own = parts[name]
        if _TRAINING & set(own):
            return others
        return not _VALIDATION & set(own) and bool(validated) and (tuple(own) in validated or own == ["loss"])

    out += [LeftOut(n, "training", guess_maximize(n)) for n in rest if trains(n)]
    own = [n for n in directed if not trains(n)]
    if any(not is_best_so_far(n) for n in own):
        out += [LeftOut(n, "best", guess_maximize(n)) for n in own if is_best_so_far(n)]
        own = [n for n in own if not is_best_so_far(n)]
    counted = sorted(own, key=lambda n: (len(parts[n]), len(n), n))
    out += [LeftOut(n, "more", guess_maximize(n)) for n in sorted(counted[MOST_OBJECTIVES:])]
    return out
