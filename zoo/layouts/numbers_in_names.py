"""Which number in a checkpoint's name is an epoch or a step: ``model_e12_loss0.31.pt`` is of epoch 12.

Names hold other numbers as well: dates, hashes, scores, sizes, learning rates, architectures, data sets, and how many
checkpoints an average is of. A name that says none is better than a wrong one, to which the log's values would go.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.series import OF_RUNS
from epsopt.zoo.layouts.training_state import is_score

_EPOCH = re.compile(r"(?:epoch|(?<![a-z])ep)[=_.-]?(\d{1,15})", re.IGNORECASE)
_STEP = re.compile(
    r"(step|iter|iteration|ckpt|checkpoint|(?<![a-z])ba)s?[=_.-]?(\d{1,15})(?!\d|\.\d)(k(?![a-z]))?", re.IGNORECASE
)
_OPTIMISER = re.compile(
    r"(?:(?<![a-z])|(?<=global))(?:step|iter|iteration|ba)s?[=_.-]?(\d{1,15})(?!\d|\.\d)(k(?![a-z]))?", re.IGNORECASE
)
# "10best", "124M" and "3d" count something else; "1epoch" and "500steps" say what they count.
_NUMBER = re.compile(
    r"(?:(?<![\d.])|(?<=model\.)|(?<=net\.)|(?<=weights\.)|(?<=train\.))(\d{1,15})"
    r"(?!\d|\.\d|(?!(?:ep|epochs?|its?|iters?|iterations?|steps?|updates?)(?![a-z]))[a-z])",
    re.IGNORECASE,
)
# "acc0.93" and "acc_93" are scores, "f1", "top5" and "fp16" are words; "rank0", "bs64" and "256x256" say how, not when.
_WORD = re.compile(
    r"(?<![a-z])(?:f|top|r|l|h|k|map|mrr|ndcg|hits?|recall|fp|bf|int|float|v)@?$"
    r"|(?<![a-z])(?:rank|bsz?|batch_?size|lr|wd|dims?|hidden|layers?|heads?|depth|width|size|gpus?|seq_?len|ctx|dropout"
    r"|world_?size)[=_-]?$"
    r"|(?<![a-z])(?:acc\d?|accuracy|loss|dice|f1|iou|miou|map|m?ap50|auc|auroc|psnr|ssim|bleu|rouge|wer|cer|mae|mse|rmse"
    r"|ppl|perplexity|score|reward|fid)[=_.-]?$"
    r"|(?<![a-z])(?:stage|phase|part|task|client|k?fold|shard|prun(?:ed|ing)|sparsity)[=_.-]?$",
    re.IGNORECASE,
)
_OF_SEVERAL = re.compile(r"(?<![a-z])(?:ave|avg|averaged?|averages|swa|ensemble|soup)(?![a-z])", re.IGNORECASE)
"""An average's number is how many checkpoints it is of."""
_FILES = frozenset(("ckpt", "checkpoint"))
_COPY = re.compile(r"(?:[ _-]copy(?:[ _-]?\d{1,3})?| ?\(\d{1,3}\))$", re.IGNORECASE)

# "20250103_1530" and "2025-01-03T15:30:00" say when a file was written, as 1735918200 (seconds) does.
_TIME = r"(?:[T_\-. ]*(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d(?:[-_.:m]?[0-5]\d)?)?(?!\d)"
_DATE = re.compile(
    rf"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01]){_TIME}"
    rf"|(?<!\d)(?:[0-2]\d|3[01])([-_.])(?:[0-2]\d|3[01])\2(?:19|20)\d\d{_TIME}"
    r"|(?<!\d)1[4-9]\d{8}(?:\d{3})?(?!\d)"
    r"|(?<![a-z])(?-i:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[-_]?(?:[0-2]\d|3[01])"
    r"[-_](?:[01]\d|2[0-3])-[0-5]\d-[0-5]\d"
    r"|(?<![\d.-])(?:[01]\d|2[0-3])([-:])[0-5]\d\3[0-5]\d(?!\d)"
    r"|(?<!\d)(?:[01]\d|2[0-3])h[0-5]\d(?!\d)",
    re.IGNORECASE,
)
_HASH = re.compile(r"(?<![0-9a-z])(?=[a-f]*\d)(?![a-f]*\d+(?![0-9a-f]))[0-9a-f]{7,40}(?![0-9a-z])", re.IGNORECASE)
"""Such as torchvision ends its names with: digits among the letters a to f, not behind them alone (``ba100000``)."""
_RATE = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,6})?e-\d{1,3}(?!\d)", re.IGNORECASE)
_TIMES = re.compile(r"(?<![\d.])\d{1,5}x\d{1,5}(?!\d)")

# A size that is a part of an architecture's name: resnet50, vgg16, vit_b_16, efficientnet_b3.
_ARCHITECTURE = re.compile(
    r"(?<![a-z])(?:wide_?)?(?:se_?)?(?:resnet|resnext|preresnet|densenet|darknet|hrnet|vgg|dla|dpn|yolo|gpt|llama|pythia"
    r"|(?:vit|deit|swin|beit)_[a-z]+_?(?:patch)?|efficientnet_?b|regnet[a-z_]*)([-_]?)(\d{1,4})(?!\d)",
    re.IGNORECASE,
)
_SIZES = frozenset(
    (
        *(2, 3, 4, 8, 14, 16, 32),  # gpt2, llama3, patches
        *(10, 18, 20, 26, 34, 44, 50, 56, 101, 110, 152, 200),  # residual networks
        *(11, 13, 19, 40, 48, 53, 60, 68, 92, 102, 107, 121, 131, 161, 169, 201),
    )
)
"""Sizes that architectures have: what else stands apart from the name (``resnet_7``) is no size."""
_NAME = re.compile(
    r"(?<![a-z])(?:cifar[-_]?100?|i?mnist\d|imagenet\d{1,4}|(?:coco|voc)[-_]?(?:20)?\d\d|(?:wmt|iwslt)\d\d"
    r"|lenet[-_]?5|t5|(?:wav|data|word|doc)2vec2?|[a-z]+(?<!de)v\d{1,2})(?!\d|\.\d)",
    re.IGNORECASE,
)
"""Names of data sets and architectures that end in a number, and versions (``mobilenetv2``)."""
_FEWEST = 3  # files that are a series


def epoch_in_name(stem: str) -> int | None:
    """Return the number behind the word epoch in a file's name without its suffix."""
    named = _EPOCH.search(_ARCHITECTURE.sub("", _without_other_numbers(stem)))
    return None if named is None else int(named[1])


def step_in_name(stem: str) -> int | None:
    """Return the number of the optimiser's updates in a file's name without its suffix, behind a word for them."""
    named = _OPTIMISER.search(_without_other_numbers(stem))
    return None if named is None else int(named[1]) * (1000 if named[2] else 1)


def score_in_name(stem: str) -> dict[str, float]:
    """Return the score that ends a file's name: ``best_model_5_val_accuracy=0.8000``, ``model_key_metric=0.7``.

    Ignite keeps the highest number, so that a loss has its sign turned there: of a negative loss nothing is returned.
    """
    found = _SCORE.search(stem)
    if found is None:
        return {}
    name = _BEFORE_SCORE.sub("", found[1])
    negative = found[2].startswith("-") and re.search(r"loss|err", name, re.IGNORECASE)
    known = is_score(name) or name.lower() == "key_metric"
    return {name: float(found[2])} if known and not negative else {}


_SCORE = re.compile(r"([A-Za-z][\w@]*)=(-?\d{1,9}\.\d{1,9})$")
_BEFORE_SCORE = re.compile(r"^.*\d_|^(?:(?:best|model|net|checkpoint|ckpt|weights)_)+", re.IGNORECASE)


def moment_in_name(path: Path) -> int | None:
    """Return the step that a file's name tells, or else the last of its numbers that may be an epoch."""
    stem = _without_other_numbers(path.stem)
    plain = _ARCHITECTURE.sub(lambda found: _without_size(found, path), stem)
    several = _OF_SEVERAL.search(plain) is not None
    if (named := _STEP.search(plain)) and not (several and named[1].lower() in _FILES):
        return int(named[2]) * (1000 if named[3] else 1)
    if several:
        return None
    counts = [m for m in _NUMBER.finditer(plain) if not _WORD.search(plain[: m.start()])]
    return int(counts[-1][1]) if counts else None


def _without_other_numbers(stem: str) -> str:
    for pattern in (_HASH, _DATE, _TIMES, OF_RUNS, _RATE, _COPY, _NAME):
        stem = pattern.sub("", stem)
    return stem


def _without_size(found: re.Match[str], path: Path) -> str:
    """Leave a number behind an architecture's name only where it stands apart and is no size, or counts files."""
    apart, number = found[1], int(found[2])
    counts = apart and found.end() == len(found.string) and (number not in _SIZES or _counts_files(path))
    return f"_{found[2]}" if counts else ""


def _counts_files(path: Path) -> bool:
    """Tell whether a file is of a series in its folder, whose names differ in one number that rises evenly from 0 or 1.

    ``resnet_1.pt`` to ``resnet_10.pt`` are one training, ``resnet_18.pt`` and ``resnet_34.pt`` two architectures.
    """
    before = path.stem.rstrip("0123456789")
    stems = {Path(n).stem for n in Folders().names(path.parent) if Path(n).suffix == path.suffix}
    found = sorted({int(end) for s in stems if s.startswith(before) and (end := s[len(before) :]).isdecimal()})
    strides = {b - a for a, b in pairwise(found)}
    return len(found) >= _FEWEST and len(strides) == 1 and found[0] <= max(1, *strides)
