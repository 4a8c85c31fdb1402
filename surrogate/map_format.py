"""The version of a kept map, for readers of a part of one that do not load what learned it."""

from __future__ import annotations

from epsopt.zoo.errors import CatalogueError

FORMAT = 9
WITHOUT_TREES = 4
"""The format before trees had a say: such a map answers as it did."""
WITHOUT_HYPERPARAMETERS = frozenset({5, 6})
"""Formats before trees looked at hyperparameters; such a map does not, and answers as it did."""
WITHOUT_PROCESSES = 7
"""The format before a process of views and hyperparameters had a say beside trees; such a map answers as it did."""
BY_ROWS_ALONE = 8
"""The format before processes were learned by a run's rows together, too; such a map answers as it did."""
READABLE = frozenset({FORMAT, WITHOUT_TREES, WITHOUT_PROCESSES, BY_ROWS_ALONE}) | WITHOUT_HYPERPARAMETERS
"""Formats of maps that this version opens."""


class OtherVersion(CatalogueError):  # noqa: N818 - it says what was found
    """A map that another version of epsopt wrote."""
