"""Text from strangers, made fit for every database and terminal."""

from __future__ import annotations

LONGEST = 4_096
"""Characters kept of any one string."""


def clean(text: str) -> str:
    """Make text that every database stores: no NUL, no lone surrogates, not endless."""
    printable = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= LONGEST else printable[:LONGEST] + "…"
