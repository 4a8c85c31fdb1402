"""Text from strangers, made fit for every database and terminal."""

from __future__ import annotations

LONGEST = 4_096
"""Characters kept of any one string."""


def sanitize(text: str) -> str:
    """Make text that every database stores: no NUL, no lone surrogates, not endless."""
    printable = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= LONGEST else printable[:LONGEST] + "…"


def visible(text: str, keep: str = "") -> str:
    r"""Write every character that acts instead of showing as an escape: ``\x1b``, ``\u202e``.

    These are control characters (a terminal obeys them), bidirectional overrides (they show a name as another one),
    line separators and lone surrogates: whatever Unicode does not call printable.

    Args:
        text: from anywhere.
        keep: such characters that are meant, a line's end for instance.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
