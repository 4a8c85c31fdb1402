"""Save merges of adapters as whole models too, each added to its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.decoding.whole_model import is_adapter, require_base, require_packages, save_whole_model
from epsopt.zoo.errors import UsageError
from epsopt.zoo.reading.remote import is_url


def require_adapters(parents: Sequence[Checkpoint]) -> None:
    """Refuse what has no base to be added to; said before anything is measured.

    Raises:
        UsageError: a parent is no adapter, or peft or transformers is not installed.
        EpsoptError: the base that they name is not to be found.
    """
    whole = next((p.path for p in parents if not is_adapter(Path(p.path))), None)
    if whole is not None:
        raise UsageError(f"{whole} is a whole model, and so are merges of it: leave out --whole-models")
    require_packages()
    local = [p.path for p in parents if not is_url(p.path)]
    if local:
        require_base(Path(local[0]).parent)


def save_whole_models(saved: Mapping[int, Path], folder: Path, progress: Callable[[float], None]) -> dict[int, Path]:
    """Add every saved adapter to its base; return the folders of the models, by place.

    Args:
        saved: files of adapters, by their place among the evaluations.
        folder: that the models are saved in, each in one named after its adapter's.
        progress: called with the share that is done.

    Raises:
        UsageError: a folder is there already.
        EpsoptError: a base cannot be loaded, or a folder cannot be written.
    """
    models = {}
    for done, (place, file) in enumerate(saved.items()):
        progress(done / len(saved))
        models[place] = folder / file.parent.name
        save_whole_model(file.parent, models[place])
    return models
