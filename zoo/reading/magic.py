"""What a file is by its first bytes, where its name says something else or nothing."""

from __future__ import annotations

HEAD = 512
"""Bytes from a file's start that are looked at."""
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number of torch.save before 1.6, as a pickle
_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS in the place of the file: run 'git lfs pull'"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras writes them: load it with Keras and save the weights with safetensors",
    ),
    (b"GGUF", "a GGUF file: use the weights that it was converted from"),
    (b"\x93NUMPY", "an array of NumPy (.npy): save the arrays with safetensors.numpy.save_file"),
    (b"\x1f\x8b", "compressed with gzip: unpack it (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it (unzstd)"),
    (b"\xfd7zXZ", "compressed with xz: unpack it (unxz)"),
    (b"BZh", "compressed with bzip2: unpack it (bunzip2)"),
    (b"<!DOCTYPE html", "a web page, most likely of a download that failed"),
    (b"<html", "a web page, most likely of a download that failed"),
)


def foreign(head: bytes) -> str | None:
    """Say what a file is that is no checkpoint that can be read, and what to do; None where its start tells nothing.

    Args:
        head: its first 512 bytes, or all of them.
    """
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it (tar xf), or, if torch.save wrote it before 2017, load it and save it again"
    return None


def is_torch(head: bytes) -> bool:
    """Tell whether a file starts as one of torch.save does."""
    length = int.from_bytes(head[26:28], "little")  # of the name of a zip file's first record
    zipped = head.startswith(b"PK\x03\x04") and head[30 : 30 + length].endswith(b"/data.pkl")
    return zipped or head.startswith(_LEGACY)


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file starts as a .safetensors file does."""
    return head[8:10] in (b'{"', b"{}") and int.from_bytes(head[:8], "little") < 1 << 27
