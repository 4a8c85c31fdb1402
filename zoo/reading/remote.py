"""Files behind URLs (``s3://bucket/runs/a.pt``), through fsspec: listed, and copied to a private file to be read.

A remote file is never parsed where it lies: it is streamed, within a budget, into a file that has no name and goes with
the process that reads it; from there on it is read as every other file. Credentials and endpoints are those of the
protocol's own library (for S3: the usual AWS variables and files).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PosixPath
from typing import IO, Any, BinaryIO

from epsopt.zoo.credentials import has_credentials, masked_url
from epsopt.zoo.errors import EpsoptError, UnreadableCheckpoint, UsageError

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://?(?=[^/])")
_CHUNK = 4 << 20


def location(text: str | Path) -> Path:
    """Return a path for a file or folder: a :class:`RemotePath` for a URL, an ordinary one for everything else."""
    if isinstance(text, RemotePath):
        return text
    return RemotePath(text) if is_url(str(text)) else Path(text)


def is_url(text: str) -> bool:
    """Tell whether a text is a URL of a remote file, also if pathlib took one of its two slashes."""
    found = _URL.match(text)
    return found is not None and not Path(text.partition("/")[0]).exists()


class RemotePath(PosixPath):
    """A URL as a path: parent, name and suffix as usual; stat() and what depends on it ask the remote store."""

    def __str__(self) -> str:
        return _URL.sub(r"\1://", super().__str__(), count=1)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002 - there are no links
        """Ask for size, time and entity tag; the tag stands for the inode.

        Raises:
            OSError: it is not there, not to be read, or not to be reached.
        """
        return _status(self._info())

    def exists(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        """Tell whether it is there; what cannot be reached counts as there: nothing is concluded from a bad network."""
        try:
            self._info()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        """Tell whether it is a file that can be reached."""
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except OSError:
            return False

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002
        """Take out ``..``, without leaving the store."""
        scheme, _, rest = str(self).partition("://")
        return RemotePath(f"{scheme}://{os.path.normpath('/' + rest).lstrip('/')}")

    def _info(self) -> dict[str, Any]:
        if not is_url(str(self)):  # an absolute path was joined to a URL: no way out of the store
            raise self._missing()
        system, path = _system(str(self))
        try:
            found: dict[str, Any] = system.info(path)
        except FileNotFoundError as error:
            raise self._missing() from error
        except Exception as error:
            raise _as_os_error(error) from error
        return found

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))  # pathlib looks at the number


def open_remote(path: RemotePath, limit: int) -> tuple[IO[bytes], os.stat_result]:
    """Copy a remote file into a nameless temporary one; return it, at its start, and what it looked like before.

    Args:
        path: the URL.
        limit: bytes that may be copied.

    Raises:
        UnreadableCheckpoint: more than the limit, or more than the temporary folder has room for.
        OSError: the store refuses, or cannot be reached.
    """
    status = path.stat()
    if status.st_size > limit:
        raise UnreadableCheckpoint(path, f"{status.st_size:,} bytes, more than the {limit:,} that are copied from afar")
    system, inside = _system(str(path))
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        stream(system, inside, copy, status.st_size, path)
    except (OSError, UnreadableCheckpoint):
        copy.close()
        raise
    except Exception as error:
        copy.close()
        raise _as_os_error(error) from error
    copy.seek(0)
    return copy, status


def stream(system: Any, inside: str, copy: BinaryIO | IO[bytes], size: int, path: Path) -> None:
    """Copy a remote file piece by piece; refuse one that ends early."""
    left = size
    with system.open(inside, "rb", block_size=_CHUNK, cache_type="readahead") as remote:
        while left:
            part = remote.read(min(_CHUNK, left))
            if not part:
                raise UnreadableCheckpoint(path, f"truncated: {size - left:,} of {size:,} bytes came")
            copy.write(part)
            left -= len(part)


def list_remote(url: str) -> Iterator[tuple[RemotePath, os.stat_result]]:
    """List every file below a URL, by path, with what it looks like from outside.

    Raises:
        UsageError: nothing is there, the protocol is unknown, or the URL holds a password.
        EpsoptError: the store refuses or cannot be reached, or the package for its protocol is missing.
    """
    system, path = _system(url)
    scheme = url.partition("://")[0]
    try:
        found = system.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise EpsoptError(f"{url} cannot be listed: {_message_of(error)}") from error
    if not found:
        raise UsageError(f"{url} does not exist or is empty: expected a folder of training runs or a checkpoint file")
    for name, info in sorted(found.items()):
        yield RemotePath(f"{scheme}://{name.lstrip('/')}"), _status(info)


def _system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path inside it."""
    scheme = url.partition("://")[0]
    if has_credentials(url):
        raise UsageError(
            f"{masked_url(url)}: a password or a key in a URL would be kept in the catalogue and shown: leave it to "
            f"the environment or the files of the protocol's own library (AWS_SECRET_ACCESS_KEY, ~/.aws/credentials; "
            f"FSSPEC_{scheme.upper()}_PASSWORD)"
        )
    try:
        import fsspec

        system, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = "'epsopt[s3]'" if scheme in ("s3", "s3a") else f"the package that fsspec needs for {scheme}://"
        raise EpsoptError(f"{url} cannot be read ({error}): pip install {package}") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: {_message_of(error)}: expected a folder, or a URL such as s3://bucket/runs"
        ) from error
    except Exception as error:
        raise EpsoptError(f"{url} cannot be reached: {_message_of(error)}") from error
    return system, str(path)


def _status(info: dict[str, Any]) -> os.stat_result:
    mode = stat.S_IFDIR | 0o555 if info.get("type") == "directory" else stat.S_IFREG | 0o444
    tag = next((str(info[k]) for k in ("ETag", "etag", "md5Hash", "VersionId", "ino") if info.get(k)), "")
    inode = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:7], "big")
    when = next((info[k] for k in ("LastModified", "last_modified", "updated", "mtime", "created") if info.get(k)), 0)
    seconds = when.timestamp() if isinstance(when, datetime) else when if isinstance(when, int | float) else 0
    times = {"st_mtime_ns": int(seconds * 1e9)}
    whole = int(seconds)
    return os.stat_result((mode, inode, 0, 1, 0, 0, int(info.get("size") or 0), whole, whole, whole), times)


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(_message_of(error))


def _message_of(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{first[:300] or 'no reason given'} ({type(error).__name__})"
