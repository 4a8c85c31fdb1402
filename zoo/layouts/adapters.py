"""Low-rank adapters (LoRA, Hu et al. 2022): what ``adapter_config.json`` says, and which tensors are one update.

An adapter changes a weight W to ``W + s B A``, with ``s = alpha / r`` (``alpha / sqrt(r)`` where rank-stabilised,
Kalajdzievski 2023). B and A by themselves say nothing: ``B R`` and ``R^-1 A`` are the same adapter for every invertible
R. So whatever compares or merges adapters looks at the product, whose shape does not depend on the rank either.

Adapters of other kinds (LoHa, LoKr, AdaLoRA, ...) hold factors of other products, which are not formed here: they are
read as what they hold, and never merged.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.fingerprints.lineage import ADAPTED
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source

CONFIG = "adapter_config.json"
MODEL = re.compile(r"adapter_model(-\d{5}-of-\d{5})?\.(safetensors|bin)")
_PAIR = re.compile(r"(.+)\.lora_(A|B)(?:\.([^.]+))?\.(weight|bias)")
_DOWN_UP = re.compile(r"(.+?)(?:\.lora_|_lora\.|\.lora\.|\.lora_linear_layer\.)(down|up)\.weight")
"""The factors as kohya's scripts and diffusers call them; the former have ``alpha`` beside them."""
_OF_A_PRODUCT = re.compile(
    r".*\.(hada_[wt]\d(_[ab])?|lokr_[wt]\d(_[ab])?|lora_mid\.weight|lora_E(\..+)?|vera_lambda_[bd](\..+)?|(b?oft|hra)_.+)"
)
_SUMMABLE = frozenset(
    "LORA IA3 LN_TUNING FOURIERFT PROMPT_TUNING PREFIX_TUNING MULTITASK_PROMPT_TUNING P_TUNING".split()
)
"""Kinds of adapters of peft whose sum is the sum of what they hold, or that are read as products."""
_EMBEDDING = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.([^.]+))?")
_LARGEST = 4 << 20  # bytes of a configuration
_WRAPPER = "base_model.model."

Kind = Literal["linear", "embedding"]


@dataclass(frozen=True)
class AdapterConfig:
    """What is needed of an ``adapter_config.json``.

    Attributes:
        values: all of it.
        base: the model that the adapter belongs to, a name or a path; empty where the file names none.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""

    def scale(self, module: str, rank: int) -> float:
        """Return what the product of a module's factors is multiplied with; 1 where nothing says it."""
        alpha = self.values.get("lora_alpha")
        patterns = self.values.get("alpha_pattern")
        for key, value in (patterns if isinstance(patterns, Mapping) else {}).items():
            if _fits(str(key), module):
                alpha = value
                break
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            return 1.0
        return float(alpha) / (math.sqrt(rank) if self.values.get("use_rslora") is True else rank)


@dataclass(frozen=True)
class LowRank:
    """The two factors of one update.

    Attributes:
        module: the module that is changed, as the file calls it.
        down: name of A, ``(rank, inputs, ...)``; of an embedding ``(rank, entries)``.
        up: name of B, ``(outputs, rank, ...)``; of an embedding ``(width, rank)``.
        kind: a linear map or convolution, or an embedding, whose update is ``(entries, width)``.
        alpha: name of the tensor that scales the product, as ``alpha / rank``; None: there is none.
        any_rank: whether what loads it finds the rank in the file, as of kohya's scripts and diffusers.
    """

    module: str
    down: str
    up: str
    kind: Kind = "linear"
    alpha: str | None = None
    any_rank: bool = False


def adapter_config(path: Path, limits: Limits) -> AdapterConfig | None:
    """Return what lies beside an adapter's file; None for other files, and where it cannot be read.

    Args:
        path: of a checkpoint.
        limits: what reading may cost.
    """
    if MODEL.fullmatch(path.name) is None:
        return None
    try:
        with open_source(path.with_name(CONFIG), limits) as source:
            if source.size > _LARGEST:
                return None
            values = json.loads(bytes(source.read(0, source.size)))
    except (UnreadableCheckpoint, ChangedWhileReadError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, Mapping):
        return None
    named = values.get("base_model_name_or_path")
    return AdapterConfig(values, _base(named, path) if isinstance(named, str) else "")


def low_rank(names: Iterable[str], config: AdapterConfig | None) -> dict[str, LowRank]:
    """Return the updates among tensors, by the name that the changed weight has in the base.

    Args:
        names: of a checkpoint's tensors.
        config: of the adapter; None where none is known.
    """
    if config is not None and str(config.values.get("peft_type", "LORA")).upper() != "LORA":
        return {}
    found: dict[tuple[str, str, Kind], dict[str, str]] = {}
    names = set(names) if not isinstance(names, Mapping) else names
    for name in names:
        if (pair := _DOWN_UP.fullmatch(name)) is not None:
            found.setdefault((pair[1], "", "linear"), {})["A" if pair[2] == "down" else "B"] = name
        elif (pair := _PAIR.fullmatch(name)) is not None and pair[4] == "weight":
            found.setdefault((pair[1], pair[3] or "", "linear"), {})[pair[2]] = name
        elif (pair := _EMBEDDING.fullmatch(name)) is not None:
            found.setdefault((pair[1], pair[3] or "", "embedding"), {})[pair[2]] = name
    adapters = {adapter for _, adapter, _ in found}
    out: dict[str, LowRank] = {}
    for (module, adapter, kind), both in found.items():
        if both.keys() == {"A", "B"}:
            label = f".{adapter}" if len(adapters) > 1 else ""
            alpha = f"{module}.alpha" if f"{module}.alpha" in names else None
            out[f"{module.removeprefix(_WRAPPER)}{label}.weight"] = LowRank(
                module, both["A"], both["B"], kind, alpha, any_rank=_DOWN_UP.fullmatch(both["A"]) is not None
            )
    return out


def factors_by_shape(down: Sequence[int], up: Sequence[int]) -> bool:
    """Tell whether two tensors are the factors of one update by their shapes.

    Args:
        down: of the one that is applied first.
        up: of the other.
    """
    return len(down) >= 2 and len(up) >= 2 and 0 < down[0] == math.prod(up[1:])


def why_no_sum(names: Iterable[str], config: AdapterConfig | None) -> str | None:
    """Return why an adapter cannot be added to others tensor by tensor; None where it can, or is no adapter.

    Args:
        names: of a checkpoint's tensors.
        config: of the adapter; None where none is known.
    """
    kind = "LORA" if config is None else str(config.values.get("peft_type", "LORA")).upper()
    held = next((name for name in names if _OF_A_PRODUCT.fullmatch(name)), None)
    if kind in _SUMMABLE and held is None:
        return None
    what = f"an adapter of kind {kind}" if kind not in _SUMMABLE else f"an adapter with {held!r}"
    return (
        f"{what}, whose update is no sum of what it holds: merge each adapter into its base (merge_and_unload), and "
        "ingest and merge these models"
    )


def _fits(pattern: str, module: str) -> bool:
    """Tell whether PEFT gives a module the value of a pattern: it is the end of the module's name."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module.removeprefix(_WRAPPER)) is not None
    except re.error:
        return False


def _base(named: str, path: Path) -> str:
    """Return one name for one base: of a folder that is there its real path, whatever way the adapter names it."""
    named = named.rstrip("/")
    if not named:
        return ""
    for candidate in (Path(named), *(folder / named for folder in path.parents[1:4])):
        if candidate.is_absolute() and candidate.is_dir():
            return os.path.realpath(candidate)
    return named


def reference_of(base: str) -> str:
    """Return what stands for the base of adapters where else the path of a reference checkpoint does."""
    return f"{ADAPTED}{base}"
