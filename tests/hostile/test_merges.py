"""Two merges at once: each keeps its folder and all that it measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.cli.merge import merge_within
from epsopt.optimize import Objective
from epsopt.optimize.merge import simplex_merge
from epsopt.studies.output_paths import save_folder
from epsopt.studies.project.project import Project
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.errors import UsageError

from .project import write_runs

EVALUATIONS = 4
Merge = Callable[[float, Path | None], tuple[Path, simplex_merge.MergeResult]]


@pytest.fixture
def merging(tmp_path, monkeypatch):
    """Merge as the command does, each merge with values of its own, and only measure once both hold their folders."""
    write_runs(tmp_path / "runs")
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    objectives = (Objective("accuracy", maximize=True), Objective("structure", maximize=True))
    project = Project("p", tmp_path / "epsopt.toml", tmp_path / "runs", url, objectives, {}, None, None, tmp_path)
    with Catalogue(url) as catalogue:
        assert not ingest(catalogue, tmp_path / "runs", jobs=1).failed
        checkpoints = catalogue.checkpoints()
    both, mine = threading.Barrier(2), threading.local()

    def measure(decoder, decoded, title="") -> dict[str, float]:
        mine.done += 1
        if mine.done == 1:
            both.wait()
        return {"accuracy": mine.value + mine.done, "structure": mine.value + mine.done}

    steps = [np.array([[share, 1.0 - share]]) for share in (0.5, 0.25)]
    monkeypatch.setattr(WeightDecoder, "measure", measure)
    monkeypatch.setattr(simplex_merge, "next_merge", lambda tried, *_: (steps[len(tried) - 2], {}))

    def merge(value: float, save: Path | None):
        mine.value, mine.done = value, 0
        try:
            with save_folder(save, project.runs, "merge", checkpoints) as folder:
                merged = merge_within(
                    project,
                    checkpoints,
                    checkpoints[:2],
                    folder,
                    None,
                    None,
                    EVALUATIONS,
                    0.0,
                    None,
                    0,
                    lambda *_: None,
                )
        except BaseException:
            both.abort()
            raise
        return folder, merged

    return merge


def test_two_merges_at_once_keep_their_folders_and_evaluations(merging):
    with ThreadPoolExecutor(2) as threads:
        ended = [m.result() for m in [threads.submit(merging, value, None) for value in (10.0, 20.0)]]
    assert len({folder for folder, _ in ended}) == 2
    for value, (folder, merged) in zip((10.0, 20.0), ended, strict=True):
        measured = [e.measured["accuracy"] for e in merged.result.evaluations]
        assert measured == [value + 1, value + 2, value + 3, value + 4]
        assert set(folder.glob("*/*.pt")) == set(merged.saved.values()) != set()
        for place, path in merged.saved.items():
            assert torch.load(path, weights_only=True)["metrics"]["accuracy"] == measured[place]


def test_two_merges_into_one_named_folder_are_one_merge_and_one_sentence(merging, tmp_path):
    wanted = tmp_path / "mine"
    with save_folder(wanted, tmp_path / "runs", "merge"), pytest.raises(UsageError, match="mine"):
        merging(10.0, wanted)
