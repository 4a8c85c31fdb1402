from __future__ import annotations

import os

import pytest

from epsopt.studies.optuna_io.run_output import output_files, output_tail


def put(file, text="epoch 1\nepoch 2: loss 0.5\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("where", ["last.pt", "checkpoints/last.pt", "version_0/checkpoints/epoch=1.ckpt"])
def test_the_output_lies_beside_the_checkpoint_or_above_its_folder(tmp_path, where):
    put(tmp_path / "run" / "stdout.txt")
    checkpoint = put(tmp_path / "run" / where, "")
    put(tmp_path / "all.log")
    assert output_files(str(checkpoint)) == [tmp_path / "run" / "stdout.txt"]
    assert output_tail(str(checkpoint)) == "==> stdout.txt <==\nepoch 1\nepoch 2: loss 0.5"


def test_a_log_of_all_runs_is_no_run_s_own(tmp_path):
    put(tmp_path / "all.log")
    assert output_files(str(put(tmp_path / "run" / "last.pt", ""))) == []


def test_links_and_pipes_and_empty_files_are_not_read(tmp_path):
    secret = put(tmp_path / "secret", "do not show")
    run = tmp_path / "run"
    checkpoint = str(put(run / "last.pt", ""))
    (run / "a.log").symlink_to(secret)
    os.mkfifo(run / "b.log")
    put(run / "c.log", "")
    (run / "d.log").mkdir()
    assert output_tail(checkpoint) == ""


def test_only_the_end_of_a_long_output_is_read_and_without_passwords_and_escapes(tmp_path):
    text = "x" * 100_000 + "\npostgresql://me:secret@host/db\x1b[2J\nlast\n"
    checkpoint = str(put(tmp_path / "run" / "last.pt", ""))
    put(tmp_path / "run" / "train.log", text)
    shown = output_tail(checkpoint)
    assert len(shown) < 1000
    assert "secret" not in shown
    assert "\x1b" not in shown
    assert shown.endswith("\nlast")
