"""Names in folders, as layouts see them: each folder is listed once, and no file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from epsopt.zoo.reading.remote import RemotePath
from epsopt.zoo.reading.source import Identity, identity_of, not_a_file

_MOST = 100_000  # names of one folder that are looked at


class Folders:
    """What lies in folders: of local ones whatever is asked for, of remote ones what was listed.

    Attributes:
        known: what layouts have found out about whole folders, so that they need not for each of its files.
    """

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._identities: dict[str, Identity] = {}
        self.known: dict[str, object] = {}
        self._roots: tuple[Path, ...] | None = None

    def stay_within(self, roots: Iterable[Path]) -> None:
        """Take links that lead out of these folders for missing; without this call every link is followed."""
        self._roots = (*(self._roots or ()), *(Path(os.path.realpath(root)) for root in roots))

    def leads_outside(self, path: Path) -> bool:
        """Tell whether something is a link to a place outside of the folders that are looked at."""
        if self._roots is None or isinstance(path, RemotePath):
            return False
        try:
            if not path.is_symlink():
                return False
            real = Path(os.path.realpath(path))
        except (OSError, ValueError):
            return False
        return not any(real.is_relative_to(root) for root in self._roots)

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Remember a listing that was made anyway."""
        self._names[str(folder)] = frozenset(names)

    def put_remote(self, path: Path, identity: Identity, root: Path) -> None:
        """Remember a remote file, and the folders on the way to it from `root`."""
        self._identities[str(path)] = identity
        while True:
            folder = path.parent
            known = self._names.get(str(folder), frozenset())
            if path.name in known:
                return
            self._names[str(folder)] = known | {path.name}
            if path in (root, folder):
                return
            path = folder

    def listed(self) -> list[Path]:
        """Return the local folders that were listed, in the order of their names."""
        return [Path(name) for name in sorted(self._names) if "://" not in name]

    def names(self, folder: Path) -> frozenset[str]:
        """Return the names in a folder; none if it cannot be listed."""
        key = str(folder)
        if key not in self._names:
            found: list[str] = []
            if not isinstance(folder, RemotePath) and not self.leads_outside(folder):
                try:
                    with os.scandir(folder) as entries:
                        found = [entry.name for _, entry in zip(range(_MOST), entries, strict=False)]
                except OSError:
                    pass  # whoever walks the folders complains about it
            self._names[key] = frozenset(found)
        return self._names[key]

    def those(self, folder: Path, names: Iterable[str]) -> list[Path]:
        """Return the files of these names that are in a folder, in the order of the names."""
        here = self.names(folder)
        return [folder / name for name in names if name in here]

    def identity(self, path: Path) -> Identity | None:
        """Return what tells a regular file from its former self; None where there is none."""
        if isinstance(path, RemotePath):
            return self._identities.get(str(path))
        if self.leads_outside(path):
            return None
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        return None if not_a_file(status.st_mode) else identity_of(status)
