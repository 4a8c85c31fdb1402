"""Logs of programs that were killed while they wrote a line: that line is lost and named, the others are read."""

from __future__ import annotations

import os

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.side_file_reader import parse_table

JSON = '{"epoch": 1, "acc": 0.1}\n{"epoch": 2, "acc": 0.2}\n'
CSV = "epoch,acc,loss\n1,0.1,3\n2,0.2,2\n"


def read(catalogue, folder, log, text):
    folder.mkdir()
    for epoch in (1, 2, 3):
        weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(epoch))
        torch.save({"model": {"w.weight": weights}, "epoch": epoch}, folder / f"epoch_{epoch}.pt")
    (folder / log).write_text(text, encoding="utf-8")
    os.utime(folder / log, (1.6e9, 1.6e9))  # nobody writes to it any more
    report = ingest(catalogue, [folder])
    return {c.epoch: c.metrics.get("acc") for c in catalogue.checkpoints()}, [
        f.reason for f in report.side_file_failures
    ]


@pytest.mark.parametrize(
    ("log", "text", "third"),
    [
        ("metrics.jsonl", JSON + '{"epoch": 3, "ac', None),
        ("metrics.jsonl", JSON + '{"epoch": 3, "ac{"epoch": 2, "acc": 0.9}\n{"epoch": 3, "acc": 0.3}\n', 0.3),
        ("log.json", JSON + '{"epoch": 3, "ac', None),
        ("metrics.csv", CSV + "3,0.", None),
        ("metrics.csv", CSV + "3,0.3,3,0.3,1\n", None),
        ("metrics.csv", CSV + "3,0.2,0.9,1\n3,0.3,1\n", 0.3),
    ],
)
def test_a_line_that_was_cut_off_costs_itself_alone_and_is_named(catalogue, tmp_path, log, text, third):
    values, failures = read(catalogue, tmp_path / "a", log, text)
    assert values == {1: 0.1, 2: 0.2, 3: third}
    assert [reason.endswith(("other lines are read", "other rows are read")) for reason in failures] == [True]


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("metrics.csv", CSV + "3,0.3,1"),  # whole, without the end of its line
        ("metrics.csv", CSV + "3,0.3\n"),  # nothing else was measured
        ("metrics.csv", "epoch,acc\n1,0.1,5\n2,0.2,5\n3,0.3,5\n"),  # a column without a name
        ("metrics.csv", "epoch,acc\n1,0.1\n2,0.2\n3,0.3,\n"),
        ("metrics.jsonl", JSON + '{"epoch": 3, "acc": 0.3, "note": "a\u2028b"}'),
    ],
)
def test_lines_that_are_whole_are_read(catalogue, tmp_path, log, text):
    assert read(catalogue, tmp_path / "a", log, text) == ({1: 0.1, 2: 0.2, 3: 0.3}, [])


def test_a_log_without_any_whole_line_is_named_as_such(catalogue, tmp_path):
    values, failures = read(catalogue, tmp_path / "a", "metrics.jsonl", "nonsense\nmore of it\n")
    assert values == {1: None, 2: None, 3: None}
    assert [reason.startswith("line 1 is not valid JSON") for reason in failures] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "epoch,acc\n1,0.1\nepoch,loss,acc\n2,9,0.2\n3,9,0.3\n",
        "epoch,acc\n1,0.1\n2,0.9\nacc,epoch\n0.2,2\n0.3,3\n",
        "# epoch,acc\n1,0.1\n# epoch,loss,acc\n2,9,0.2\n3,9,0.3\n",
        "epoch,acc\n1,0.1\nepoch,acc\n2,0.2\n3,0.3\n",
        "epoch;loss;acc\n1;9;0,1\nepoch;acc\n2;0,2\n3;0,3\n",
    ],
)
def test_a_second_header_names_the_columns_of_the_rows_below_it(catalogue, tmp_path, text):
    assert read(catalogue, tmp_path / "a", "metrics.csv", text) == ({1: 0.1, 2: 0.2, 3: 0.3}, [])


@pytest.mark.parametrize(
    ("text", "row", "values"),
    [
        ("epoch,acc\n1,0.1\n2,8,0.2\n3,9,0.3\n", 2, {1: 0.1, 2: None, 3: None}),
        ("epoch,lr,acc\n1,8,0.1\n2,0.2\n3,0.3\n", 2, {1: 0.1, 2: None, 3: None}),
        ("epoch,acc\n1,0.1\nepoch,acc\n2,0.2\n3,9,0.3\n3,9,0.4\n", 4, {1: 0.1, 2: 0.2, 3: None}),
    ],
)
def test_rows_whose_length_changed_without_a_header_are_named_and_not_read(catalogue, tmp_path, text, row, values):
    found, (reason,) = read(catalogue, tmp_path / "a", "metrics.csv", text)
    assert found == values
    assert reason.startswith(f"row {row} has ")
    assert reason.endswith("write a header above them; the other rows are read")


def test_rows_that_end_early_now_and_then_lack_what_was_not_measured(catalogue, tmp_path):
    text = "epoch,acc,loss\n1,0.1\n2,0.2,5\n3,0.3\n"
    assert read(catalogue, tmp_path / "a", "metrics.csv", text) == ({1: 0.1, 2: 0.2, 3: 0.3}, [])


def test_a_row_of_words_is_no_header():
    rows, broken = parse_table("epoch,phase,name\n1,train,phase\n2,train,val\n,phase,acc\n")
    assert [row.get("name") for row in rows] == ["phase", "val", "acc"]
    assert broken == ""
