"""A budget that measured no merge says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from epsopt.studies.project.project import Project
from epsopt.studies.schedule.weight_geometry import why_none_merged
from epsopt.zoo.catalogue.catalogue import Catalogue

from ..fakes import COVERAGE, DIST_CORR  # noqa: TID252


def test_what_is_missing_is_named_with_the_line_to_add(tmp_path):
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    project = Project("p", tmp_path / "epsopt.toml", Path("runs"), url, (COVERAGE, DIST_CORR))
    with Catalogue(url) as catalogue:
        assert '[hooks] evaluate = "package.module:function"' in why_none_merged(project, catalogue)
        measuring = replace(project, evaluate="m:f")
        assert "a budget merges only what descends from one" in why_none_merged(measuring, catalogue)
