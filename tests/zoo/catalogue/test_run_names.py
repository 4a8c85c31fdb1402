"""Runs of one name in several folders: they stay apart, and their names say which is which."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize import Objective, Parameter, Space
from epsopt.optimize.forecast.catalogue_curves import past_curves
from epsopt.zoo.catalogue.run_names import distinct_names, hint, named_run, short_names, without_common_words
from epsopt.zoo.errors import UsageError
from epsopt.zoo.ingestion.ingest import ingest

SPACE = Space((Parameter("lr", "float", 0.0, 1.0),))
COVERAGE = (Objective("coverage", maximize=True),)


@pytest.fixture
def days(tmp_path, save) -> list[Path]:
    """Two folders with a run_000 each: Monday's has two epochs, Tuesday's another learning rate and the third."""
    for epoch in (1, 2):
        save(tmp_path / "monday" / "run_000" / f"epoch_{epoch}.pt", epoch, lr=0.1)
    save(tmp_path / "tuesday" / "run_000" / "epoch_3.pt", 3, lr=0.2)
    return [tmp_path / "monday", tmp_path / "tuesday"]


def curves(catalogue) -> dict[str, tuple[float, list[float]]]:
    """Learning rate and epochs of each curve, by the run's name."""
    names = {r.id: r.name for r in catalogue.runs()}
    found = past_curves(catalogue.checkpoints(), SPACE, COVERAGE)
    return {names[i]: (curve.config["lr"], curve.steps.tolist()) for i, curve in found.items()}


def test_runs_of_one_name_have_curves_of_their_own_and_names_that_tell_them_apart(catalogue, days):
    for day in days:
        ingest(catalogue, day)
    assert [r.name for r in catalogue.runs()] == ["monday/run_000", "tuesday/run_000"]
    assert [(c.run, c.epoch, c.hyperparameters["lr"]) for c in catalogue.checkpoints()] == [
        ("monday/run_000", 1, 0.1), ("monday/run_000", 2, 0.1), ("tuesday/run_000", 3, 0.2)
    ]  # fmt: skip
    assert curves(catalogue) == {"monday/run_000": (0.1, [1.0, 2.0]), "tuesday/run_000": (0.2, [3.0])}


def test_a_run_keeps_its_short_name_until_another_one_has_it(catalogue, days):
    ingest(catalogue, days[0])
    assert [r.name for r in catalogue.runs()] == ["run_000"]
    ingest(catalogue, days[1])
    assert [r.name for r in catalogue.runs()] == ["monday/run_000", "tuesday/run_000"]


def test_renamed_and_moved_folders_stay_apart(catalogue, days, tmp_path):
    for day in days:
        ingest(catalogue, day)
    days[0].rename(tmp_path / "sunday")
    ingest(catalogue, tmp_path / "sunday")
    assert curves(catalogue) == {"sunday/run_000": (0.1, [1.0, 2.0]), "tuesday/run_000": (0.2, [3.0])}
    (tmp_path / "sunday" / "run_000").rename(days[1] / "run_001")
    ingest(catalogue, days[1])
    assert curves(catalogue) == {"run_000": (0.2, [3.0]), "run_001": (0.1, [1.0, 2.0])}


def test_a_copied_folder_of_runs_is_apart_from_its_original(catalogue, days, tmp_path):
    ingest(catalogue, days[0])
    shutil.copytree(days[0], tmp_path / "backup")
    ingest(catalogue, tmp_path / "backup")
    both = (0.1, [1.0, 2.0])
    assert curves(catalogue) == {"backup/run_000": both, "monday/run_000": both}


def test_part_of_a_name_is_enough_where_one_run_has_it_and_several_are_named():
    names = ["monday/run_000", "tuesday/run_000", "tuesday/run_001"]
    assert named_run("tuesday/run_000", names) == "tuesday/run_000"
    assert named_run("run_001/", names) == "tuesday/run_001"
    assert named_run("run_002", names) is None
    with pytest.raises(UsageError, match="may be one of 2 runs: monday/run_000, tuesday/run_000: write more"):
        named_run("run_000", names)


def test_runs_are_shown_by_the_part_of_their_path_that_differs():
    hydra = {f"2026-11-28/08-15-{i:02d}/logs/version_0": f"08-15-{i:02d}" for i in range(3)}
    assert short_names(hydra) == hydra
    assert short_names([*hydra, "2026-11-29/08-15-01/logs/version_0"]) == {
        **{name: f"2026-11-28/{time}" for name, time in hydra.items()},
        "2026-11-29/08-15-01/logs/version_0": "2026-11-29/08-15-01",
    }


def test_a_second_version_in_one_folder_leaves_the_names_of_other_folders_short():
    days = ("mon", "tue", "wed", "thu")
    names = [*(f"{day}/logs/version_0" for day in days), "thu/logs/version_1"]
    assert list(short_names(names).values()) == ["mon", "tue", "wed", "thu/logs/version_0", "thu/logs/version_1"]


def test_words_that_all_names_have_are_left_out_of_long_ones():
    names = [f"resnet-cifar_lr=0.{i},wd=0.1_seed=3" for i in (1, 2)]
    assert list(without_common_words(names).values()) == ["…lr=0.1,…", "…lr=0.2,…"]
    assert without_common_words(["a_b", "a_b_a_b"]) == {"a_b": "a_b", "a_b_a_b": "a_b_a_b"}


def test_a_run_is_meant_by_any_part_of_its_name_that_no_other_has():
    names = [f"2026-11-28/08-15-{i:02d}/logs/version_0" for i in range(3)] + ["proposal_007/logs/version_0"]
    assert named_run("08-15-01", names) == names[1]
    assert named_run("15-02", names) == names[2]
    assert named_run("proposal_007", names) == named_run("proposal 7", names) == names[3]
    assert named_run("08…-00", names) == names[0]
    with pytest.raises(UsageError, match="may be one of 4 runs"):
        named_run("version_0", names)


def test_a_mistyped_name_suggests_names_as_tables_show_them():
    names = [f"2026-11-28/08-15-{i:02d}/logs/version_0" for i in (7, 23)]
    assert hint("08-15-24", names) == "did you mean 08-15-23 or 08-15-07?"


_PART = st.sampled_from(["a", "b", "run"])


@given(st.sets(st.lists(_PART, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12), st.data())
def test_no_two_runs_have_one_name_and_each_is_the_end_of_its_path(paths, data):
    runs = {}
    for i, path in enumerate(sorted(paths)):
        parts = path.split("/")
        runs[i] = ("/".join(parts[-data.draw(st.integers(1, len(parts))) :]), f"/{path}")
    names = distinct_names(runs)
    assert len(set(names.values())) == len(runs)
    for i, name in names.items():
        assert f"/{runs[i][1]}".endswith(f"/{name}")
        assert name == runs[i][0] or sum(runs[i][0] == other for other, _ in runs.values()) > 1


@given(st.sets(st.lists(_PART, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12))
def test_no_two_runs_are_shown_alike_and_each_is_found_by_what_is_shown(names):
    shown = short_names(names)
    assert len(set(shown.values())) == len(names)
    for name, short in shown.items():
        assert f"/{short}/" in f"/{name}/"
        assert short in names or named_run(short, names) == name
        if short in names:
            assert short == name
