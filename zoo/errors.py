"""What a user can cause or cure. Every message is one sentence: what, where, expected, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epsopt.zoo.credentials import masked


class EpsoptError(Exception):
    """Something that epsopt could not do; the command line ends with exit status 1.

    Args:
        message: the sentence; passwords in it are hidden, wherever it will be printed or kept.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(masked(str(message)))


class UsageError(EpsoptError):
    """What was asked for makes no sense as it stands; the command line ends with exit status 2."""


class CatalogueError(EpsoptError):
    """The database cannot be opened, is damaged, or was written by another version."""


class EmptyCatalogue(EpsoptError):  # noqa: N818 - it says what is so
    """The catalogue holds nothing that the request could work on."""


class DamagedArtifact(CatalogueError):  # noqa: N818 - it says what was found
    """Something that was learned and kept cannot be read; it is made anew, or named with the command that does so."""


class UnreadableCheckpoint(EpsoptError):  # noqa: N818 - it says what the file is
    """A file that is not, or not safely, a checkpoint."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = masked(reason)


class HookError(EpsoptError):
    """The user's own hook (``package.module:function``) cannot be imported, raised, or returned nonsense."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why: an outcome that is kept, where an exception would end the work.

    Attributes:
        path: the file, absolute, or its URL.
        reason: one sentence: what is wrong, and what to do where something can be done.
    """

    path: str
    reason: str
