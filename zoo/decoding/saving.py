"""Write decoded weights as a checkpoint that says where it comes from, and that loads where its parents do.

Of a model in a folder of its own, as transformers and peft write it, the merge gets the parents' configuration and
tokenizer beside its weights; of a checkpoint of Lightning what ``load_from_checkpoint`` asks for.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epsopt.zoo.decoding.mergekit import mergekit_recipe
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Recombination
from epsopt.zoo.decoding.tensor_file import TensorType, mapped_tensors, write_tensors
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.files import atomic_file
from epsopt.zoo.layouts.adapters import CONFIG as ADAPTER
from epsopt.zoo.layouts.hugging_face import CONFIG, MODELS, whole_name
from epsopt.zoo.layouts.parsed import RECOMBINED
from epsopt.zoo.reading.policy_archive import MERGE, POLICY
from epsopt.zoo.reading.remote import is_url, location

_TORCH = (".pt", ".pth", ".ckpt")
_COMPANIONS = re.compile(
    r"(generation|preprocessor|processor|image_processor|feature_extractor|video_preprocessor)(_config)?\.json"
    r"|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab.*|merges\.txt|chat_template.*|.*\.spm|"
    r"(spiece|sentencepiece.*|source|target)\.(model|spm)|(modeling|configuration|tokenization|processing)_\w+\.py"
)
"""What goes with a model that is no weight, by the names that transformers gives it; nothing of its training."""
_LARGEST = 512 << 20  # bytes of one of them


@dataclass(frozen=True)
class Tensors:
    """Tensors in a .safetensors file that this program wrote."""

    path: Path
    types: Mapping[str, TensorType]


@dataclass(frozen=True)
class Decoded:
    """Decoded weights in a temporary file, which lasts as long as their decoder.

    Attributes:
        recombination: what they are made of.
        path: a .safetensors file.
        types: the tensors in the parents' order, names without wrappers' prefixes.
        layout: how the parents keep their weights.
        corrected: what the user's hooks corrected when it was measured; of a tensor in several the last counts.
    """

    recombination: Recombination
    path: Path
    types: Mapping[str, TensorType]
    layout: Mapping[str, Any]
    corrected: tuple[Tensors, ...] = ()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors in the parents' order, mapped: no more memory is taken than is looked at."""
        found = mapped_tensors(self.path, self.types)
        for more in self.corrected:
            found |= mapped_tensors(more.path, more.types)
        return found


def name_like(decoded: Decoded) -> str:
    """Return what the file of decoded weights is called in a folder of its own, as their parents' library calls it."""
    like = Path(decoded.layout["like"])
    name = whole_name(like)
    if name in MODELS:
        return "adapter_model.safetensors" if name.startswith("adapter_model") else "model.safetensors"
    return f"model{like.suffix if like.suffix in ('.safetensors', '.zip', *_TORCH) else '.pt'}"


def save_decoded(decoded: Decoded, path: Path, provenance: Provenance) -> None:
    """Write decoded weights as a checkpoint that says where it comes from; whole or not at all.

    A ``.pt`` or ``.ckpt`` is laid out as its parents: the same key for the weights, the same names, and those
    hyperparameters on which all parents agree (of Lightning's, which build the model, those of the parent that counts
    most). Where parents are bare state dicts so is it; its origin lies beside it, in a file of its name that ends in
    .json, and ``config.json`` marks it as a merge. A model called as transformers or peft call it gets what the parent
    that counts most has beside it, and ``mergekit.yml`` where mergekit can make the same. Only measured metrics are
    written as metrics.

    Args:
        decoded: what to write.
        path: ends in .safetensors, .pt, .pth or .ckpt; nothing may be there.
        provenance: where it comes from.

    Raises:
        UsageError: something is there already, or another suffix.
        EpsoptError: it cannot be written.
    """
    if path.suffix == ".safetensors":
        if path.name in MODELS:
            _write_companions(decoded, path.parent)
        _write_safetensors(decoded, path, provenance)
    elif path.suffix in _TORCH:
        _write_torch(decoded, path, provenance)
    elif path.suffix == ".zip" and str(decoded.layout["like"]).lower().endswith(".zip"):
        _write_archive(decoded, path, provenance)
    else:
        raise UsageError(
            f"{path} ends in {path.suffix or 'nothing'}, expected .safetensors or .pt (.pth and .ckpt are .pt)"
        )


def _write_safetensors(decoded: Decoded, path: Path, provenance: Provenance) -> None:
    tensors = decoded.tensors()
    about = {k: {**v, RECOMBINED: True} for k, v in decoded.layout["about"].items()} or {"config": {RECOMBINED: True}}
    strings = {k: json.dumps(v) for k, v in about.items()}
    strings |= {
        "metrics": json.dumps(_measured(provenance)),
        "epsopt": json.dumps(provenance.to_json(decoded.recombination)),
        "format": "pt",
    }
    with atomic_file(path) as file:
        order = sorted(tensors, key=lambda n: -decoded.types[n].dtype.itemsize)
        write_tensors(file, decoded.types, ((n, tensors[n]) for n in order), strings)


def _write_torch(decoded: Decoded, path: Path, provenance: Provenance) -> None:
    layout = decoded.layout
    weights = {layout["names"][n]: t for n, t in decoded.tensors().items()}
    if layout["bare"]:
        _write_side_files(decoded, path, provenance)
        with atomic_file(path) as file:
            torch.save(weights, file)
        return
    side_content: dict[str, Any] = {
        "metrics": _measured(provenance),
        "epsopt": provenance.to_json(decoded.recombination),
    }
    about = layout["about"] if layout["kept"] else {k: {**v, RECOMBINED: True} for k, v in layout["about"].items()}
    if not layout["kept"]:
        about = about or {"config": {RECOMBINED: True}}
    with atomic_file(path) as file:
        torch.save(
            {**_nested(layout["weights"] or "state_dict", weights), **about, **layout["kept"], **side_content}, file
        )


def _write_archive(decoded: Decoded, path: Path, provenance: Provenance) -> None:
    """Write an archive of Stable-Baselines3: that of the parent that counts most, with the merged policy in it."""
    names = decoded.layout["names"]
    weights = {names[n]: t.clone() for n, t in decoded.tensors().items()}
    _write_side_files(decoded, path, provenance)
    with (
        location(decoded.layout["like"]).open("rb") as parent,
        zipfile.ZipFile(parent) as old,
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w") as new,
    ):
        for record in old.infolist():
            if record.filename == POLICY:
                with new.open(POLICY, "w", force_zip64=True) as out:
                    torch.save(weights, out)
            elif record.filename != MERGE:
                new.writestr(record, old.read(record))
        new.writestr(MERGE, json.dumps(provenance.to_json(decoded.recombination)))


def _write_side_files(decoded: Decoded, path: Path, provenance: Provenance) -> None:
    """Say beside a file that has no room for it where it comes from, and that it is a merge."""
    side_content = {"metrics": _measured(provenance), "epsopt": provenance.to_json(decoded.recombination)}
    about = {**decoded.layout["about"], "config": {**decoded.layout["about"].get("config", {}), RECOMBINED: True}}
    _write_json(path.with_suffix(".json"), {**about, **side_content})
    for name, content in ((CONFIG, about["config"]), ("metrics.json", side_content["metrics"])):
        if content and not (path.parent / name).exists():
            _write_json(path.parent / name, content)


def _measured(provenance: Provenance) -> dict[str, float]:
    return {k: v for k, v in (provenance.measured or {}).items() if v is not None}


def _write_companions(decoded: Decoded, folder: Path) -> None:
    """Put beside a model what its parent has beside it, with what the merge changes of the configuration."""
    like = str(decoded.layout["like"])
    adapter, config = decoded.layout["adapter"], decoded.layout["config"]
    if not is_url(like):
        for file in _side_files(Path(like)):
            if file.name == ADAPTER and adapter is not None:
                continue
            if file.name == CONFIG and config is not None:
                continue
            _copy(file, folder / file.name)
    if adapter is not None:
        _write_json(folder / ADAPTER, adapter)
    if config is not None:
        _write_json(folder / CONFIG, config)
    recipe = mergekit_recipe(decoded.recombination, decoded.types, decoded.layout)
    if recipe is not None:
        _write_text(folder / "mergekit.yml", recipe)


def _side_files(model: Path) -> list[Path]:
    """Return what goes with a model: in its own folder, or, as a tokenizer may be saved once for all, above it."""
    found: dict[str, Path] = {}
    for folder in (model.parent, model.parent.parent):
        own = folder == model.parent
        try:
            names = sorted(p.name for p in folder.iterdir())
        except OSError:
            continue
        for name in names:
            wanted = name in (CONFIG, ADAPTER) if own else False
            if name not in found and (wanted or _COMPANIONS.fullmatch(name)) and (folder / name).is_file():
                found[name] = folder / name
    return [file for file in found.values() if file.stat().st_size <= _LARGEST]


def companions(folder: Path) -> list[Path]:
    """Return what goes with the model in a folder, such as its tokenizer; no weights and no configuration."""
    try:
        files = sorted(folder.iterdir())
    except OSError:  # a name in transformers' cache
        return []
    return [f for f in files if _COMPANIONS.fullmatch(f.name) and f.is_file() and f.stat().st_size <= _LARGEST]


def _copy(file: Path, to: Path) -> None:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EpsoptError(f"{file} cannot be read: {error.strerror or error}") from error
    with atomic_file(to) as out:
        out.write(data)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(values, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _nested(key: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Put weights under keys that are joined with dots, as the parents have them."""
    held: dict[str, Any] = weights
    for part in reversed(key.split(".")):
        held = {part: held}
    return held
