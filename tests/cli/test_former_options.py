"""Options that have another name since version 0.2 work until version 0.3, and say so."""

from __future__ import annotations

import pytest

from .conftest import call


@pytest.mark.parametrize(
    ("former", "now"),
    [(["--mix", "2"], "--merges"), (["--mix=2"], "--merges"), (["--lost-after", "9"], "--stale-after")],
    ids=str,
)
def test_a_former_option_is_taken_for_the_present_one_with_a_note(tmp_path, former, now):
    result = call(tmp_path, "work", "--until-idle", "--forever", *former)
    said = " ".join(result.err.split())
    assert f"{former[0].partition('=')[0]} is called {now} since version 0.2, and goes with version 0.3" in said
    assert "--until-idle and --forever contradict each other" in said
    assert result.status == 2


def test_a_former_option_means_what_it_meant(tmp_path):
    result = call(tmp_path, "work", "--budget", "5", "--mix", "2")
    assert "--budget and --merges contradict each other" in " ".join(result.err.split())


def test_an_option_whose_value_means_something_else_now_is_refused_with_the_one_in_its_place(tmp_path):
    result = call(tmp_path, "work", "-n", "1", "--stop-below", "0.05")
    assert result.status == 2
    assert "--stop-below pruned by the probability of joining the front" in " ".join(result.err.split())
    assert "use --prune-below SHARE, from 0 to 0.2" in " ".join(result.err.split())


def test_commands_without_the_present_option_refuse_the_former_one(tmp_path):
    result = call(tmp_path, "propose", "--mix", "2")
    assert result.status == 2
    assert "no such option '--mix'" in result.err
