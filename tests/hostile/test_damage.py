"""Databases and maps that a disk, a person or another program damaged: a sentence with a command, never a defect."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3

import pytest

from epsopt.studies.check import check_database
from epsopt.studies.surrogate_store import fit_map, load_map
from epsopt.surrogate import TrainingConfig
from epsopt.zoo import Catalogue

from ..sweeps import sweep  # noqa: TID252
from .project import call

COMMANDS = (["pareto"], ["search", "--no-record", "-n", "1"], ["nearest", "run_1:2"], ["report"], ["ingest", "-j", "1"])
LEARNED = (["search", "-n", "1"], ["nearest", "run_1:2"], ["propose", "-n", "1"])


@pytest.fixture
def folder(whole, tmp_path):
    """The project of the same runs, with a database of its own to be damaged."""
    said = (whole / "epsopt.toml").read_text()
    assert 'runs = "runs"' in said
    (tmp_path / "epsopt.toml").write_text(said.replace('runs = "runs"', f'runs = "{whole / "runs"}"'))
    shutil.copy(whole.parent / "whole.db", tmp_path / "whole.db")
    shutil.copy(whole.parent / "whole.db", tmp_path / "epsopt.db")
    return tmp_path


def change(folder, statement, *values):
    with contextlib.closing(sqlite3.connect(folder / "epsopt.db")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(statement, values).rowcount > 0, statement


def url(folder):
    return f"sqlite:///{folder / 'epsopt.db'}"


def fresh(folder, turn):
    """The same project once more, as connections to the last one's database may be open."""
    again = folder.parent / f"{folder.name.partition('-')[0]}-{turn}"
    again.mkdir()
    for name in ("epsopt.toml", "whole.db"):
        shutil.copy(folder / name, again / name)
    shutil.copy(folder / "whole.db", again / "epsopt.db")
    return again


def honest(result):
    """Hold a command to what every command does: it works, or says in a sentence why not."""
    assert "defect" not in result.err, result.err
    assert "Traceback" not in result.err, result.err
    assert result.status == 0 or result.err.strip()


def test_an_intact_database_is_in_order_and_a_check_changes_nothing(folder):
    before = (folder / "epsopt.db").read_bytes()
    result = call(folder, "check", "--json")
    assert (result.status, json.loads(result.out)["damage"]) == (0, [])
    assert (folder / "epsopt.db").read_bytes() == before
    assert "in order" in " ".join(call(folder, "check").out.split())


def test_a_check_makes_no_database(tmp_path):
    result = call(tmp_path, "check", "--storage", f"sqlite:///{tmp_path / 'none.db'}")
    assert result.status == 1
    assert "epsopt ingest" in result.err
    assert not list(tmp_path.iterdir())


MAPS = {
    "cut": "UPDATE epsopt_artifacts SET data = substr(data, 1, 100)",
    "empty": "UPDATE epsopt_artifacts SET data = x''",
    "text": "UPDATE epsopt_artifacts SET data = 'a text'",
    "number": "UPDATE epsopt_artifacts SET data = 7",
    "no JSON": "UPDATE epsopt_artifacts SET meta = '{'",
    "a list": "UPDATE epsopt_artifacts SET meta = '[]'",
    "nothing in it": "UPDATE epsopt_artifacts SET meta = '{}'",
    "a shape that is a text": "UPDATE epsopt_artifacts SET meta = json_set(meta, '$.shape', 'wide', '$.digest', NULL)",
    "metrics that are numbers": "UPDATE epsopt_artifacts SET meta = json_set(meta, '$.metrics', 3)",
    "no validation": "UPDATE epsopt_artifacts SET meta = json_remove(meta, '$.validation', '$.digest')",
    "odd validation": "UPDATE epsopt_artifacts SET meta = json_set(json_remove(meta, '$.digest'), '$.validation.x', 1)",
    "another number": "UPDATE epsopt_artifacts SET meta = json_set(meta, '$.transforms[0].scale', 1e9)",
}


@pytest.mark.parametrize("kind", sweep(sorted(MAPS, key=lambda kind: kind not in ("cut", "number"))))
def test_a_damaged_map_is_named_with_the_command_that_learns_it_again(folder, kind):
    change(folder, MAPS[kind])
    for arguments in (LEARNED[0], LEARNED[1]):
        result = call(folder, *arguments)
        honest(result)
        assert result.status == 1
        assert "epsopt fit" in result.err or "epsopt check" in result.err or "ingest --repair" in result.err
    assert check_database(url(folder))
    with Catalogue(url(folder)) as catalogue:
        _, _, made = fit_map(catalogue, recipe=TrainingConfig(steps=2, batch=8), bounds={"accuracy": (0.0, 1.0)})
        assert made.how == "fitted"
        load_map(catalogue)
    assert check_database(url(folder)) == []


def test_one_flipped_bit_in_a_map_is_found(folder):
    with contextlib.closing(sqlite3.connect(folder / "epsopt.db")) as connection:
        (data,) = connection.execute("SELECT data FROM epsopt_artifacts").fetchone()
    at = len(data) - 40
    change(folder, "UPDATE epsopt_artifacts SET data = ?", data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    assert "not what was kept" in check_database(url(folder))[0].problem
    assert "epsopt fit" in call(folder, "search").err


def test_a_map_from_before_maps_had_a_digest_is_read(folder):
    change(folder, "UPDATE epsopt_artifacts SET meta = json_remove(meta, '$.digest')")
    assert check_database(url(folder)) == []
    assert call(folder, "search", "-n", "1").status == 0


ROWS = {
    "a version that is no number": "UPDATE epsopt_meta SET value = 'abc'",
    "an epoch that is a text": "UPDATE epsopt_checkpoints SET epoch = 'third' WHERE id = 2",
    "a run that is a text": "UPDATE epsopt_checkpoints SET run_id = 'x' WHERE id = 2",
    "a run that is not there": "UPDATE epsopt_checkpoints SET run_id = 99 WHERE id = 2",
    "metrics that are no JSON": "UPDATE epsopt_checkpoints SET metrics = '{' WHERE id = 2",
    "metrics that are a list": "UPDATE epsopt_checkpoints SET metrics = '[1]' WHERE id = 2",
    "a metric that is a text": 'UPDATE epsopt_checkpoints SET metrics = \'{"accuracy": "high"}\' WHERE id = 2',
    "bytes for a text": "UPDATE epsopt_checkpoints SET path = x'ff00' WHERE id = 2",
    "a text that is not UTF-8": "UPDATE epsopt_checkpoints SET metrics = CAST(x'ff7b7d' AS TEXT) WHERE id = 2",
    "hyperparameters that are a number": "UPDATE epsopt_runs SET hyperparameters = '3' WHERE id = 2",
    "a fingerprint cut short": "UPDATE epsopt_fingerprints SET data = substr(data, 1, 50) WHERE checkpoint_id = 2",
    "a fingerprint that is a text": "UPDATE epsopt_fingerprints SET data = 'text' WHERE checkpoint_id = 2",
    "no fingerprint": "DELETE FROM epsopt_fingerprints WHERE checkpoint_id = 2",
    "a damaged lineage": "UPDATE epsopt_lineages SET sketch = x'00'",
    "an inode that is no number": "UPDATE epsopt_files SET inode = 'many'",
    "a size that is a text": "UPDATE epsopt_files SET size = 'large'",
    "a SHA-256 that is none": "UPDATE epsopt_checkpoints SET sha256 = 'abc' WHERE id = 2",
}
QUICK_ROWS = ("an epoch that is a text", "a run that is not there", "metrics that are no JSON")


@pytest.mark.parametrize("kind", sweep(sorted(ROWS, key=lambda kind: kind not in QUICK_ROWS), quick=2))
def test_a_damaged_row_is_one_sentence_and_repaired_by_reading_it_again(folder, kind):
    change(folder, ROWS[kind])
    for arguments in COMMANDS[:-1]:  # an ingest mends some of it by itself
        honest(call(folder, *arguments))
    checked = call(folder, "check")
    assert checked.status == 1
    assert "epsopt ingest --repair" in checked.out
    repaired = call(folder, "ingest", "--repair", "-j", "1")
    assert repaired.status == 0, repaired.err
    assert "forgotten, to be read again" in repaired.err
    assert call(folder, "check").status == 0
    with Catalogue(url(folder)) as mended, Catalogue(f"sqlite:///{folder / 'whole.db'}") as was:
        there = {c.sha256: (c.epoch, c.metrics, c.hyperparameters) for c in was.checkpoints()}
        assert {c.sha256: (c.epoch, c.metrics, c.hyperparameters) for c in mended.checkpoints()} == there


STUDIES = {
    "an attribute that is no JSON": "UPDATE trial_user_attributes SET value_json = '{'",
    "a distribution that is no JSON": "UPDATE trial_params SET distribution_json = 'x'",
    "a state of its own": "UPDATE trials SET state = 'DREAMING'",
    "a value that is a text": "UPDATE trial_values SET value = 'much'",
    "a version that is no number": "UPDATE version_info SET schema_version = 'x'",
}


@pytest.mark.parametrize("kind", sweep(STUDIES))
def test_a_damaged_study_is_named_with_what_can_be_done(folder, kind):
    change(folder, STUDIES[kind])
    for arguments in (["search", "-n", "1"], ["propose", "-n", "1"], ["report"]):
        honest(call(folder, *arguments))
    checked = call(folder, "check")
    assert checked.status == 1
    assert "optuna " in checked.out


def cells(folder):
    """Every cell of the database: table, row and column."""
    with contextlib.closing(sqlite3.connect(folder / "epsopt.db")) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        for (table,) in connection.execute(query).fetchall():
            columns = [c[1] for c in connection.execute(f'PRAGMA table_info("{table}")').fetchall()]
            rows = [r[0] for r in connection.execute(f'SELECT rowid FROM "{table}"').fetchall()]
            for column in columns:
                yield from ((table, row, column) for row in rows[:3])


VALUES = ("x", "", -1, 3.5, None, b"\xff\x00", "{", "[]", "null", 10**18, "\x00", "1e999", '{"a": "b"}')


def spoil_a_cell(folder, chance):
    """Put a random value into a random cell; a constraint may keep it out."""
    table, row, column = chance.choice(list(cells(folder)))
    with contextlib.suppress(sqlite3.IntegrityError):
        change(folder, f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', chance.choice(VALUES), row)


def spoil_bytes(folder, chance):
    """Put random bytes in random places, and cut the end of the file off, or not."""
    data = bytearray((folder / "epsopt.db").read_bytes())
    for _ in range(chance.choice((1, 20, 400))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    (folder / "epsopt.db").write_bytes(bytes(data[: len(data) - chance.choice((0, 0, 5000))]))


@pytest.mark.parametrize("seed", sweep(range(4)))
@pytest.mark.parametrize(("spoil", "turns"), sweep([(spoil_a_cell, 6), (spoil_bytes, 4)], several=True))
def test_no_command_calls_random_damage_a_defect(folder, spoil, turns, seed):
    chance = random.Random(seed)
    for turn in range(turns):
        again = fresh(folder, turn)
        spoil(again, chance)
        for arguments in chance.sample([*COMMANDS, ["search", "-n", "1"], ["check"]], 3):
            honest(call(again, *arguments))
