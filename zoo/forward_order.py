"""The order in which a network computes, guessed from names: a safetensors file holds tensors in the alphabet's.

A PyTorch state dict lists a network as it was built, mostly as it computes: ``q_proj`` before ``o_proj``, ``weight``
before ``bias``, layer 2 before layer 10. Sorted by name, none of that is left, and what follows what has to be guessed:
numbers count as numbers, and names that are usual for a beginning, a middle or an end of a module count as that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Names of modules and parameters by where they stand among those of one parent; any other stands in the middle.
_MIDDLE = 50
_STANDS = [
    (rank, re.compile(pattern))
    for rank, pattern in (
        (0, r"\w*(token|word|tok)s?_?(emb|embed|embedding|embeddings)|embed_tokens|wte|shared|(cls|mask|dist)_token"),
        (1, r"\w*(emb|embed|embedding|embeddings|embedder|embed_\w+)|wpe|pos_\w*"),
        (5, r"stem|inc?|inp|input\w*|in_layer|conv_in|first\w*|preprocess\w*|features_extractor"),
        (
            10,
            r"weight|weight_ih_l|q|query|q_proj|q_lin|wq|to_q|\w*qkv(_proj)?|in_proj(_weight)?|c_attn|query_key_value",
        ),
        (11, r"weight_hh_l|in_proj_bias|k|keys?|k_proj|k_lin|wk|to_k"),
        (12, r"bias_ih_l|v|values?|v_proj|v_lin|wv|to_v|self"),
        (13, r"bias_hh_l|bias|gamma|beta|running_mean"),
        (14, r"running_var"),
        (15, r"num_batches_tracked"),
        (20, r"enc|encoders?|down(s|_?blocks?|_?samplers?)?|backbone|trunk|body|gate(_proj)?|wi_|fc_in"),
        (25, r"self_?att\w*|attn|attentions?"),
        (30, r"up_proj|cross_?att\w*|multihead_attn|crossattention|encdecattention|encoder_attn"),
        (35, r"mid(dle)?(_?block)?|bottleneck|bridge|latent|hidden\w*"),
        (40, r"(\w+_)?(mu|mean)"),
        (41, r"(\w+_)?(logvar|log_var|var|sigma|std)"),
        (60, r"dec|decoders?|ups?|up_?(blocks?|samplers?)|wo|o|o_proj|out_proj|to_out|out_lin|proj|c_proj|dense"),
        (60, r"down_proj|dense_4h_to_h|project_out"),
        (70, r"downsample|shortcut|skip|identity|(conv|proj)_shortcut|skip_connection"),
        (80, r"pooler|final\w*|ln_f|neck"),
        (90, r"(\w+_)?heads?|cls|classifier|fc|fc_out|score|(to_)?logits|outc?|output\w*|out_layer|last\w*"),
        (90, r"conv_out|action_net|value_net|proj_out|predictor|readout|linear_out"),
    )
]
_FEED_FORWARD = {"w1": 20, "w3": 30, "w2": 60, "up": 30, "down": 60}  # numbered ones are a U-Net's
# Of those with one number, what comes after a layer: its norm, then what holds several layers.
_AFTER = [re.compile(r"\w*(norm|bn|ln|rms)\w*"), re.compile(r"layers?|blocks?|stages?|groups?|res\w*")]
_NUMBERED = re.compile(r"(.*?)[_.]?(\d+)")


def forward_order(names: Iterable[str]) -> list[str]:
    """Return names of tensors in the order in which the network probably computes with them.

    Args:
        names: of a state dict's tensors, in any order.
    """
    return sorted(names, key=_key)


def alphabetical_order(names: Iterable[str]) -> list[str]:
    """Return names in the alphabet's order, but a layer 2 before a layer 10 and a weight before its bias.

    Earlier versions took that for the order of a state dict.

    Args:
        names: of a state dict's tensors, in any order.
    """
    return sorted(names, key=_by_alphabet)


def _by_alphabet(name: str) -> list[tuple[int, int, str, str]]:
    *modules, last = name.split(".")
    order = {"weight": 0, "bias": 1}
    places = [(0, *_number(part), part) if part.isdecimal() else (1, 0, "", part) for part in modules]
    return [*places, (1, order.get(last, 2), "", last)]


def _key(name: str) -> tuple[tuple[int, int, str, int, str], ...]:
    return tuple(map(_place, name.split(".")))


def _number(digits: str) -> tuple[int, str]:
    """A whole number of any length, as what sorts like it."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _place(part: str) -> tuple[int, int, str, int, str]:
    """Where a module or a parameter stands among those of its parent."""
    if part.isdecimal():
        return _MIDDLE, *_number(part), 0, part
    lower = part.lower()
    if lower in _FEED_FORWARD:
        return _FEED_FORWARD[lower], 0, "", 0, part
    found = _NUMBERED.fullmatch(lower)
    stem, number = (found[1], _number(found[2])) if found else (lower, (0, ""))
    rank = next((rank for rank, pattern in _STANDS if pattern.fullmatch(stem)), _MIDDLE)
    if found and rank > 70:  # fc1 is no end
        rank = _MIDDLE
    return rank, *number, next((i for i, after in enumerate(_AFTER, 1) if after.fullmatch(stem)), 0), part
