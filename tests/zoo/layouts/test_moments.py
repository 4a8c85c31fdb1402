"""A value belongs to the checkpoint that was saved at its moment or later in its epoch, never to an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from epsopt.zoo.layouts.parsed import Position, Row, RunMetadata, match_rows


@dataclass(frozen=True)
class Training:
    """A loop that validates and saves after some of its updates, which are numbered from 1."""

    length: int
    validated: frozenset[int]
    saved: frozenset[int]

    def epoch(self, update: int) -> int:
        return (update - 1) // self.length

    def measured(self, update: int) -> float | None:
        """Return what was measured last in the epoch of a checkpoint, before or when it was saved."""
        before = [v for v in self.validated if v <= update and self.epoch(v) == self.epoch(update)]
        return float(max(before)) if before else None


@st.composite
def trainings(draw) -> Training:
    length, epochs = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    moments = st.frozensets(st.integers(1, length * epochs), min_size=1)
    return Training(length, draw(moments), draw(moments))


def matched(training: Training, layout: str, behind: int) -> dict[int, float | None]:
    """Match a log whose steps are `behind` less than the number of updates; a value is the update it was made at."""
    rows = [Row(training.epoch(v), v - behind, {"acc": float(v)}) for v in sorted(training.validated)]
    positions = [Position(str(s), f"/r/{s}.ckpt", training.epoch(s), s, layout) for s in sorted(training.saved)]
    found = match_rows(RunMetadata(rows=rows), positions)
    return {s: found.get(str(s), {}).get("acc") for s in training.saved}


@given(trainings())
def test_lightnings_values_are_those_logged_at_or_just_before_the_save(training):
    assert matched(training, "lightning", 1) == {s: training.measured(s) for s in training.saved}


@given(trainings(), st.integers(1, 20))
def test_values_are_those_logged_at_or_just_before_the_save_where_steps_count_alike(training, together):
    """One moment of both shows that they do."""
    both = Training(training.length, training.validated | {together}, training.saved | {together})
    assert matched(both, "plain", 0) == {s: both.measured(s) for s in both.saved}


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 50))
def test_a_log_by_epoch_alone_belongs_to_the_checkpoint_of_that_epoch(epochs, every, length):
    rows = [Row(e, None, {"acc": float(e)}) for e in range(1, epochs + 1)]
    saved = [e for e in range(1, epochs + 1) if e % every == 0 or e == epochs]
    found = match_rows(RunMetadata(rows=rows), [Position(str(e), f"/r/{e}.pt", e, e * length) for e in saved])
    assert {k: v["acc"] for k, v in found.items()} == {str(e): float(e) for e in saved}


@given(trainings())
def test_a_log_by_step_alone_belongs_to_the_checkpoints_of_its_steps(training):
    """Whatever has no value at its very step has none, unless no step is any checkpoint's."""
    rows = [Row(None, v, {"acc": float(v)}) for v in sorted(training.validated)]
    positions = [Position(str(s), f"/r/{s}.pt", training.epoch(s), s) for s in sorted(training.saved)]
    found = match_rows(RunMetadata(rows=rows), positions)
    if training.saved & training.validated:
        assert {int(k): v["acc"] for k, v in found.items()} == {
            s: float(s) for s in training.saved & training.validated
        }
