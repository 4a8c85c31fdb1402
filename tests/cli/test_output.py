"""Numbers, names and tables as a person reads them."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from epsopt.cli.options import named_targets, spelling
from epsopt.cli.output import (
    Head,
    Rows,
    failures,
    finite,
    formatter,
    label,
    middle,
    plain,
    print_table,
    targets_hold,
    value,
)
from epsopt.zoo.errors import Failure, UsageError


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.98765, 1.0, -0.01], ["0.988", "1.000", "-0.010"]),
        ([12.3456, 3.0], ["12.35", "3.00"]),
        ([1234.5, 20.0], ["1234", "20"]),
        ([1e-5, 2.344e-4], ["1e-05", "0.000234"]),
        ([3.2e7, 1.0e6], ["3.2e+07", "1e+06"]),
        ([None, float("nan"), 0.5], ["-", "-", "0.500"]),
        ([-0.0001, 0.5, 0.6], ["0.000", "0.500", "0.600"]),
        ([0.0, 0.0], ["0.000", "0.000"]),
        ([0.0, 0.0, 0.0, 0.526, 0.888], ["0.000", "0.000", "0.000", "0.526", "0.888"]),
    ],
)
def test_numbers_have_three_or_four_significant_digits(values, texts):
    text = formatter(values)
    assert [text(v) for v in values] == texts


def test_what_is_usual_of_a_metric_says_whether_little_is_nothing():
    tiny = [4e-06, 0.00121, 0.0]
    assert [formatter(tiny, usual=[0.0, 0.5, 0.8])(v) for v in tiny] == ["0.000", "0.001", "0.000"]
    assert [formatter(tiny, usual=[2e-05, 1e-04])(v) for v in tiny] == ["4e-06", "0.00121", "0"]


def test_names_keep_both_ends():
    assert middle("run_012", 10) == "run_012"
    short = middle("experiment_2024_lr_0.003_seed_17", 14)
    assert len(short) == 14
    assert short.startswith("experi")
    assert short.endswith("seed_17"[-6:])
    assert label("a" * 50, 12, 20).endswith(":12")
    assert len(label("a" * 50, 12, 20)) == 20


def test_hostile_names_cannot_reach_the_terminal():
    assert plain("run\x1b[31m\r") == "run\\x1b[31m\\x0d"


def test_json_has_no_nan():
    assert finite({"a": [float("nan"), float("inf"), 1.5, True, None]}) == {"a": [None, None, 1.5, True, None]}


def test_values_are_short():
    assert [value(v) for v in (True, 0.00123456, 128, "adam")] == ["true", "0.001235", "128", "adam"]


def printed(heads, rows, keep):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_table(heads, rows, keep)
    return out.getvalue()


def test_columns_that_do_not_fit_follow_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    heads = [Head("run", "left"), *(Head(f"metric_{i}") for i in range(9))]
    text = printed(heads, [Rows([["run_1", *(f"0.{i}00" for i in range(9))]])], 1)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert all(f"metric_{i}" in text and f"0.{i}00" in text for i in range(9))
    assert text.count("run_1") == 3


def test_markup_in_names_is_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = printed([Head("[red]acc[/red]")], [Rows([["[bold]x"]])], 1)
    assert "[red]acc[/red]" in text
    assert "[bold]x" in text


@pytest.mark.parametrize(
    ("metric", "option"), [("dist_corr", "dist-corr"), ("val/acc top1", "val-acc-top1"), ("f1.5", "f1.5")]
)
def test_metrics_are_spelt_as_options(metric, option):
    assert spelling(metric) == option


def test_a_spelling_of_two_metrics_asks_which():
    with pytest.raises(UsageError, match="may mean val/acc or val_acc"):
        named_targets({"val-acc": 1.0}, ["val/acc", "val_acc"])
    assert named_targets({"val_acc": 1.0}, ["val/acc", "val_acc"]) == {"val_acc": 1.0}


def test_headers_break_at_their_separators_before_columns_go_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["val/noisy_acc", "val/ece", "test_f1_macro", "old_task_acc", "new_task_acc"]
    heads = [Head("checkpoint", "left"), Head("latent\ndistance"), *(Head(f"{n}\nmax") for n in names)]
    text = printed(heads, [Rows([["08-15-32-and-more:12", "0.41", *["0.123"] * 5]])], 1)
    assert text.count("08-15-32") == 1, "one table"
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "noisy_" in text


def test_headers_that_fit_are_left_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "val/noisy_acc" in printed([Head("checkpoint", "left"), Head("val/noisy_acc")], [Rows([["a", "0.1"]])], 1)


def test_a_checkpoint_in_shards_is_shown_by_its_folder(tmp_path, monkeypatch):
    from epsopt.cli.render import short_path

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run" / "checkpoint-3"
    assert short_path(folder / "model-00001-of-00002.safetensors") == "run/checkpoint-3"
    assert short_path(folder / "model.safetensors") == "run/checkpoint-3/model.safetensors"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch, **environment):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {"TERM": "xterm-256color", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, text)
    out = Terminal()
    with contextlib.redirect_stdout(out):
        print_table([Head("run", "left"), Head("acc")], [Rows([["a", "0.5"]])], 1)
    return out.getvalue()


def test_a_terminal_has_one_colour_and_none_where_no_color_is_set(monkeypatch):
    def colours(text):
        return {code for codes in re.findall(r"\x1b\[([\d;]*)m", text) for code in codes.split(";")} & set(
            map(str, (*range(30, 50), *range(90, 108)))
        )

    assert colours(on_terminal(monkeypatch)) == {"36"}
    assert colours(on_terminal(monkeypatch, NO_COLOR="1")) == set()
    assert "\x1b" not in printed([Head("run")], [Rows([["a"]])], 1)


def test_wide_terminals_are_used(monkeypatch):
    heads = [Head("run", "left"), *(Head(f"a_metric_{i}") for i in range(9))]
    row = [Rows([["run_1", *(f"0.{i}00" for i in range(9))]])]
    monkeypatch.setenv("COLUMNS", "120")
    wide = printed(heads, row, 1)
    assert wide.count("run_1") == 1
    assert 80 < max(len(line.rstrip()) for line in wide.splitlines()) <= 120
    assert "a_metric_8" in wide, "no header is broken where there is room"


def test_errors_are_broken_at_words_on_a_terminal_and_whole_elsewhere(monkeypatch):
    from epsopt.cli.main import print_error

    text = "epsopt: " + " ".join(f"word-{i:02d}" for i in range(20))
    monkeypatch.setenv("COLUMNS", "40")
    for stream, lines in ((Terminal(), 5), (io.StringIO(), 1)):
        with contextlib.redirect_stderr(stream):
            print_error(text)
        shown = stream.getvalue().splitlines()
        assert len(shown) == lines
        assert " ".join(shown) == text, "no word is broken, nothing is lost"
        assert lines == 1 or all(len(line) <= 40 for line in shown)


def test_the_probability_of_several_targets_is_said_to_be_a_product():
    assert targets_hold([]) == ""
    assert "product" not in targets_hold(["one"])
    assert "It is the product over single targets" in targets_hold(["one", "another"])


def test_files_that_fail_for_one_reason_are_one_line():
    failed = [Failure(f"run_{i}/log.csv", f"tells {i} rows that belong to nobody") for i in range(30)]
    with contextlib.redirect_stdout(out := io.StringIO()):
        failures([*failed, Failure("x.pt", "empty")])
    assert out.getvalue().splitlines() == [
        "  run_0/log.csv: tells 0 rows that belong to nobody (29 more like it)",
        "  x.pt: empty",
    ]


def test_what_is_not_listed_is_counted_by_files():
    with contextlib.redirect_stdout(out := io.StringIO()):
        failures([Failure(f"{word}.pt", word) for word in map(chr, range(97, 97 + 25)) for _ in range(2)])
    assert out.getvalue().splitlines()[-1] == "  and 10 more (--json lists them all)"
