"""Links, pipes, devices, closed folders, names and sizes: one row each, and the good neighbour goes in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.ingestion.ingest import ingest

from .traps import NAMES, write_traps


@pytest.fixture
def trapped(tmp_path):
    expected = write_traps(tmp_path / "traps")
    torch.save({"model": {"w": torch.eye(3)}}, tmp_path / "traps" / "good.pt")
    yield tmp_path / "traps", expected
    (tmp_path / "traps" / "closed").chmod(0o700)


def test_every_trap_is_a_row_with_its_reason_and_the_good_file_goes_in(tmp_path, trapped):
    folder, expected = trapped
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        report = ingest(catalogue, folder)
        assert [Path(c.path).name for c in catalogue.checkpoints()] == ["good.pt"]
        reasons = {f.path.removeprefix(f"{folder}/"): f.reason for f in catalogue.failures()}
        assert set(reasons) == set(expected)
        for path, part in expected.items():
            assert part in reasons[path], path
        assert report.found == 1 + len(expected)
        # What was read as text comes out as it went in, and nothing of it was a command.
        assert set(NAMES.values()) <= set(reasons)
        assert ingest(catalogue, folder).unchanged == 1


def test_a_name_cannot_write_to_the_terminal(tmp_path, trapped, capsys):
    from epsopt.cli.output import failures

    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        failures(ingest(catalogue, trapped[0]).failed)
    shown = capsys.readouterr()
    for line in (shown.out + shown.err).splitlines():
        assert line.isprintable(), line
    assert "\nbreak.pt" not in shown.out + shown.err
