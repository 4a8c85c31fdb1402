"""Add a low-rank adapter to its base: a folder that loads without peft.

peft and transformers do it, which the adapter's own training needs too. Nothing is downloaded, and no code of a
model's author is run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.layouts.adapters import CONFIG
from epsopt.zoo.reading.remote import is_url

_PACKAGES = "adding an adapter to its base takes peft and transformers: pip install peft transformers"

_HOW: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_CANNOT_LOAD = (OSError, ValueError, RuntimeError, KeyError, ImportError)


def is_adapter(weights: Path) -> bool:
    """Tell whether a file of weights is an adapter of peft, by its name."""
    return weights.name.startswith("adapter_model")


def require_packages() -> None:
    """Refuse where an adapter cannot be added to its base.

    Raises:
        UsageError: peft or transformers is not installed.
    """
    try:
        import peft  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(_PACKAGES) from error


def require_base(adapter: Path) -> None:
    """Refuse an adapter whose base is not to be found, before anything is measured.

    Args:
        adapter: folder with ``adapter_config.json``.

    Raises:
        UsageError: peft or transformers is not installed.
        EpsoptError: it names no base, or one of which transformers finds no configuration here.
    """
    require_packages()
    named = _base_name(adapter)
    try:
        _base_config(named)
    except _CANNOT_LOAD as error:
        raise _no_base(named, adapter, error) from error


def save_whole_model(adapter: Path, to: Path) -> None:
    """Write the model that an adapter makes of its base, as transformers loads it; whole or not at all.

    The whole base is held in memory once, in its own type. Weights are changed by what peft's ``merge_and_unload``
    adds. What lies beside the adapter and the base, such as a tokenizer, goes with the model.

    Args:
        adapter: folder with ``adapter_config.json`` and weights; the configuration names the base, as a folder or as a
            name that transformers has in its cache.
        to: folder to be written; nothing may be there.

    Raises:
        UsageError: peft or transformers is not installed, or something is there already.
        EpsoptError: the base is not to be found, or cannot be loaded, or the folder cannot be written.
    """
    require_packages()
    from peft import PeftModel

    if to.exists():
        raise UsageError(f"{to} is there already: name another folder, nothing is written over")
    named = _base_name(adapter)
    try:
        model = PeftModel.from_pretrained(_loaded(named), str(adapter)).merge_and_unload()
    except _CANNOT_LOAD as error:
        raise _no_base(named, adapter, error) from error
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".epsopt-", dir=to.parent) as unfinished:
            folder = Path(unfinished) / "model"
            model.save_pretrained(folder, safe_serialization=True)
            _copy_companions((adapter, Path(named)), folder)
            folder.rename(to)
    except OSError as error:
        raise EpsoptError(f"{to} cannot be written: {error.strerror or error}") from error


def _base_name(adapter: Path) -> str:
    try:
        values: Mapping[str, Any] = json.loads((adapter / CONFIG).read_bytes())
        named = values["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EpsoptError(
            f"{adapter / CONFIG} names no base (base_model_name_or_path), to which it could be added"
        ) from error
    if not isinstance(named, str) or not named or is_url(named):
        raise EpsoptError(f"{adapter / CONFIG} names the base {named!r}, expected a folder or a model's name")
    relative = adapter / named  # an absolute name stays as it is
    return str(relative) if relative.is_dir() else named


def _loaded(named: str) -> Any:
    """Load a base with the class that its configuration names; never with code that lies beside it."""
    import transformers

    name = next(iter(_base_config(named).architectures or ()), "AutoModel")
    kind = getattr(transformers, name, transformers.AutoModel)
    return kind.from_pretrained(named, dtype="auto", **_HOW)


def _base_config(named: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(named, **_HOW)


def _no_base(named: str, adapter: Path, error: Exception) -> EpsoptError:
    return EpsoptError(
        f"the base {named} of {adapter} cannot be loaded by transformers ({_first_line(error)}): keep it where "
        "adapter_config.json names it, or in transformers' cache"
    )


def _copy_companions(folders: tuple[Path, ...], to: Path) -> None:
    """Copy what goes with a model and is none of its weights; the first folder that has it counts."""
    from epsopt.zoo.decoding.saving import companions

    for folder in folders:
        for file in companions(folder):
            if not (to / file.name).exists():
                shutil.copyfile(file, to / file.name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
