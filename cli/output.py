"""Tables that read well at 80 columns, and JSON that every parser takes."""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

DOCUMENT_VERSION = 1
"""Of the JSON documents (docs/schemas): raised when a key is renamed, removed or given another meaning."""

LABEL = 22
"""Widest label of a row: beside it, three metrics with their intervals fit into 80 columns."""
_TARGETS_HOLD = " P: probability that all targets hold."
_PRODUCT = " It is the product over single targets: errors of different metrics are taken as independent."
DISTANCE = " Latent distance: how far apart two checkpoints lie on the map; it has no unit, so compare it with others."
HYPERVOLUME = (
    "Hypervolume: how much of what is possible the measured front beats, down to the reference point; "
    "it grows whenever a new trade-off is found."
)
_NAME = 16
_GAP = 2
_ACCENT = "cyan"  # the only colour, of headers; rich leaves it out off a terminal and where NO_COLOR is set
_NARROW = (14, 12, 10, 8, 7)  # how narrow headers are broken, the first that lets a table fit the terminal
_MISSING = "-"
_LISTED = 20
_DIGITS = re.compile(r"\d[\d.,]*")


class Head(NamedTuple):
    """A column's header and alignment."""

    text: str
    align: Literal["left", "right"] = "right"


class Rows(NamedTuple):
    """Rows of a table that belong together, one text per column; ``dim`` rows recede."""

    rows: Sequence[Sequence[str]]
    dim: frozenset[int] = frozenset()


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document on standard output, with its version.

    NaN and infinities become null, and nothing in it acts on a terminal.
    """
    text = (
        json.dumps(finite({"version": DOCUMENT_VERSION, **document}), indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
    sys.stdout.flush()


def finite(value: Any) -> Any:
    """Return JSON values with null for every number that JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [finite(v) for v in value]
    return str(value)


def print_wrapped(text: str = "", indent: str = "") -> None:
    """Print a sentence of the result, wrapped to the terminal."""
    console = _console()
    wrapped = textwrap.wrap(
        plain(text), console.width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
    for line in wrapped or [""]:
        console.print(line, soft_wrap=True)


def print_line(text: str) -> None:
    """Print one line as it is: paths and commands are copied, so they are never wrapped."""
    _console().print(plain(text), soft_wrap=True)


def print_list(text: str, indent: str = "  ") -> None:
    """Print a comma-separated list, indented, broken at its commas."""
    pieces = plain(text).replace(" ", "\0").replace(",\0", ", ")  # so that "name value" stays together
    width = _console().width
    wrapped = textwrap.wrap(pieces, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    for part in wrapped:
        print_line(part.replace("\0", " "))


def note(text: str) -> None:
    """Tell the user something besides the result, on standard error."""
    from rich.console import Console

    width = Console(stderr=True).width
    lines = textwrap.wrap(f"note: {plain(text)}", width, break_on_hyphens=False, break_long_words=False)
    sys.stderr.write("\n".join(lines) + "\n")


def targets_hold(targets: Sequence[object]) -> str:
    """Return what a footnote says of the probability that targets hold; nothing without targets."""
    return "" if not targets else _TARGETS_HOLD + (_PRODUCT if len(targets) > 1 else "")


def product(targets: Sequence[object]) -> str:
    """Return what is said of the probability of several targets, where the text before it has said which it is."""
    return _PRODUCT if len(targets) > 1 else ""


def failures(failed: Sequence[Any]) -> None:
    """List files that could not be read, with their reasons; of one reason, numbers aside, the first and how many."""
    by_reason: dict[str, list[Any]] = {}
    for failure in failed:
        by_reason.setdefault(_DIGITS.sub("#", failure.reason), []).append(failure)
    groups = list(by_reason.values())
    for first, *others in groups[:_LISTED]:
        more = f" ({len(others):,} more like it)" if others else ""
        print_line(one_line(f"  {first.path}: {first.reason}{more}"))
    if left := sum(len(group) for group in groups[_LISTED:]):
        print_line(f"  and {left:,} more (--json lists them all)")


def print_side_file_failures(unread: Sequence[Any]) -> None:
    """List files beside checkpoints that could not be read, if there are any."""
    if unread:
        print_wrapped()
        print_wrapped("Metadata in or beside checkpoints that could not be used; the checkpoints are in all the same:")
        failures(unread)


def links_outside(links: Sequence[str]) -> None:
    """List links that were not followed, if there are any."""
    if links:
        from epsopt.zoo.formatting import count

        print_wrapped()
        lead = count(len(links), "link leads", "links lead")
        print_wrapped(
            f"{lead} out of the folder and {'was' if len(links) == 1 else 'were'} not followed (--follow-links does):"
        )
        for link in links[:_LISTED]:
            print_line(one_line(f"  {link}"))
        if len(links) > _LISTED:
            print_line(f"  and {len(links) - _LISTED} more (--json lists them all)")


def print_table(heads: Sequence[Head], groups: Sequence[Rows], keep: int = 1) -> None:
    """Print a table; columns that the terminal cannot hold follow in further tables below.

    Args:
        heads: one per column.
        groups: rows; with several rows to a group, groups are set apart.
        keep: how many leading columns every part repeats.
    """
    from rich.cells import cell_len

    console = _console()
    rows = [row for group in groups for row in group.rows]
    cells = [max((cell_len(plain(row[j])) for row in rows), default=0) for j in range(len(heads))]

    def narrowed(least: int) -> list[Head]:
        return [head if j < keep else _narrow(head, max(cells[j], least)) for j, head in enumerate(heads)]

    def whole(heads: Sequence[Head]) -> int:
        widths = (max(n, *map(cell_len, plain(h.text).split("\n"))) for n, h in zip(cells, heads, strict=True))
        return sum(widths) + _GAP * (len(cells) - 1)

    if whole(heads) > console.width:
        heads = next((h for least in _NARROW if whole(h := narrowed(least)) <= console.width), heads)

    def width(j: int) -> int:
        cells = [*heads[j].text.split("\n"), *(row[j] for row in rows)]
        return max(cell_len(plain(c)) for c in cells)

    taken = sum(width(j) + _GAP for j in range(keep))
    parts: list[list[int]] = [[]]
    room = console.width - taken
    for j in range(keep, len(heads)):
        needed = width(j) + (_GAP if parts[-1] else 0)
        if parts[-1] and needed > room:
            parts.append([])
            room, needed = console.width - taken, width(j)
        parts[-1].append(j)
        room -= needed
    for i, part in enumerate(parts):
        if i:
            console.print()
        _print_part(console, heads, groups, [*range(keep), *part])


def _narrow(head: Head, width: int) -> Head:
    """Break a header at its separators, so that a column is little wider than its cells."""
    lines: list[str] = []
    for line in head.text.split("\n"):
        started = False
        for piece in re.findall(r"[^/_. -]*[/_. -]|[^/_. -]+$", line):
            if started and len(lines[-1]) + len(piece.rstrip()) <= width:
                lines[-1] += piece
            else:
                lines.append(piece)
            started = True
        if not line:
            lines.append("")
    return Head("\n".join(line.rstrip() for line in lines), head.align)


def _print_part(console: Console, heads: Sequence[Head], groups: Sequence[Rows], columns: Sequence[int]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=f"bold {_ACCENT}"
    )
    for j in columns:
        table.add_column(Text(plain(heads[j].text)), justify=heads[j].align, no_wrap=True, vertical="bottom")
    if groups:
        table.add_row(*(_column(groups, j) for j in columns))  # as one row: cell by cell takes three times as long
    console.print(table)


def _column(groups: Sequence[Rows], j: int) -> Text:
    """The cells of a column below each other, with an empty line between groups of several rows."""
    from rich.text import Text

    spaced = any(len(group.rows) > 1 for group in groups)
    lines: list[tuple[str, str]] = []
    for g, group in enumerate(groups):
        if spaced and g:
            lines.append(("", ""))
        lines += [
            (plain(row[j]).replace("\n", " "), "dim" if r in group.dim else "") for r, row in enumerate(group.rows)
        ]
    return Text("\n").join(Text(text, style) for text, style in lines)


def formatter(
    values: Iterable[float | None], usual: Iterable[float | None] | None = None
) -> Callable[[float | None], str]:
    """Return how to write the values of one metric, so that their decimal points stand below each other.

    Args:
        values: that are written.
        usual: what is measured of the metric: next to an accuracy of .8 one of 4e-06 is 0.000. Default: `values`.
    """
    known = [abs(v) for v in values if v is not None and math.isfinite(v)]
    largest = max(known, default=0.0)
    decimals = 3 if largest < 10 else max(0, 4 - len(str(int(largest))))
    measured = known if usual is None else [abs(v) for v in usual if v is not None and math.isfinite(v)]
    some = sorted(v for v in measured if v)  # zeros look well in every form
    plainly = not some or (some[len(some) // 2] >= 0.01 and largest < 1e6)

    def text(value: float | None) -> str:
        if value is None or math.isnan(value):
            return _MISSING
        return f"{round(value, decimals) + 0.0:.{decimals}f}" if plainly else f"{value:.3g}"  # no "-0.000"

    return text


def value(raw: Any) -> str:
    """Write a hyperparameter's value with at most four significant digits."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return f"{raw:.4g}" if isinstance(raw, float) else one_line(str(raw))


def middle(text: str, width: int) -> str:
    """Shorten a name in its middle: both ends of a run's name tell it from others."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def label(run: str, epoch: int | None, width: int = LABEL) -> str:
    """Name a checkpoint as ``RUN:EPOCH``, which `epsopt nearest` takes too."""
    end = "" if epoch is None else f":{epoch}"
    return middle(one_line(run), max(width - len(end), 4)) + end


def metric_head(name: str, second: str = "") -> Head:
    """Return the header of a metric's column, with a second line where the table has one."""
    return Head(middle(one_line(name), _NAME) + (f"\n{second}" if second else ""))


def plain(text: str) -> str:
    """Make text from a stranger's file safe for a terminal: no control characters."""
    from epsopt.zoo.reading.text import visible

    return visible(text, keep="\n")


def one_line(text: str) -> str:
    """Make a stranger's name safe for a terminal: no control characters, and no end of a line."""
    from epsopt.zoo.reading.text import visible

    return visible(text)


def _console() -> Console:
    from rich.console import Console

    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="replace")  # a terminal without "≥" shows "?", not a traceback
    return Console(highlight=False, markup=False, emoji=False)
