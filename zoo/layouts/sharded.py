"""Checkpoints that several processes wrote a part each of: DeepSpeed, Megatron-LM, veRL. No part is a model.

Where the whole weights lie beside (the Trainer with DeepSpeed), the parts are left alone; else the checkpoint is named
with the command that joins them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from epsopt.zoo.layouts.folders import Folders
from epsopt.zoo.layouts.hugging_face import MODELS, whole_name
from epsopt.zoo.layouts.layout import Layout
from epsopt.zoo.reading.text import sanitize

_DEEPSPEED = re.compile(r"(?=.*(?:mp_rank|zero_pp_rank|layer_|expert_)).+[-_](?:model|optim)_states\.pt")
_UNIVERSAL = re.compile(r"(?:fp32|exp_avg|exp_avg_sq|step|momentum)\.pt")  # one file a parameter, below a folder zero
_MEGATRON = re.compile(r"mp_rank_\d\d(?:_\d\d\d)?")
_VERL = re.compile(r"(model|optim|extra_state)_world_size_\d+_rank_\d+\.pt")
_SCRIPT = "zero_to_fp32.py"
_DEPTH = 6


def ignores(file: Path, folders: Folders) -> bool:
    """Tell the parts of a checkpoint whose whole weights lie beside, and the states of optimisers."""
    found = _parts_of(file, folders)
    if found is None:
        return file.name == "distrib_optim.pt" or ((m := _VERL.fullmatch(file.name)) is not None and m[1] != "model")
    folder, _ = found
    return _whole(folder, folders)


def refuses(file: Path, folders: Folders) -> tuple[Path, str] | None:
    """Return the folder of a checkpoint in parts, and the command that joins them."""
    return _parts_of(file, folders)


def _parts_of(file: Path, folders: Folders) -> tuple[Path, str] | None:
    folder = file.parent
    if _DEEPSPEED.fullmatch(file.name):
        return folder, _deepspeed(folder, folders)
    if _UNIVERSAL.fullmatch(file.name):
        zero = next((above for above in file.parents[1:_DEPTH] if above.name == "zero"), None)
        if zero is not None and any(_DEEPSPEED.fullmatch(name) for name in folders.names(zero.parent)):
            return zero.parent, _deepspeed(zero.parent, folders)
    if file.name == "model_optim_rng.pt" and _MEGATRON.fullmatch(folder.name):
        others = [name for name in folders.names(folder.parent) if _MEGATRON.fullmatch(name)]
        if len(others) > 1:
            reason = (
                f"a checkpoint of Megatron-LM in {len(others)} parts: join them with its tools/checkpoint/convert.py "
                f"(--target-tensor-parallel-size 1 --target-pipeline-parallel-size 1), and ingest what that writes"
            )
            return folder.parent, reason
    if (found := _VERL.fullmatch(file.name)) is not None and found[1] == "model":
        here = shlex.quote(str(folder))
        reason = (
            f"a checkpoint in parts, one of each process (FSDP): join them with 'python -m verl.model_merger merge "
            f"--backend fsdp --local_dir {here} --target_dir {here}', and ingest again"
        )
        return folder, sanitize(reason)
    return None


def _deepspeed(folder: Path, folders: Folders) -> str:
    top = folder.parent
    script = shlex.quote(str(top / _SCRIPT)) if _SCRIPT in folders.names(top) else "-m deepspeed.utils.zero_to_fp32"
    command = f"python {script} {shlex.quote(str(top))} {shlex.quote(str(folder))} -t {shlex.quote(folder.name)}"
    return sanitize(
        f"a checkpoint of DeepSpeed in parts: join them with '{command}' (zero_to_fp32.py), and ingest again"
    )


def _whole(folder: Path, folders: Folders) -> bool:
    """Tell whether the whole weights lie in the folder of the parts, or above it if it is the only one there."""
    places = [folder, folder / "huggingface"]
    alone = sum(name.startswith("global_step") for name in folders.names(folder.parent)) <= 1
    if alone and folder.name.startswith("global_step"):
        places.append(folder.parent)
    return any(whole_name(Path(name)) in MODELS for place in places for name in folders.names(place))


LAYOUT = Layout("sharded", ignores=ignores, refuses=refuses)
