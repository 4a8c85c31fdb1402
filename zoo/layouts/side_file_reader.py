"""Read what lies beside a checkpoint (YAML, JSON, CSV, JSON lines): as hostile as the checkpoint, so as carefully.

Runs in the child process only. Every size is bounded before a byte is parsed; a file that cannot be read is a sentence.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from epsopt.zoo.errors import UnreadableCheckpoint
from epsopt.zoo.formatting import count
from epsopt.zoo.layouts.checkpoint_names import names_of
from epsopt.zoo.layouts.parsed import Position
from epsopt.zoo.reading.remote import location
from epsopt.zoo.reading.source import ChangedWhileReadError, Limits, open_source
from epsopt.zoo.reading.text import sanitize

YAML_BYTES = 1 << 20
"""YAML is parsed in Python, at about 40 KB a second; no configuration that a person wrote comes near this."""
JSON_BYTES = 64 << 20
TABLE_BYTES = 256 << 20
_MERGED = 100_000
_BEGINNING = 64 << 10  # of a text that is looked at before it is read
_CELLS = 5_000_000  # of one table
_YOUNG = 10.0  # seconds: a last line without its end is taken for half-written in a file that is younger
_Parsed = TypeVar("_Parsed")


class SideError(Exception):
    """A side file that cannot be read; the text is the reason."""


@dataclass
class SideFileReader:
    """The files beside a run that one layout asks about.

    Attributes:
        run: the run's folder.
        files: that the layout named.
        limits: as for checkpoints.
        positions: of the run's checkpoints, for logs that name them; empty where no log is matched.
        failures: (path, reason) of those that could not be read.
        unfinished: a last line was left out because somebody seems to be writing it.
    """

    run: Path
    files: Sequence[Path]
    limits: Limits = field(default_factory=Limits)
    positions: Sequence[Position] = ()
    failures: list[tuple[str, str]] = field(default_factory=list)
    unfinished: bool = False

    @cached_property
    def checkpoint_names(self) -> dict[str, str]:
        """What the run's checkpoints may be called, and the name of the file or folder that is meant."""
        return names_of(self.positions)

    def named(self, *names: str) -> list[Path]:
        """Return the files of these names, in the order of the names."""
        return [f for name in names for f in self.files if f.name == name]

    def record_failure(self, path: Path, reason: str) -> None:
        """Note why a file was not read."""
        self.failures.append((str(path), reason))

    def attempt(self, path: Path, parse: Callable[[Path], _Parsed]) -> _Parsed | None:
        """Call a parser on a file; None and a failure where it cannot be read."""
        try:
            return parse(path)
        except SideError as error:
            self.record_failure(path, sanitize(str(error)))
        except UnreadableCheckpoint as error:
            self.record_failure(path, error.reason)
        except ChangedWhileReadError:
            self.record_failure(path, "was written to while it was read: the next ingest takes it")
        except RecursionError:
            self.record_failure(path, "nested deeper than any configuration needs")
        except MemoryError:
            self.record_failure(
                path, f"needs more than the {self.limits.memory >> 20:,} MB of memory that a reader may take"
            )
        except Exception as error:  # noqa: BLE001 - whatever a hostile file provokes is that file's failure
            self.record_failure(path, sanitize(f"cannot be read ({type(error).__name__}: {str(error)[:200]})"))
        return None

    def yaml(self, path: Path) -> Any:
        """Return what a YAML 1.2 file holds, None if nothing or if it cannot be read."""
        return self.attempt(path, lambda p: parse_yaml(p, self.text(p, YAML_BYTES)))

    def json(self, path: Path) -> Any:
        """Return what a JSON file holds, None if nothing or if it cannot be read."""
        return self.attempt(path, lambda p: parse_json(self.text(p, JSON_BYTES)))

    def json_or_lines(self, path: Path) -> Any:
        """Return what a JSON file holds; of one with an object on each line (detectron2, MMDetection) their list."""
        return self.attempt(path, self._json_or_lines)

    def _json_or_lines(self, path: Path) -> Any:
        text = self.text(path, JSON_BYTES)
        try:
            return parse_json(text)
        except SideError:
            first, _, rest = text.lstrip().partition("\n")
            if not (rest.strip() and first.startswith("{") and first.rstrip().endswith("}")):
                raise
        return self._json_lines(path, JSON_BYTES)

    def structure(self, path: Path) -> Any:
        """Return what a JSON, TOML or YAML file holds, by its suffix."""
        if path.suffix.lower() == ".toml":
            return self.attempt(path, lambda p: parse_toml(self.text(p, YAML_BYTES)))
        return self.json(path) if path.suffix.lower() == ".json" else self.yaml(path)

    def table(self, path: Path, *, growing: bool = True) -> list[dict[str, str]]:
        """Return the rows of a CSV file by column, cells as text; rows shorter than the header lack what is missing."""
        return self.attempt(path, lambda p: self._table(p, growing=growing)) or []

    def _table(self, path: Path, *, growing: bool) -> list[dict[str, str]]:
        """Return the rows; one that a killed program left half written costs itself alone, and is named."""
        rows, broken = parse_table(self.text(path, TABLE_BYTES, lines=growing))
        if broken and not growing:
            raise SideError(broken)
        if broken:
            self.record_failure(path, f"{broken}; the other rows are read")
        return rows

    def json_lines(self, path: Path) -> list[dict[str, Any]]:
        """Return the objects of a file with one JSON object on each line."""
        return self.attempt(path, lambda p: self._json_lines(p, TABLE_BYTES)) or []

    def _json_lines(self, path: Path, limit: int) -> list[dict[str, Any]]:
        """Return the objects of lines; one that a killed program left half written costs itself alone, and is named."""
        values, broken = parse_json_lines(self.text(path, limit, lines=True))
        if broken and not values:
            raise SideError(broken[0])
        if broken:
            more = f" (so are {len(broken) - 1:,} others)" if broken[1:] else ""
            self.record_failure(path, sanitize(f"{broken[0]}{more}; the other lines are read"))
        return values

    def json_lines_or_text(self, path: Path) -> list[dict[str, Any]]:
        """Return the objects of a text with one on each line; nothing of any other text."""
        text = self.attempt(path, lambda p: self.text(p, TABLE_BYTES, lines=True))
        return self.json_lines(path) if text is not None and text.lstrip().startswith("{") else []

    def first_line(self, path: Path) -> str:
        """Return the first line with anything in it of a text; nothing of what cannot be read or is no text."""
        try:
            with open_source(location(path), self.limits) as source:
                data = bytes(source.read(0, min(source.size, _BEGINNING)))
        except (UnreadableCheckpoint, ChangedWhileReadError):
            return ""
        lines = data.decode("utf-8-sig", errors="replace").splitlines()
        return next((line for line in lines if line.strip()), "")

    def text(self, path: Path, limit: int, *, lines: bool = False) -> str:
        """Return a text file whole; with `lines`, without a last line that is being written.

        Raises:
            SideError: too large, or not UTF-8.
            UnreadableCheckpoint: not a regular file, or refused by the system.
            ChangedWhileReadError: somebody wrote to it meanwhile.
        """
        try:
            with open_source(location(path), self.limits) as source:
                if source.size > limit:
                    raise SideError(f"{source.size:,} bytes, more than the {limit:,} that are read of such a file")
                data = bytes(source.read(0, source.size))
                young = abs(time.time() - source.identity.mtime_ns / 1e9) < _YOUNG
        except UnreadableCheckpoint as error:
            if error.reason.startswith("empty"):  # opened by a run that has not written to it yet
                return ""
            raise
        if lines and young and not data.endswith(b"\n"):
            data = data[: data.rfind(b"\n") + 1]
            self.unfinished = True
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SideError(f"not UTF-8 text (byte {error.start:,}): save it as UTF-8") from error


def parse_yaml(path: Path, text: str) -> Any:
    """Parse YAML 1.2 into plain values: ``1e-3`` is a number, ``no`` and ``1:30`` are text; tags make no objects.

    Raises:
        SideError: not YAML, a key twice, or aliases that unfold into far more than the file holds.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = False
    yaml.Constructor = _constructor()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = yaml.load(text)
    except DuplicateKeyError as error:
        problem = str(error.problem or "").partition(" with value")[0]
        raise SideError(f"{problem or 'a key stands twice'}{_line(error)}: keep one of the two") from error
    except MarkedYAMLError as error:
        raise SideError(f"not valid YAML: {error.problem or error.context or 'damaged'}{_line(error)}") from error
    except (YAMLError, ValueError) as error:
        raise SideError(f"not valid YAML: {str(error).splitlines()[0][:200]}") from error
    from epsopt.zoo.reading.structure_limits import check_tree

    check_tree(path, tree, 10_000)
    return tree


def _constructor() -> Any:
    """Return a constructor that takes what stands under an unknown tag as data, and dates as text."""
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    class Plain(SafeConstructor):
        merged = 0

        def flatten_mapping(self, node: Any) -> Any:
            """Merge what ``<<`` names into a mapping; ten merges of ten merges of ten are a bomb."""
            flattened = super().flatten_mapping(node)
            self.merged += len(node.value)
            if self.merged > _MERGED:
                raise SideError(f"its merge keys unfold into more than {_MERGED:,} entries")
            return flattened

    def data(self: Any, node: Any) -> Any:
        kind = str(node.tag or "").removeprefix("tag:yaml.org,2002:python/")
        if isinstance(node, ScalarNode):
            return f"<{kind.removeprefix('name:')}>" if kind.startswith("name:") else node.value
        if isinstance(node, SequenceNode):
            return self.construct_sequence(node, deep=True)
        if isinstance(node, MappingNode):
            held = self.construct_mapping(node, deep=True)
            return partial_call(held.get("state")) or held if kind == "object/apply:functools.partial" else held
        raise SideError("not valid YAML: a node of no kind")

    Plain.add_constructor(None, data)
    Plain.add_constructor("tag:yaml.org,2002:timestamp", lambda _self, node: node.value)
    return Plain


def partial_call(state: object) -> dict[str, Any] | None:
    """Return what a ``functools.partial`` calls and with what, in the words that Hydra has for it; None for no partial.

    Args:
        state: as PyYAML writes it: function, positional arguments, keywords, attributes.
    """
    match state:
        case [str() as function, [*arguments], dict() as keywords, *_]:
            positional = {"_args_": arguments} if arguments else {}
            return {"_target_": function, **positional, **keywords}
    return None


def _line(error: Any) -> str:
    mark = error.problem_mark or error.context_mark
    return "" if mark is None else f" in line {mark.line + 1}"


def parse_toml(text: str) -> Any:
    """Return what TOML says.

    Raises:
        SideError: it is not TOML, or too deep.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SideError(f"not valid TOML: {sanitize(str(error))[:200]}") from error


def parse_json(text: str) -> Any:
    """Parse JSON; NaN and Infinity pass, as Python writes them.

    Raises:
        SideError: not JSON, or a key twice.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise SideError(f"not valid JSON: {str(error)[:200]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return found


def parse_json_lines(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects of a text with one on each line, and a sentence for each line that is no JSON."""
    values, broken = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                broken.append(f"line {number:,} is not valid JSON: {str(error)[:200]}")
                continue
            if isinstance(value, dict):
                values.append(value)
    return values, broken


def parse_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of :func:`parse_table`."""
    return parse_table(text)[0]


def parse_table(text: str) -> tuple[list[dict[str, str]], str]:
    """Parse a CSV file with a header; empty cells are left out. Comma, semicolon or tab: what the header has most of.

    Where commas do not part the cells, ``0,51`` is a number, as spreadsheets write it in half of the world: the cell
    becomes ``0.51``.

    A row of names that are columns already is the header of the rows below it, as a resumed training writes it.

    A last row without its end and with fewer cells than the others was cut off, and a single row with more of them is
    one that was cut off and gone on with. Where the length of rows changes for good, nothing says which columns they
    have. None of these is returned, and the second value says so.

    Raises:
        SideError: not CSV, a column twice, or more cells than any table of metrics has.
    """
    text = _from_header(text)
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        header = _header(next(reader, []))
        rows: list[dict[str, str]] = []
        broken: list[str] = []
        parts = _parts(list(_cells(reader)), header)
        for i, (names, before, part) in enumerate(parts):
            last = i == len(parts) - 1
            cells, sentence = _whole_rows(part, len(names), before, ended=not last or text.endswith("\n"))
            broken += [sentence] if sentence else []
            rows += [{name: c for name, c in zip(names, row, strict=False) if name and c.strip()} for row in cells]
        return (rows if delimiter == "," else list(map(_with_points, rows))), "; ".join(broken[:3])
    except csv.Error as error:
        raise SideError(f"not valid CSV: {error}") from error


def _from_header(text: str) -> str:
    """Leave out what stands before the header of a table; a header that is a comment (``# epoch,acc``) is one, too."""
    before = _COMMENTS.match(text)
    end = 0 if before is None else before.end()
    comments = [line.lstrip()[1:] for line in text[:end].splitlines() if line.strip()]
    rest = text[end:]
    first = rest.partition("\n")[0]
    columns = re.split(r"[,;\t]", first)
    named = comments and len(re.split(r"[,;\t]", comments[-1])) == len(columns) > 1
    return f"{comments[-1]}\n{rest}" if named and all(_NUMBER.fullmatch(c) for c in columns) else rest


_NUMBER = re.compile(r"\s*(?:[-+]?[\d.]+(?:[eE][-+]?\d+)?|nan|inf)?\s*", re.IGNORECASE)
_COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*")
"""Empty lines and comments before the header of a table."""
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+(?:[eE][-+]?\d+)?\s*")


def _with_points(row: dict[str, str]) -> dict[str, str]:
    return {k: v.replace(",", ".") if _DECIMAL_COMMA.fullmatch(v) else v for k, v in row.items()}


def _cells(reader: Iterable[list[str]]) -> Iterator[list[str]]:
    cells = 0
    for row in reader:
        cells += len(row)
        if cells > _CELLS:
            raise SideError(f"more than {_CELLS:,} cells")
        yield row


def _header(cells: Sequence[str]) -> list[str]:
    """Return the names of columns.

    Raises:
        SideError: one stands twice.
    """
    header = [sanitize(name.strip()) for name in cells]
    named = [name for name in header if name]
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise SideError(f"the column {twice[:60]!r} stands twice in its header")
    return header


def _parts(rows: list[list[str]], header: list[str]) -> list[tuple[list[str], int, list[list[str]]]]:
    """Part rows at those that are headers: the names of columns, the number of rows before, and the rows below."""
    starts = [i for i, row in enumerate(rows) if _is_header(row, header)]
    parts = [(header, 0, rows[: starts[0]] if starts else rows)]
    for start, end in pairwise([*starts, len(rows)]):
        first, *others = rows[start]
        parts.append((_header([first.lstrip().removeprefix("#"), *others]), start + 1, rows[start + 1 : end]))
    return parts


def _is_header(row: Sequence[str], header: Sequence[str]) -> bool:
    """Tell whether a row holds names alone, of which several are columns already."""
    if not row or _NUMBER.fullmatch(row[0] or "-"):
        return False
    names = [name for cell in (row[0].lstrip().removeprefix("#"), *row[1:]) if (name := cell.strip())]
    known = set(header).intersection(names)
    return bool(known) and len(known) >= min(2, len(names)) and not any(_NUMBER.fullmatch(name) for name in names)


def _whole_rows(rows: list[list[str]], columns: int, before: int, *, ended: bool) -> tuple[list[list[str]], str]:
    """Leave out rows that a killed program left half written, or whose columns nothing names; say which they are.

    Args:
        rows: below one header.
        columns: of that header.
        before: rows of the table above these.
        ended: whether the last row has its end.
    """
    longer = [i for i, row in enumerate(rows) if any(row[columns:])]
    if len(longer) == len(rows) and len({len(row) for row in rows}) == 1:
        longer = []  # the last columns have no name
    shorter = [i for i, row in enumerate(rows) if 0 < len(row) < columns]
    if shorter and not ended and shorter[-1] == len(rows) - 1 and len(rows) > 1 and len(rows[0]) == columns:
        cut = shorter[-1:]
    else:
        # Rows that end early lack what was not measured; where they do from one row on, a column is gone.
        gone = len(shorter) > 1 and shorter[0] > 0 and shorter == list(range(shorter[0], len(rows)))
        cut = shorter if gone and len({len(rows[i]) for i in shorter}) == 1 else []
    left_out = sorted({*longer, *cut})
    if not left_out:
        return rows, ""
    first, *others = left_out
    has = f"has {len(rows[first])} cells below {columns} columns"
    if others:
        verb = "has" if len(others) == 1 else "have"
        sentence = (
            f"row {before + first + 1:,} {has} (so {verb} {count(len(others), 'other')}), and nothing "
            "names the columns of such rows: write a header above them"
        )
    else:
        sentence = f"row {before + first + 1:,} {has}, as one cut off has"
    gone_rows = set(left_out)
    return [row for i, row in enumerate(rows) if i not in gone_rows], sentence
