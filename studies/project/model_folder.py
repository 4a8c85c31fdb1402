"""A folder that stands for the model in it, as Hugging Face's libraries name models."""

from __future__ import annotations

from pathlib import Path

_MODELS = (
    "model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin",
    "diffusion_pytorch_model.safetensors",
)  # fmt: skip
_FIRST_SHARDS = ("model-00001-of-*.safetensors", "pytorch_model-00001-of-*.bin")
_SUFFIXES = frozenset((".pt", ".pth", ".ckpt", ".safetensors"))


def model_of(path: Path) -> Path:
    """Return the file of the model in a folder; anything else as it is.

    Args:
        path: of a file, or of a folder that holds one model: that of ``save_pretrained``, in one file or in shards
            (the first stands for all), or the only checkpoint in it.

    Returns:
        The folder itself where none of its files is the model.
    """
    try:
        if not isinstance(path, type(Path())) or not path.is_dir():
            return path
        found = [path / name for name in _MODELS if (path / name).is_file()]
        found += [shard for pattern in _FIRST_SHARDS for shard in sorted(path.glob(pattern))]
        alone = [file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file()]
    except OSError:
        return path
    return found[0] if found else alone[0] if len(alone) == 1 else path
