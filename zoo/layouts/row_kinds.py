"""Rows of one moment that a column tells apart: ``split`` (train, val), ``metric`` of a long table, ``rank``, ``fold``.

Where rows of one epoch hold values of one name, the last of them would count, whatever it is of. So a value is named by
the words that tell its row from the others (``val/acc``). Of the processes of one training the first one counts. A log
of several trainings, which a column tells apart, is named and not read, unless a value of the column names the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from epsopt.zoo.layouts.log_rows import TIMES, place_of, says_place, whole
from epsopt.zoo.reading.plain_values import number_or_text

_Record = Mapping[str, Any]
_PROCESSES = frozenset("rank local_rank global_rank process process_index process_id worker gpu device".split())
_TRAININGS = frozenset(
    "fold seed trial run repeat rep cv_fold split_id experiment run_id trial_id stage phase training run_name".split()
)
_MODELS = frozenset("model arch architecture net network".split())
_SETS = frozenset(
    "train training fit val valid validation validate sanity_check eval evaluation test testing dev".split()
)
_NOWHERE = (None, None)
_VALUES = frozenset("value values val number score result".split())
_WORD = re.compile(r"[^\W\d_][\w ./@:+-]{0,63}")
_MOST_WORDS = 256


_SEVERAL = (
    "its column {!r} tells rows of one epoch or step apart, which are of several trainings, and nothing says which of "
    "them is this run: write a log for each, or give their metrics in a CSV with a column run ([runs] table)"
)


def rows_by_kind(records: Sequence[_Record]) -> tuple[list[_Record], list[str]]:
    """Return the records with values that rows of one moment share named by what tells these apart, and remarks.

    Args:
        records: column to value, in the order of a log.
    """
    out, remarks = list(records), []
    if (column := _numbered(out, _TRAININGS) or _one_after_the_other(out)) is not None:
        return [], [_SEVERAL.format(column)]
    if (column := _numbered(out, _PROCESSES)) is not None:
        first = min(n for record in out if (n := whole(record.get(column))) is not None)
        out = [record for record in out if whole(record.get(column, first)) == first]
        remarks.append(f"its column {column!r} tells rows of one epoch or step apart: those of {first} are read")
    shared = _shared(out)
    columns = _telling(out, shared) if shared else []
    if not columns:
        return out, remarks
    named = [_named(record, columns, shared) for record in out]
    if place_of(out[0]) == _NOWHERE:  # a table of the run's end, a row for each metric or set of data
        return [{name: value for record in named for name, value in record.items()}], remarks
    return named, remarks


def _by_moment(records: Iterable[_Record]) -> list[list[_Record]]:
    """Return the records of each epoch and step that several have; all of them where none says either."""
    moments: dict[tuple[int | None, int | None], list[_Record]] = {}
    for record in records:
        moments.setdefault(place_of(record), []).append(record)
    placed = [those for place, those in moments.items() if len(those) > 1 and place != _NOWHERE]
    return placed if len(moments) > 1 or _NOWHERE not in moments else [those for those in moments.values() if those[1:]]


def _numbered(records: Sequence[_Record], names: frozenset[str]) -> str | None:
    """Return the column of one of these names whose whole numbers differ between rows of one moment, with a place."""
    columns = {c for record in records for c in record if c.lower() in names}
    for column in sorted(columns):
        for those in _by_moment(records):
            numbers = {whole(record.get(column)) for record in those}
            if place_of(those[0]) != (None, None) and None not in numbers and len(numbers) > 1:
                return column
    return None


def _one_after_the_other(records: Sequence[_Record]) -> str | None:
    """Return the column whose words name trainings that follow each other, each with epochs or steps of its own."""
    for column in sorted({c for record in records for c in record if c.lower() in _TRAININGS}):
        words = [w.strip().lower() for r in records if isinstance(w := r.get(column), str) and _is_word(w)]
        if len(words) < len(records) or _SETS.intersection(words) or not 1 < len(set(words)) < len(words):
            continue
        places: dict[str, set[tuple[int | None, int | None]]] = {}
        for word, record in zip(words, records, strict=True):
            places.setdefault(word, set()).add(place_of(record))
        held = sorted(places.values(), key=len)
        again = any(2 * len(one & other - {_NOWHERE}) >= len(one) for one, other in pairwise(held))
        if again and not _alternates(words):
            return column
    return None


def of_run(records: Sequence[_Record], run: str) -> list[_Record] | None:
    """Return the records of a run that a column names, without this column; None where no column names the run.

    Numbers name none: those of ``fold_1`` and of a column ``fold`` may begin at 0 and at 1.

    Args:
        records: column to value, in the order of a log.
        run: the name of the run: ``cnn`` of a column ``model``, ``finetune`` of a column ``stage``.
    """
    name = run.lower()
    if name in _SETS:
        return None
    for column in sorted({c for record in records for c in record if c.lower() in _TRAININGS | _MODELS}):
        found = [r for r in records if isinstance(value := r.get(column), str) and value.strip().lower() == name]
        if found and _is_word(run):
            return [{key: value for key, value in record.items() if key != column} for record in found]
    return None


def _shared(records: Sequence[_Record]) -> set[str]:
    """Return the columns of which rows of one moment have different numbers."""
    found: set[str] = set()
    for those in _by_moment(records):
        held: dict[str, set[float]] = {}
        for record in those:
            for name, value in record.items():
                if not says_place(name) and (number := _number(value)) is not None:
                    held.setdefault(name, set()).add(number)
        found.update(name for name, numbers in held.items() if len(numbers) > 1)
    return found


def _number(value: object) -> float | None:
    number = number_or_text(value) if isinstance(value, str) else value
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


def _telling(records: Sequence[_Record], shared: set[str]) -> list[str]:
    """Return columns of few words, in all records with a shared value, that differ between rows of one moment."""
    speaking = [record for record in records if shared & record.keys()]
    names = dict.fromkeys(name for record in speaking for name in record if name.lower() not in TIMES)
    moments = _by_moment(speaking)
    nowhere = place_of(speaking[0]) == _NOWHERE
    found = []
    for name in names:
        words = [record.get(name) for record in speaking]
        if not all(isinstance(w, str) and _is_word(w) for w in words):
            continue
        distinct = len(set(words))
        once = name.lower() in _KINDS and distinct == len(words)  # a row each: the only moment, or the run's end
        if distinct > _MOST_WORDS or not (once or (distinct < len(words) and not nowhere)):
            continue
        apart = sum(len({record[name] for record in those}) > 1 for those in moments)
        if apart and (once or _alternates(words) or 2 * apart >= len({place_of(record) for record in speaking})):
            found.append(name)
    return found


def _alternates(words: Sequence[object]) -> bool:
    """Tell whether words come back; those of a training that went on later come once each, one after the other."""
    return sum(one != other for one, other in pairwise(words)) >= len(set(words))


_KINDS = frozenset("metric metrics name key measure split subset phase mode stage set dataset partition data".split())


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text.strip()) is not None and isinstance(number_or_text(text), str)


def _named(record: _Record, columns: Sequence[str], shared: set[str]) -> _Record:
    """Name a record's shared values by its words; one that is called a value is called by these alone."""
    words = "/".join(record[c].strip() for c in columns if c in record)
    if not words:
        return record
    return {
        (words if name.lower() in _VALUES else f"{words}/{name}") if name in shared else name: value
        for name, value in record.items()
    }
