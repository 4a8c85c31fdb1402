"""Labels of runs in tables: short, no two alike, and understood wherever a run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from epsopt.cli.resolve_checkpoint import find_run, named, require_run
from epsopt.cli.run_labels import RunLabels
from epsopt.zoo.errors import UsageError


@dataclass(frozen=True)
class Row:
    run_id: int
    run: str
    epoch: int | None = 4
    sha256: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return (f"/zoo/{self.run}/checkpoints/epoch_4.pt",)


def rows(names: list[str]) -> list[Row]:
    return [Row(i, name) for i, name in enumerate(names, 1)]


def test_runs_of_hydra_are_called_by_their_times():
    labels = RunLabels.of(rows([f"2026-11-28/08-15-{i:02d}/logs/version_0" for i in range(5)]))
    assert labels("2026-11-28/08-15-03/logs/version_0", 4) == "08-15-03:4"
    assert labels("elsewhere", 2) == "elsewhere:2"


def test_long_names_lose_what_all_have_before_they_are_cut():
    labels = RunLabels.of(rows([f"finetune-of-the-large-base-model-seed-{i}" for i in range(5)]))
    assert labels("finetune-of-the-large-base-model-seed-3") == "…3"


def test_runs_that_epsopt_names_itself_change_no_label():
    users = [f"finetune-of-the-large-base-model-seed-{i}" for i in range(5)]
    labels = RunLabels.of(rows([*users, "proposal_000", "proposal_001", "merged_001"]))
    assert [labels(name) for name in (users[3], "proposal_001", "merged_001")] == ["…3", "proposal_001", "merged_001"]


def test_names_that_no_short_form_tells_apart_become_numbers_with_a_legend(capsys):
    alike = [f"{'a' * 40}{i}{'b' * 40}" for i in range(3)]
    labels = RunLabels.of(rows(alike))
    assert [labels(name) for name in alike] == ["r1", "r2", "r3"]
    labels.print_legend(alike[:1])
    assert capsys.readouterr().out.split() == [*"Runs, as they are called above:".split(), "r1", alike[0]]


@pytest.mark.parametrize(
    "names",
    [
        [f"2026-11-28/08-15-{i:02d}/logs/version_0" for i in range(5)],
        [f"finetune-of-the-large-base-model-seed-{i}" for i in range(5)],
        [f"{'a' * 40}{i}{'b' * 40}" for i in range(5)],
        [f"learning-rate-{i}-of-a-very-long-name-with-{i % 2}-at-the-end" for i in range(5)],
    ],
)
def test_each_label_is_understood_where_a_run_is_asked_for(names):
    known = rows(names)
    labels = RunLabels.of(known)
    assert len({labels(name) for name in names}) == len(names)
    for row in known:
        assert len(labels(row.run, 4)) <= 20
        assert find_run(labels(row.run), known) == row.run
        assert named(labels(row.run, 4), known) == row
        assert require_run(labels(row.run, 4), known) == row.run


def test_a_run_is_meant_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)

    @dataclass(frozen=True)
    class Here(Row):
        @property
        def paths(self) -> tuple[str, ...]:
            return (str(tmp_path / "runs" / self.run / "epoch_4.pt"),)

    known = [Here(1, "a"), Here(2, "b")]
    assert find_run("runs/b", known) == find_run(str(tmp_path / "runs" / "b"), known) == "b"
    with pytest.raises(UsageError, match=r"runs holds 2 runs: name one of them, such as a"):
        find_run("runs", known)


def test_an_unknown_run_is_answered_with_names_as_tables_show_them():
    known = rows([f"2026-11-28/08-15-{i:02d}/logs/version_0" for i in (7, 23)])
    with pytest.raises(UsageError, match=r"no run 08-15-24: did you mean 08-15-23 or 08-15-07\?"):
        require_run("08-15-24", known)
