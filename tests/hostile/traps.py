"""What the file system itself can do to a reader: links, pipes, devices, closed folders, names, sizes."""

from __future__ import annotations

import os
from pathlib import Path

SPARSE = 20 * 10**9
"""Bytes that the sparse file claims; on disk it takes a few kilobytes."""

NAMES = {
    b"line\nbreak.pt": "line\nbreak.pt",
    b"tab\tand\rreturn.pt": "tab\tand\rreturn.pt",
    b"\x1b[2J\x1b[31mred.pt": "\x1b[2J\x1b[31mred.pt",
    b"\xe2\x80\xaetp.evil.pt": "\u202etp.evil.pt",  # turns the text behind it around
    b"invalid\xff\xfe.pt": "invalid\\udcff\\udcfe.pt",
    b"%s%n{0}$HOME`id`.pt": "%s%n{0}$HOME`id`.pt",
    b"--json.pt": "--json.pt",
    b"'; DROP TABLE epsopt_files; --.pt": "'; DROP TABLE epsopt_files; --.pt",
}
"""File names as bytes, and as text that every database and terminal takes."""


def write_traps(folder: Path) -> dict[str, str]:
    """Write them; return a part of the reason by path below `folder` (what cannot be made here is left out)."""
    folder.mkdir(parents=True)
    expected = {}
    (folder / "loop.pt").symlink_to("loop.pt")
    expected["loop.pt"] = "a symbolic link that leads back to itself"
    (folder / "nothing.pt").symlink_to("not-there.pt")
    expected["nothing.pt"] = "not there"
    (folder / "to-the-zeros.pt").symlink_to("/dev/zero")
    expected["to-the-zeros.pt"] = "a device, not a file"
    os.mkfifo(folder / "pipe.pt")
    expected["pipe.pt"] = "a named pipe, not a file"
    (folder / "folder.pt").mkdir()
    expected["folder.pt"] = "a folder, not a file"
    (folder / "rounds").mkdir()
    (folder / "rounds" / "up").symlink_to("..")
    (folder / "rounds" / "self").symlink_to(".")
    try:
        os.mknod(folder / "device.pt", 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero, if we may
        expected["device.pt"] = "a device, not a file"
    except OSError:
        pass
    (folder / "closed").mkdir()
    (folder / "closed" / "inside.pt").write_bytes(b"x")
    (folder / "closed").chmod(0)
    if os.geteuid():
        expected["closed"] = "no permission to read it"
    else:  # root reads everything: there it is an ordinary folder with a file that is no checkpoint
        expected["closed/inside.pt"] = "not a checkpoint"
    for raw, shown in NAMES.items():
        with open(os.path.join(os.fsencode(folder), raw), "wb") as file:  # noqa: PTH118, PTH123 - bytes
            file.write(b"x")
        expected[shown] = "not valid UTF-8" if b"\xff" in raw else "not a checkpoint"
    with (folder / "sparse.pt").open("wb") as file:
        file.truncate(SPARSE)
    expected["sparse.pt"] = "not a checkpoint"
    with (folder / "sparse.safetensors").open("wb") as file:
        file.write((16).to_bytes(8, "little") + b'{"__metadata__"')
        file.truncate(SPARSE)
    expected["sparse.safetensors"] = "corrupt"
    return expected
