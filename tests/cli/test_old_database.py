"""A database of the version before answers every command."""

from __future__ import annotations

import gzip
import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from epsopt.studies import surrogate_store
from epsopt.surrogate.map_format import OtherVersion
from epsopt.zoo import Catalogue

from .conftest import QUICK, Project, check
from .test_work import FILE

OLD = Path(__file__).parents[1] / "zoo" / "catalogue" / "old" / "version_2.sql.gz"


def save(file: Path, lr: float, epoch: int, last: float) -> None:
    """Write a checkpoint as the sweep of that database did."""
    metrics = {"coverage": 1 - lr * epoch / 10, "dist_corr": lr * epoch / 10, "rad_hier": -lr}
    about = {"config": {"lr": lr, "who": file.parent.name}, "metrics": metrics, "epoch": epoch}
    weight = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = json.dumps({"__metadata__": {k: json.dumps(v) for k, v in about.items()}, "weight": weight}).encode()
    weights = struct.pack("<4f", 1.0 + lr, 2.0, 3.0 + 0.001 * epoch, last)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(header)) + header + weights)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("old")
    (folder / "epsopt.toml").write_text(
        FILE.replace("high = 10.0", "high = 1.0").replace('"{lr}"]', '"{lr}", ["--init-from", "{init_from}"]]')
    )
    for i in range(9):
        for epoch in (1, 2):
            save(folder / "runs" / f"sweep_{i}" / f"epoch_{epoch:03d}.safetensors", 0.05 + 0.1 * i, epoch, float(i))
    dump = gzip.decompress(OLD.read_bytes()).decode().replace("/somewhere", str(folder))
    with closing(sqlite3.connect(folder / "epsopt.db")) as connection:
        connection.executescript(dump)
    return Project(folder, folder / "runs")


def test_the_first_command_upgrades_and_check_finds_it_whole(old):
    assert old("check").status == 0, "an old one is not damaged"
    assert old("pareto", "--json").document["n_checkpoints"] == 25
    checked = old("check", "--json")
    assert (checked.status, checked.document["damage"]) == (0, [])


COMMANDS = {
    "pareto": [],
    "search": ["--target-coverage", "0.5", "-n", "2"],
    "nearest": ["sweep_3:2"],
    "predict": ["runs/sweep_3/epoch_002.safetensors"],
    "trajectory": ["sweep_3"],
    "cluster": ["-k", "2"],
    "sample": ["--target-coverage", "0.5", "-n", "3"],
    "interpolate": ["sweep_1:2", "sweep_5:2"],
    "propose": ["-n", "1"],
    "work": ["--dry-run"],
    "report": [],
    "ingest": [],
}


def test_every_command_answers(old):
    with Catalogue(f"sqlite:///{old.folder / 'epsopt.db'}") as catalogue:
        try:
            surrogate_store.load_map(catalogue)
        except OtherVersion:  # of the map, not of the database: 'epsopt fit' is what the commands ask for
            surrogate_store.fit_map(catalogue, recipe=QUICK)
    for command, arguments in COMMANDS.items():
        result = old(command, *arguments, "--json")
        assert result.status == 0, f"{command}: {result.err}"
        check(command, result.document)
        if command == "report":
            steps = {s["kind"]: s for s in result.document["steps"]}
            assert set(steps) == {"run", "branch", "merge"}
            assert steps["merge"]["realized_gain"] == pytest.approx(0.01)
            assert len(result.document["control_runs"]) == 1
