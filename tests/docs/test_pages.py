"""Pages, code and menus refer to what exists, in words of the field."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel

from epsopt.studies.project.schema import ProjectFile

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")]
ROOMS = ("zoo", "surrogate", "optimize", "figures", "studies", "cli", "hooks", "demo")
SOURCES = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
_FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
# Words of conversation, and references that only those who were there can follow.
_NOT_OURS = re.compile(
    r"\b(told|promis\w*|brought|troubles?|believed|setbacks?|hopeless|mixtures?(?! models))\b"
    r"|\bD\d+\b|FACTS\.md|HOUSE\.md|†",
    re.IGNORECASE,
)


_NO_NAMES = {"beside", "said", "sides", "told"}
"""Words of names that do not say what a thing is: a metric, a message, an attribute, a side file."""


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_of_the_repository_and_a_heading(page):
    for link, anchor in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / link).resolve() if link else page
        assert target.exists(), f"{link} is not there"
        if anchor and target.suffix == ".md" and not anchor.startswith("epsopt."):
            assert anchor in _anchors(target), f"{link} has no heading #{anchor}"


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_speaks_the_words_of_the_field(page):
    prose = re.sub(r"`[^`]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    found = [match[0] for match in _NOT_OURS.finditer(prose)]
    assert found == []


# Names of earlier versions, which old databases and imports still have.
_FORMER_NAMES = {"migrations.py", "revision_2.py", "revision_3.py", "__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_names_and_comments_of_a_room_are_the_fields_words(room):
    files = [f for f in SOURCES if f.relative_to(ROOT).parts[0] == room and f.name not in _FORMER_NAMES]
    assert files
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        for match in _NOT_OURS.finditer(re.sub(r"[_\d]+", " ", file.read_text(encoding="utf-8")))
    ]
    found += [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in _names(ast.parse(file.read_text(encoding="utf-8")))
        if _NO_NAMES.intersection(name.lower().split("_"))
    ]
    assert found == []


# Former names that a migration is tested with, and the words themselves.
_OLD_WORDS = {"test_migrations.py", "test_revision_2.py", "test_revision_3.py", "test_pages.py"}
_NOT_PROSE = {"Promise"}  # JavaScript's


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_names_and_comments_of_tests_and_benchmarks_are_the_fields_words(folder):
    files = [f for f in (ROOT / folder).rglob("*.py") if f.name not in _OLD_WORDS]
    assert files
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        for match in _NOT_OURS.finditer(re.sub(r"[_\d]+", " ", file.read_text(encoding="utf-8")))
        if match[0] not in _NOT_PROSE
    ]
    assert found == []


def _names(tree: ast.AST) -> set[str]:
    """Names of variables, attributes, parameters, functions and classes."""
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg", ast.alias: "asname"}
    found = {getattr(node, fields[type(node)]) for node in ast.walk(tree) if type(node) in fields}
    found |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found - {None}


def test_every_page_and_folder_of_the_docs_that_code_names_exists():
    named = {(file, path) for file in SOURCES for path in re.findall(r"\bdocs/[\w./-]*\w", file.read_text("utf-8"))}
    assert named
    assert [f"{file}: {path}" for file, path in named if not (ROOT / path).exists()] == []


def test_every_benchmark_output_is_named_by_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in [*OUTSIDE, *PAGES])
    outputs = sorted(file.name for file in (ROOT / "benchmarks" / "results").glob("*.txt"))
    assert outputs
    assert [name for name in outputs if f"results/{name}" not in text] == []


def test_a_decision_states_its_question_its_figures_and_what_was_decided():
    pages = [p for p in (DOCS / "decisions").glob("*.md") if p.name not in ("index.md", "without-figures.md")]
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [part for part in ("**Question.**", "**Figures.**", "**Decided.**") if part not in text] == [], page
        assert re.search(r"`(python benchmarks/\w+\.py|make bench|\.venv/bin/pytest)", text), page
        assert f"({page.name})" in index, page


def _keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for part in re.findall(r"\w+Table", str(field.annotation)):
            keys |= _keys(vars(__import__(model.__module__, fromlist=[part]))[part])
    return keys


def test_the_page_on_the_project_file_describes_every_key():
    page = (DOCS / "reference" / "project-file.md").read_text(encoding="utf-8")
    described = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`\n]+)`", page))))
    described |= {part for name in described for part in name.split(".")}
    assert _keys(ProjectFile) - described == set()


def test_the_page_on_documents_lists_every_schema():
    page = (DOCS / "reference" / "json.md").read_text(encoding="utf-8")
    schemas = {file.name for file in (DOCS / "schemas").glob("*.json")}
    assert schemas
    assert set(re.findall(r"\[(\S+\.json)\]", page)) == schemas


def test_every_file_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./-]+\.(?:py|toml|md|txt|sh))`", text) if name != "epsopt.toml"}
    assert len(named) > 15
    places = [ROOT, ROOT / "zoo" / "layouts", ROOT / "tests" / "zoo" / "layouts"]
    assert [name for name in named if not any((place / name).is_file() for place in places)] == []


def test_make_help_lists_every_target_with_one_line():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+) +\S.*$", shown, re.MULTILINE) == targets[1].split()


def test_every_name_of_a_room_that_a_page_mentions_is_public():
    mentioned = {
        (page.name, room, name)
        for page in [*OUTSIDE, *PAGES]
        for room, name in re.findall(r"`epsopt\.(zoo|surrogate|optimize|studies)\.(\w+)", page.read_text("utf-8"))
    }
    assert mentioned
    wrong = [m for m in mentioned if m[2] not in importlib.import_module(f"epsopt.{m[1]}").__all__]
    assert wrong == []
