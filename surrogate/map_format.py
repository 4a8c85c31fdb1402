"""The version of a kept map, for readers of a part of one that do not load what learned it."""

from __future__ import annotations

FORMAT = 5
WITHOUT_TREES = 4
"""The format before trees had a say: such a map answers as it did."""
WITH_ANSWERS = 6
"""The format of a map whose trees look at anchor embeddings; others are kept as before, for earlier versions."""
READABLE = frozenset({FORMAT, WITHOUT_TREES, WITH_ANSWERS})
"""Formats of maps that this version opens."""
