"""Where a command writes what the user asked for: whole, marked as epsopt's, and over nothing that is not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from epsopt.studies.output_files import is_ours, output_file
from epsopt.studies.output_paths import free_name, new_folder, save_folder
from epsopt.studies.project.project import load_project
from epsopt.studies.project.template import write_project
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.errors import EpsoptError, UsageError
from epsopt.zoo.files import atomic_file, claimed_folder

PAGE = b'<html><head><meta name="generator" content="made by epsopt"></head></html>'
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501"
    "0127c3dc8d0000000049454e44ae426082"
)


def names(folder):
    return [p.name for p in folder.iterdir()]


def page(path, **how):
    return output_file(path, (".html", ".htm"), "a report", **how)


@pytest.mark.parametrize("name", ["epoch_000.pt", "epsopt.toml", "report", "epsopt.db", "report.html.safetensors"])
def test_a_file_of_another_kind_is_never_written_over(tmp_path, name):
    (tmp_path / name).write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"saved as \.html or \.htm"):
            page(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "precious"


def test_what_epsopt_made_is_replaced_and_anything_else_only_when_asked(tmp_path):
    file = tmp_path / "report.html"
    page(file).write(PAGE)
    page(file).write(PAGE + b"<!-- again -->")
    assert file.read_bytes().endswith(b"again -->")
    file.write_text("<html>the user's own</html>")
    with pytest.raises(UsageError, match=r"did not make it.*--overwrite"):
        page(file)
    assert "own" in file.read_text()
    page(file, overwrite=True).write(PAGE)
    assert is_ours(file)


def test_a_file_that_comes_to_be_there_meanwhile_is_kept(tmp_path):
    checked = page(tmp_path / "report.html")
    (tmp_path / "report.html").write_text("of somebody else")
    with pytest.raises(UsageError, match="did not make it"):
        checked.write(PAGE)
    assert (tmp_path / "report.html").read_text() == "of somebody else"


def test_no_file_of_a_run_is_replaced_even_when_asked(tmp_path):
    run = tmp_path / "runs" / "base"
    run.mkdir(parents=True)
    (run / "curves.html").write_text("the run's")
    with pytest.raises(UsageError, match="file of the run"):
        page(run / "curves.html", overwrite=True, runs=[str(run)])
    link = tmp_path / "link.html"
    link.symlink_to(run / "curves.html")
    with pytest.raises(UsageError, match="file of the run"):
        page(link, overwrite=True, runs=[str(run)])
    page(run / "new.html", runs=[str(run)]).write(PAGE)
    page(run / "new.html", runs=[str(run)]).write(PAGE)


def test_a_link_to_something_else_is_not_a_way_around(tmp_path):
    (tmp_path / "weights.pt").write_text("weights")
    (tmp_path / "report.html").symlink_to(tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="saved as"):
        page(tmp_path / "report.html", overwrite=True)
    assert (tmp_path / "weights.pt").read_text() == "weights"


def test_folders_pipes_and_missing_folders_are_one_sentence(tmp_path):
    (tmp_path / "d.html").mkdir()
    os.mkfifo(tmp_path / "p.html")
    for name in ("d.html", "p.html"):
        with pytest.raises(UsageError, match="not a regular file"):
            page(tmp_path / name, overwrite=True)
    with pytest.raises(UsageError, match="no folder"):
        page(tmp_path / "none" / "r.html")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "report.html"
    page(file).write(PAGE)
    with pytest.raises(ZeroDivisionError), atomic_file(file, replace=True) as half:
        half.write(b"half" if 1 // 0 else b"")
    assert file.read_bytes() == PAGE
    assert names(tmp_path) == ["report.html"]


def test_files_have_the_mode_that_the_umask_leaves_and_keep_their_own(tmp_path):
    old = os.umask(0o027)
    try:
        page(tmp_path / "a.html").write(PAGE)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.html").stat().st_mode) == 0o640
    (tmp_path / "a.html").chmod(0o604)
    page(tmp_path / "a.html").write(PAGE)
    assert stat.S_IMODE((tmp_path / "a.html").stat().st_mode) == 0o604


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    page(tmp_path / f"{'n' * 250}.html").write(PAGE)
    assert len(names(tmp_path)) == 1


def test_arrays_and_pictures_carry_the_mark_and_are_still_what_they_are(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.arange(3))
    arrays = output_file(tmp_path / "a.npz", (".npz",), "arrays")
    arrays.write((tmp_path / "plain.npz").read_bytes())
    assert is_ours(arrays.path)
    assert not is_ours(tmp_path / "plain.npz")
    assert zipfile.ZipFile(arrays.path).testzip() is None
    with np.load(arrays.path) as found:
        assert found["a"].tolist() == [0, 1, 2]
    picture = output_file(tmp_path / "a.svg", (".svg",), "a picture")
    picture.write(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    assert is_ours(picture.path)
    pixel = output_file(tmp_path / "a.png", (".png",), "a picture")
    pixel.write(PIXEL)
    assert is_ours(pixel.path)
    image = pytest.importorskip("PIL.Image").open(pixel.path)
    image.load()
    assert image.info["Software"] == "made by epsopt"


def test_many_at_once_never_get_one_folder(tmp_path):
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(new_folder(tmp_path / "runs", "merge"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16
    assert free_name(tmp_path / "runs", "merge").name == "merge_017"
    assert not (tmp_path / "runs" / "merge_017").exists(), "a name alone makes nothing"


HOLD = """
import sys
from pathlib import Path
from epsopt.zoo.files import claimed_folder
with claimed_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_that_another_command_writes_into_is_refused_until_it_ends(tmp_path):
    folder = tmp_path / "merged"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="another command is writing into"), claimed_folder(folder):
        pass
    holder.kill()
    holder.communicate()
    with claimed_folder(folder):
        (folder / "m.pt").write_text("x")
    assert folder.exists()


def test_a_folder_that_nothing_came_into_is_gone_again(tmp_path):
    with save_folder(None, tmp_path / "runs", "merge") as folder:
        assert folder.is_dir()
    with save_folder(tmp_path / "mine" / "deep", tmp_path / "runs", "merge") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert names(tmp_path / "runs") == []
    (tmp_path / "empty").mkdir()
    with save_folder(tmp_path / "empty", tmp_path / "runs", "merge"):
        pass
    assert (tmp_path / "empty").exists(), "the user's own folder stays"


def test_nothing_is_saved_into_the_folder_of_a_run(tmp_path):
    run = tmp_path / "runs" / "base"
    run.mkdir(parents=True)
    known = [Checkpoint(1, 1, "base", str(run / "epoch_1.pt"), "x", 1, {}, {}, "s", 1, 9)]
    with pytest.raises(UsageError, match="holds checkpoints of the run base"), save_folder(run, tmp_path, "m", known):
        pass
    with save_folder(run / "merged", tmp_path, "m", known):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="expected a folder"), claimed_folder(place):
            pass
    with pytest.raises(EpsoptError, match="no folder can be made"):
        new_folder(tmp_path / "file", "merge")


def test_a_project_file_replaces_only_a_project_file(tmp_path):
    said = {"name": "p", "runs": "runs", "objectives": []}
    for name, text in (("pyproject.toml", "[build-system]\nrequires = []\n"), ("weights.pt", "weights")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=r"left alone|ends in \.toml"):
            write_project(tmp_path / name, **said, overwrite=True)
        assert (tmp_path / name).read_text() == text
    (tmp_path / "other.toml").write_text('[project]\nname = "old"\n')
    assert write_project(tmp_path / "other.toml", **said, overwrite=True)
    (tmp_path / "epsopt.toml").write_text("damaged [")
    assert write_project(tmp_path / "epsopt.toml", **said, overwrite=True)


def test_a_name_that_the_file_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    for wrong in ({"name": "a/b"}, {"name": "x" * 101}, {"name": "a\x1bb"}, {"embed": "nonsense"}):
        with pytest.raises(UsageError, match="expected"):
            write_project(tmp_path / "epsopt.toml", **{"name": "p", "runs": "runs", "objectives": [], **wrong})
    assert names(tmp_path) == []
    write_project(tmp_path / "epsopt.toml", name="p", runs="runs", objectives=[])
    before = (tmp_path / "epsopt.toml").read_bytes()
    with pytest.raises(UsageError):
        write_project(tmp_path / "epsopt.toml", name="a/b", runs="runs", objectives=[], overwrite=True)
    assert (tmp_path / "epsopt.toml").read_bytes() == before
    assert load_project(tmp_path / "epsopt.toml").name == "p"
