"""Code refers to nothing that is not in the repository: files, modules and members exist under the names it uses."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("zoo", "surrogate", "optimize", "figures", "studies", "cli", "hooks", "demo", "benchmarks")
FILES = sorted(f for room in ROOMS for f in (ROOT / room).rglob("*.py"))
NAMES = {f.name for folder in (*ROOMS, "tests", "docs") for f in (ROOT / folder).rglob("*")}
PATH = re.compile(rf"\b(?:docs|tests|seeds|{'|'.join(ROOMS)})/[\w./-]*\w\.(?:py|md|json|txt)\b")
FILE = re.compile(r"``([a-z_]+\.py)``|\(([a-z_]+\.py)\)")
ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([\w.]+)`")
PLAN = re.compile(r"\bD\d{1,2}\b|\bFACTS\b|\bHOUSE\b")
USERS = {"train.py", "model.py", "finetune.py", "random.py", "dill.py"}  # files that users may have


def resolves(name: str, text: str) -> bool:
    """Whether a name that a docstring refers to is a module, a member of one, or a name of the same file."""
    parts = name.split(".")
    if parts[0] != "epsopt":
        return re.search(rf"\b{re.escape(parts[-1])}\b", re.sub(ROLE, "", text)) is not None
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a former name
            for part in parts[i:]:
                try:
                    found = getattr(found, part) if hasattr(found, part) else found.__annotations__[part]
                except (FutureWarning, KeyError, AttributeError):
                    return False
        return True
    return False


@pytest.mark.parametrize("room", ROOMS)
def test_what_code_refers_to_is_in_the_repository(room):
    missing = []
    for file in (f for f in FILES if f.parts[len(ROOT.parts)] == room):
        text, where = file.read_text(encoding="utf-8"), file.relative_to(ROOT)
        missing += [f"{where}: {p}" for p in PATH.findall(text) if not (ROOT / p).exists()]
        missing += [f"{where}: {a or b}" for a, b in FILE.findall(text) if (a or b) not in NAMES | USERS]
        missing += [f"{where}: {p}" for p in PLAN.findall(text)]
        missing += [f"{where}: {n}" for n in ROLE.findall(text) if not resolves(n, text)]
    assert missing == []


def test_the_check_finds_what_is_missing():
    assert PATH.findall("as seeds/a_paper.md says") == ["seeds/a_paper.md"]
    assert not resolves("epsopt.zoo.nowhere.Nothing", "")
    assert not resolves("epsopt.optimize.Policy", ""), "a former name"
    assert resolves("epsopt.zoo.catalogue.catalogue.Catalogue.runs", "")
