"""Which proposal a checkpoint is of: by the folder that it lies in, however deep."""

from __future__ import annotations

from pathlib import Path

from epsopt.studies.optuna_io.run_folders import owner_of, owners_of
from epsopt.zoo.catalogue.types import Checkpoint


def test_checkpoints_of_many_folders_have_the_owners_that_each_has():
    folders = {Path("/runs/proposal_000"): 0, Path("/runs/proposal_001"): 1}
    paths = [
        "/runs/proposal_000/epoch_1.pt", "/runs/proposal_001/deep/er/epoch_1.pt", "/runs/proposal_001/epoch_2.pt",
        "/runs/old/epoch_1.pt", "/runs/proposal_0001/epoch_1.pt", "/runs/proposal_000/epoch_2.pt", "file.pt",
    ]  # fmt: skip
    checkpoints = [Checkpoint(i, 1, "run", path, str(i), 1, {}, {}, "", 1, 1) for i, path in enumerate(paths)]
    found = owners_of(folders, checkpoints)
    assert found == {0: 0, 1: 1, 2: 1, 5: 0}
    assert found == {c.id: n for c in checkpoints if (n := owner_of(folders, c)) is not None}
