"""Numbers as people read them."""

from __future__ import annotations


def count(number: int | str, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 epoch``, ``2 epochs``.

    Args:
        number: a whole one, or any as it is written.
        one: the noun beside 1.
        many: beside any other; by default with an s.
    """
    return f"{number} {one if str(number) == '1' else many or one + 's'}"
