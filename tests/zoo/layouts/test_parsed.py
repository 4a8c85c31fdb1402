"""Which row of a log belongs to which checkpoint; and catalogues from before side files were read."""

from __future__ import annotations

import pytest

from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.parsed import Position, Row, RunMetadata, match_rows


def places(*pairs: tuple[int | None, int | None]) -> list[Position]:
    return [Position(f"{epoch}/{step}", f"/r/{i}.pt", epoch, step) for i, (epoch, step) in enumerate(pairs)]


def rows(*triples: tuple[int | None, int | None, float]) -> RunMetadata:
    return RunMetadata(rows=[Row(epoch, step, {"m": value}) for epoch, step, value in triples])


@pytest.mark.parametrize(
    ("metadata", "positions", "expected"),
    [
        # By epoch; what is logged of no epoch that was kept belongs to nobody.
        (rows((1, None, 0.1), (2, None, 0.2)), places((2, None), (3, None)), {"2/None": 0.2}),
        # In one epoch, the last row that is not later than the checkpoint.
        (rows((0, 5, 0.1), (0, 10, 0.2), (0, 15, 0.3)), places((0, 10), (0, 12)), {"0/10": 0.2, "0/12": 0.2}),
        # By step, where no epoch is logged: the steps of the optimiser, if a checkpoint stands at one.
        (rows((None, 100, 0.1), (None, 200, 0.2)), places((1, 100), (2, 200)), {"1/100": 0.1, "2/200": 0.2}),
        # Else they count epochs.
        (rows((None, 1, 0.1), (None, 2, 0.2)), places((1, 100), (2, 200)), {"1/100": 0.1, "2/200": 0.2}),
        # But not if the log runs far beyond: then nothing is known.
        (rows((None, 1, 0.1), (None, 50, 0.2)), places((1, 100), (2, 200)), {}),
        # A number that may be either is the step, if it is all there is.
        (rows((None, 500, 0.1), (None, 900, 0.2)), places((500, None)), {"500/None": 0.1}),
        # NaN is a value; it replaces an earlier one.
        (RunMetadata(rows=[Row(1, None, {"m": 1.0}), Row(1, None, {"m": None})]), places((1, None)), {"1/None": None}),
        # What says no epoch is the run's last.
        (RunMetadata(final={"m": 0.5}), places((1, None), (2, None)), {"2/None": 0.5}),
        (rows((1, None, 0.1)), places((None, None)), {}),
    ],
)
def test_a_checkpoint_has_what_was_logged_on_it_and_nothing_else(metadata, positions, expected):
    assert {key: metrics["m"] for key, metrics in match_rows(metadata, positions).items()} == expected


def test_a_run_that_a_layout_has_come_to_recognise_is_taken_over(catalogue, tmp_path, save):
    """Before there was a log, the checkpoints' own folder was the run."""
    save(tmp_path / "job" / "checkpoints" / "epoch_1.pt", 1)
    ingest(catalogue, tmp_path)
    assert [r.name for r in catalogue.runs()] == ["job/checkpoints"]
    (tmp_path / "job" / "metrics.csv").write_text("epoch,extra\n1,0.5\n")
    report = ingest(catalogue, tmp_path)
    assert (report.added, report.refreshed_runs) == (0, 1)
    assert [r.name for r in catalogue.runs()] == ["job"]
    assert catalogue.checkpoints()[0].metrics == {"coverage": 0.01, "dist_corr": 0.5, "extra": 0.5}


def test_a_line_that_is_being_written_waits_for_the_next_ingest(catalogue, tmp_path, save):
    save(tmp_path / "epoch_1.pt", 1)
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,extra\n1,0.5\n1,0.1")
    ingest(catalogue, tmp_path)
    assert catalogue.checkpoints()[0].metrics["extra"] == 0.5
    log.write_text("epoch,extra\n1,0.5\n1,0.125\n")
    ingest(catalogue, tmp_path)
    assert catalogue.checkpoints()[0].metrics["extra"] == 0.125
