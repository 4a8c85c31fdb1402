"""Files that a command writes where the user says: reports, pictures and arrays.

A file of ours carries a mark, so a later command knows that it may replace it. Anything else is left alone unless the
user says otherwise, and what belongs to a run is left alone in any case.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.files import atomic_file

_MARK = b"made by epsopt"
HTML_MARK = f'<meta name="generator" content="{_MARK.decode()}">'
_EDGE = 1024  # bytes at either end of a file that are searched for the mark
PICTURE = (".html", ".png", ".svg")


@dataclass(frozen=True)
class OutputFile:
    """A file to be written, checked before anything is computed; made by :func:`output_file`.

    Attributes:
        path: the file; where a link was named, what it leads to.
        named: as the user named it.
        overwrite: whether a file that is not epsopt's gives way.
    """

    path: Path
    named: Path
    overwrite: bool

    def write(self, data: bytes) -> None:
        """Write the file with its mark, whole or not at all.

        Raises:
            UsageError: a file that is not epsopt's has come to be there.
            EpsoptError: it cannot be written.
        """
        replace = self.path.exists()
        if replace:
            _check_replaceable(self.path, self.named, overwrite=self.overwrite)
        try:
            with atomic_file(self.path, replace=replace) as file:
                file.write(_marked(data, self.path.suffix.lower()))
        except UsageError:
            raise _not_ours(self.named) from None


def output_file(
    named: Path, suffixes: Sequence[str], what: str, *, overwrite: bool = False, runs: Iterable[Path | str] = ()
) -> OutputFile:
    """Check that a file may be written.

    Args:
        named: the file, as the user names it.
        suffixes: that it may end in, with their dots.
        what: noun for it, as "a picture".
        overwrite: whether a file that epsopt did not make gives way.
        runs: folders of runs: no file that is in one of them is replaced.

    Raises:
        UsageError: another suffix, a folder, or a file that is not epsopt's.
    """
    path = named.resolve()
    if named.suffix.lower() not in suffixes or path.suffix.lower() not in suffixes:
        listed = " or ".join([", ".join(suffixes[:-1]), suffixes[-1]] if len(suffixes) > 1 else suffixes)
        raise UsageError(f"{named}: {what} is saved as {listed}")
    if not path.parent.is_dir():
        raise UsageError(f"{named}: cannot be written: there is no folder {path.parent}")
    if path.exists():
        if not path.is_file():
            raise UsageError(f"{named} is not a regular file: name another one")
        within = next((r for r in map(Path, runs) if path.is_relative_to(r.resolve())), None)
        if within is not None and not is_ours(path):
            raise UsageError(f"{named} is a file of the run {within}: name another file, no run's files are replaced")
        _check_replaceable(path, named, overwrite=overwrite)
    return OutputFile(path, named, overwrite)


def run_folders(catalogue: Catalogue | None) -> list[str]:
    """Return the folders of the runs that a catalogue knows; none without one."""
    return [] if catalogue is None else [run.path for run in catalogue.runs()]


def is_ours(path: Path) -> bool:
    """Tell whether a file carries the mark of what epsopt writes."""
    try:
        with path.open("rb") as file:
            start = file.read(_EDGE)
            size = file.seek(0, 2)
            file.seek(max(0, size - _EDGE))
            return _MARK in start or _MARK in file.read(_EDGE)
    except OSError:
        return False


def _check_replaceable(path: Path, named: Path, *, overwrite: bool) -> None:
    if not overwrite and not is_ours(path):
        raise _not_ours(named)


def _not_ours(named: Path) -> UsageError:
    return UsageError(f"{named} is there already and epsopt did not make it: name another file, or add --overwrite")


def _marked(data: bytes, suffix: str) -> bytes:
    """Put the mark where the format has room for it: HTML pages carry it already."""
    if suffix == ".svg":
        return data.rstrip() + b"\n<!-- " + _MARK + b" -->\n"
    if suffix == ".png":
        header = 33  # signature and IHDR
        text = b"tEXtSoftware\0" + _MARK
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        return data[:header] + chunk + data[header:]
    if suffix == ".npz":  # a zip file ends in the length of its comment, and the comment
        if data[-2:] != b"\0\0":
            raise EpsoptError("arrays could not be written: the archive has a comment already")
        return data[:-2] + struct.pack("<H", len(_MARK)) + _MARK
    return data
