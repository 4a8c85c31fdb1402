"""A hook that is not there is noticed without importing anything."""

from __future__ import annotations

from epsopt.studies.project.written_hooks import lack_of_hook


def test_a_misspelt_function_or_module_is_noticed_before_it_is_needed(tmp_path):
    (tmp_path / "my_hooks.py").write_text(
        "raise RuntimeError()\nfrom elsewhere import given as taken\n\ndef evaluate(state): ...\n\nother = 1\n"
    )
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("def embed(state): ...\n")
    for there in ("my_hooks:evaluate", "my_hooks:taken", "my_hooks:other", "my_hooks:seed=1", "parts:embed"):
        kind = "embed" if there.startswith("parts") else "evaluate"
        assert lack_of_hook(there, kind, tmp_path) is None, there
    assert "did you mean evaluate?" in (lack_of_hook("my_hooks:evalute", "evaluate", tmp_path) or "")
    assert "'calibrate'" in (lack_of_hook("my_hooks:batches=3", "calibrate", tmp_path) or "")
    assert "no module my_hook in" in (lack_of_hook("my_hook:evaluate", "evaluate", tmp_path) or "")


def test_nothing_is_said_where_only_an_import_would_tell(tmp_path):
    (tmp_path / "starred.py").write_text("from elsewhere import *\n")
    (tmp_path / "lazy.py").write_text("def __getattr__(name): ...\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    for spec in ("starred:f", "lazy:f", "broken:f", "json:loads", "no form", ":f"):
        assert lack_of_hook(spec, "evaluate", tmp_path) is None, spec
