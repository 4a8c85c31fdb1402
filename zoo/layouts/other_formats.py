"""Checkpoints that are not read: they are recognised by their names, counted by kind, and named with what to do."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from epsopt.zoo.layouts.evaluations import EVALUATIONS
from epsopt.zoo.reading.magic import HEAD, foreign, is_safetensors, is_torch
from epsopt.zoo.reading.policy_archive import end_of_archive

SAFETENSORS = "save its weights with safetensors (safetensors.torch.save_file, or .numpy, .flax, .paddle, .tensorflow)"
_PICKLED = "a pickle can run any program and is never opened: load it yourself and save the weights with torch.save"
_PEEKS = 20_000  # files of unknown names that are opened for their first bytes


@dataclass
class OtherFormat:
    """One kind of checkpoint that was found and not read.

    Attributes:
        kind: what it is.
        convert: what makes a checkpoint of it that is read.
        count: how many there are.
        example: the path of the first one.
    """

    kind: str
    convert: str
    count: int = 0
    example: str = ""


_FOLDERS: tuple[tuple[str, str, str], ...] = (
    (
        r"\.metadata|.+\.distcp",
        "distributed checkpoint (torch.distributed.checkpoint, FSDP)",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt",
    ),
    (
        r"_CHECKPOINT_METADATA|manifest\.ocdbt|_sharding",
        "Orbax (JAX, Flax)",
        "restore it with orbax.checkpoint and save it with safetensors.flax.save_file",
    ),
    (r"saved_model\.pb(txt)?", "SavedModel (TensorFlow)", f"load it with TensorFlow and {SAFETENSORS}"),
    (r"model\.mlmodel|.+\.mlpackage", "Core ML", "use the model that it was converted from"),
)
"""What a folder holds that is one checkpoint, by the name of a file in it."""
_FOLDER = [(re.compile(pattern), kind, convert) for pattern, kind, convert in _FOLDERS]

SUFFIX_KINDS: dict[str, tuple[str, str]] = {}
"""Kind and conversion by suffix."""
for _suffixes, _kind, _convert in (
    (".h5 .hdf5 .keras", "Keras, or other data in HDF5", f"load it with Keras and {SAFETENSORS}"),
    (".pb .tflite", "TensorFlow", f"load it with TensorFlow and {SAFETENSORS}"),
    (".onnx", "ONNX", "use the PyTorch model that it was exported from, or onnx2torch"),
    (".gguf .ggml", "GGUF", "use the weights that it was converted from"),
    (".msgpack .flax .eqx", "Flax or Equinox (JAX)", "load it with JAX and save it with safetensors.flax.save_file"),
    (".npz .npy", "arrays of NumPy", "save weights with safetensors.numpy.save_file; other arrays are no checkpoints"),
    (".pdparams .pdopt .pdmodel .pdiparams", "PaddlePaddle", "paddle.load, then safetensors.paddle.save_file"),
    (".params", "MXNet", f"load it with MXNet and {SAFETENSORS}"),
    (".caffemodel .prototxt", "Caffe", f"load it with OpenCV and {SAFETENSORS}"),
    (".mlmodel .mlpackage .mlmodelc", "Core ML", "use the model that it was converted from"),
    (".pkl .pickle .dill .joblib .cloudpickle", "pickle or joblib", _PICKLED),
    (".nemo .tar.gz .tgz", "archive", "unpack it (tar xf): the checkpoint is inside"),
    (".mar", "TorchServe archive", "unzip it: the checkpoint is inside"),
    (".pt2 .pte .ptl .torchscript .jit .ts", "exported PyTorch program", "save the state_dict of the model instead"),
    (".ot", "tch-rs (Rust)", "save it with VarStore::save under a name that ends in .safetensors"),
    (".engine .trt .plan", "TensorRT engine", "use the model that it was built from"),
    (".xgb .ubj .cbm .lgb .lgbm", "boosted trees", "not a network: there are no weights to learn from"),
    (".weights .t7", "Darknet or Lua Torch", f"load it with its program and {SAFETENSORS}"),
    (".mindir .mnn .ncnn .rknn .tm", "format for devices", "use the model that it was converted from"),
):
    SUFFIX_KINDS.update(dict.fromkeys(_suffixes.split(), (_kind, _convert)))
TENSORFLOW = re.compile(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})")
"""The files of one TensorFlow checkpoint; the index stands for it."""
_READ = r"\.(?:pt|pth|ckpt|safetensors)(?:\.tar)?"
_PACKED = re.compile(_READ + r"\.(?:gz|zst|xz|bz2|lz4|zip|7z)$")
_RENAMED = re.compile(_READ + r"\.(?!(?:index|meta|data|json|ya?ml|txt|md5|sha256|log|csv|lock|dvc)$)[\w-]{1,12}$")
_UNFINISHED = re.compile(r"(?:^[.~#]|\.(?:tmp|part|partial)\.|\.(?:tmp|part|partial|crdownload|incomplete)$|~$)")
_STATES = re.compile(
    r"random_states?_\d+\.pkl|(optimizer|scheduler|sampler|scaler|dl_state_dict)(_\d+)?\.bin|training_args\.bin"
)
"""The states of optimisers and the like, as accelerate and transformers name them."""
_NOT_CHECKPOINTS = frozenset(
    """.txt .md .rst .csv .tsv .json .jsonl .json5 .yaml .yml .toml .ini .cfg .conf .log .out .err .py .pyc .pyi .ipynb
    .sh .bat .slurm .sbatch .png .jpg .jpeg .gif .bmp .webp .svg .pdf .html .htm .css .js .wandb .db .sqlite .sqlite3
    .db-wal .db-shm .db-journal .lock .parquet .arrow .feather .mp4 .avi .webm .wav .mp3 .flac .c .cc .cpp .h .hpp .cu
    .so .o .a .rs .go .java .tex .bib .xml .patch .diff .prof .pstats .trace .pid .yaml-e .md5 .sha256 .dvc .gitignore
    .vocab .spm .tiktoken .merges .bpe .ttf .woff .woff2 .tif .tiff .dcm .nii .ply .obj .gitattributes""".split()
)
"""Suffixes of files that are no checkpoints; they are not counted."""
_NOT_BY_NAME = re.compile(
    r"(.*\.)?(tfevents\..*|tokenizer.*\.model|spiece\.model|sentencepiece.*\.model|merges\.txt|evaluations\.npz)"
)


@dataclass
class OtherFormats:
    """The kinds that were found on the way, in the order of their first finding."""

    kinds: dict[str, OtherFormat] = field(default_factory=dict)
    _peeked: int = 0
    _folders: set[tuple[str, str]] = field(default_factory=set)

    def add(self, path: Path | str, kind: str, convert: str) -> None:
        """Count one more of a kind."""
        held = self.kinds.setdefault(kind, OtherFormat(kind, convert, 0, str(path)))
        held.count += 1

    def add_folder(self, folder: Path, names: Collection[str]) -> bool:
        """Count a folder that is one checkpoint of another format; tell whether it is."""
        for pattern, kind, convert in _FOLDER:
            if any(pattern.fullmatch(name) for name in names):
                if not any((str(above), kind) in self._folders for above in folder.parents):
                    self.add(folder, kind, convert)  # what lies inside is a part of it
                self._folders.add((str(folder), kind))
                return True
        return False

    def add_file(self, path: Path, names: Collection[str], *, peek: bool = True) -> bool:
        """Count a file that is a checkpoint of another kind; tell whether it is the state of an optimiser or the like.

        Args:
            path: a file whose name is not that of a checkpoint that is read.
            names: of what lies beside it.
            peek: whether its first bytes may be looked at, where its name tells nothing.
        """
        name = path.name.lower()
        if _STATES.fullmatch(name):
            return True
        suffix = path.suffix.lower()
        found = _by_name(name, suffix, names)
        if found is None and peek and suffix not in _NOT_CHECKPOINTS and not _is_no_checkpoint(name):
            self._peeked += 1
            found = _by_content(path, suffix) if self._peeked <= _PEEKS else None
        if found is not None:
            self.add(path, *found)
        return False


def _is_no_checkpoint(name: str) -> bool:
    return name == EVALUATIONS or _NOT_BY_NAME.fullmatch(name) is not None


def _by_name(name: str, suffix: str, names: Collection[str]) -> tuple[str, str] | None:
    if name.startswith("._") or name == EVALUATIONS:  # macOS's notes on a file; a log, which is read
        return None
    if tensorflow := TENSORFLOW.fullmatch(name):
        has_data = any(n.lower().startswith(f"{tensorflow[1]}.data-") for n in names)
        return ("TensorFlow", f"load it with TensorFlow and {SAFETENSORS}") if suffix == ".index" and has_data else None
    if re.search(_READ, name) and _UNFINISHED.search(name):
        return "unfinished or temporary", "if it is whole, give it a name that ends in .pt, .pth, .ckpt or .safetensors"
    if _PACKED.search(name):
        return "compressed", "unpack it (gunzip, unzstd, unxz, bunzip2, unzip)"
    if _RENAMED.search(name):
        return (
            "checkpoint under another suffix",
            "if it is to count, rename it to end in .pt, .pth, .ckpt or .safetensors",
        )
    if name.endswith(".tar.gz"):
        suffix = ".tar.gz"
    return SUFFIX_KINDS.get(suffix)


def _by_content(path: Path, suffix: str) -> tuple[str, str] | None:
    head = head_of(path)
    if is_torch(head):
        return f"PyTorch file that ends in {suffix or 'nothing'}", "rename it, or link to it, with the suffix .pt"
    if is_safetensors(head):
        return "safetensors under another suffix", "rename it, or link to it, with the suffix .safetensors"
    if suffix == ".zip" and (inside := _in_archive(path)):
        return inside
    if head and suffix in (".tar", ".bin", ".model", ".dat", "") and (what := foreign(head)) is not None:
        kind, _, convert = what.partition(": ")
        return kind.removeprefix("a ").removeprefix("an "), convert or kind
    if suffix == ".bin" and head[:1] == b"\x80":
        return "pickle or joblib", _PICKLED
    if suffix == ".bin" and head:
        return "unknown .bin", f"if these are weights, {SAFETENSORS}"
    return None


def head_of(path: Path) -> bytes:
    """Return a file's first bytes; none where it is no file, or may not be read. A pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, HEAD) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _in_archive(path: Path) -> tuple[str, str] | None:
    """Tell what a zip file holds by the names at its end; nothing is unpacked."""
    end = end_of_archive(path)
    if re.search(rb"\.(pt|pth|ckpt|safetensors)\b", end) or b"data.pkl" in end:
        return "archive", "unpack it (unzip): the checkpoint is inside"
    return None
