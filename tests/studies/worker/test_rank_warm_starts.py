"""Starts of runs are ranked for what the map knows of them."""

from __future__ import annotations

import pytest

from epsopt.optimize import Objective, Target
from epsopt.studies.project.project import Project
from epsopt.studies.worker.rank_warm_starts import rank_warm_starts
from epsopt.zoo import Catalogue
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.errors import UsageError

KNOWN = Objective("coverage", maximize=True)


@pytest.mark.parametrize(
    ("objectives", "targets", "message"),
    [
        ([KNOWN, Objective("unheard", maximize=True)], [], "the map was not trained on 'unheard'.*epsopt fit"),
        ([KNOWN], [Target("unheard", 0.5)], "unheard"),
    ],
)
def test_what_the_map_does_not_know_of_starts_is_refused_at_once(zoo, fitted, tmp_path, objectives, targets, message):
    project = Project("p", tmp_path / "epsopt.toml", tmp_path, "", tuple(objectives))
    with (
        Catalogue(f"sqlite:///{tmp_path / 'c.db'}") as catalogue,
        WeightDecoder(None) as decoder,
        pytest.raises(UsageError, match=message),
    ):
        rank_warm_starts(decoder, catalogue, zoo[1], fitted[0], project, [], objectives, targets)
