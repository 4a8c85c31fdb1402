"""Values in CSV and JSON files beside the checkpoints, and in a table of runs."""

from __future__ import annotations

import csv
import json

from hypothesis import given
from hypothesis import strategies as st

from epsopt.zoo.side_files.run_tables import Entry, RunTable

from .conftest import ABSENT, kept, numbers, others, quick, save


def run_of(folder, values):
    for epoch in range(len(values)):
        save(folder / f"epoch_{epoch}.pt", epoch)


@quick
@given(st.lists(numbers | st.sampled_from(["", "n/a", "yes", "None", "true"]), min_size=1, max_size=12))
def test_a_csv_log_s_cells_are_finite_not_measured_or_absent(door, values):
    folder = door.new()
    run_of(folder, values)
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", "m"), *enumerate(values)])
    expected = {e: 1.0 if v == "true" else kept(v) for e, v in enumerate(values)}
    assert door.read(folder) == expected


@quick
@given(st.lists(numbers | others, min_size=1, max_size=12))
def test_json_lines_are_finite_not_measured_or_absent(door, values):
    """Python's json writes NaN and Infinity as such."""
    folder = door.new()
    run_of(folder, values)
    (folder / "log.jsonl").write_text("".join(json.dumps({"epoch": e, "m": v}) + "\n" for e, v in enumerate(values)))
    assert door.read(folder) == {e: kept(v) for e, v in enumerate(values)}


@quick
@given(st.lists(numbers, min_size=2, max_size=12))
def test_columns_of_a_json_file_are_finite_or_not_measured(door, values):
    folder = door.new()
    run_of(folder, values)
    (folder / "metrics.json").write_text(json.dumps({"epoch": list(range(len(values))), "m": values}))
    assert door.read(folder) == {e: kept(v) for e, v in enumerate(values)}


@quick
@given(st.lists(numbers | others.filter(lambda v: v is not None), min_size=1, max_size=8))
def test_what_a_table_of_runs_says_is_finite_not_measured_or_absent(door, values):
    folder = door.new()
    run_of(folder, values)
    entries = tuple(Entry((f"epoch_{e}.pt",), metrics={"m": v}) for e, v in enumerate(values))
    assert door.read(folder, sheets=[RunTable("t", folder, entries)]) == {e: kept(v) for e, v in enumerate(values)}


def test_a_column_that_is_constant_or_measured_once_is_what_it_is(door):
    folder = door.new()
    run_of(folder, range(4))
    rows = [{"epoch": e, "m": 0.5, "once": 1.0 if e == 2 else ""} for e in range(4)] * 2  # and every row twice
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "m", "once"])
        writer.writeheader()
        writer.writerows(rows)
    assert door.read(folder) == dict.fromkeys(range(4), 0.5)
    assert [c.metrics.get("once", ABSENT) for c in door.catalogue.checkpoints()] == [ABSENT, ABSENT, 1.0, ABSENT]
