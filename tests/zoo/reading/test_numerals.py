"""Hyperparameters whose text writes a number are that number; codes and words stay text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.space_inference import infer_space_of
from epsopt.studies.project.scan_runs import survey
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.reading.plain_values import numeral


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e30, 1e30)))
def test_what_python_writes_of_a_number_is_the_number(number):
    assert numeral(str(number)) == number
    assert type(numeral(str(number))) is type(number)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 0.001), (".5", 0.5), ("2.", 2.0), ("1E5", 1e5), ("-0", 0)])
def test_other_spellings_are_numbers_too(text, number):
    assert numeral(text) == number


@pytest.mark.parametrize(
    "value", ["007", "1_000", "nan", "inf", "1e999", "0x10", "1.2.3", "", "-", ".", "e5", " 1", "٣", True, None, 2]
)
def test_codes_words_and_what_is_no_text_stay(value):
    assert numeral(value) is value


def test_a_learning_rate_that_some_runs_have_as_a_text_is_one_range(catalogue, tmp_path):
    for i, lr in enumerate(["1e-1", 0.01, "0.001", 1e-4]):
        (tmp_path / f"run_{i}").mkdir()
        state = {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(i))}
        torch.save({"model": state, "epoch": 1, "config": {"lr": lr}}, tmp_path / f"run_{i}" / "epoch_1.pt")
    ingest(catalogue, [tmp_path])
    (lr,) = infer_space_of(catalogue.checkpoints()).parameters
    assert (lr.kind, lr.low, lr.high, lr.log) == ("float", 0.0001, 0.1, True)
    assert [h["lr"] for h in survey(tmp_path).hyperparameters] == [0.1, 0.01, 0.001, 0.0001]
    assert [r.hyperparameters["lr"] for r in catalogue.runs()] == [0.1, 0.01, 0.001, 0.0001]
