"""What MkDocs does besides rendering: gives mkdocstrings the rooms, and puts files from outside docs/ into the site.

The rooms sit at the repository's root and are imported as epsopt.*; mkdocstrings reads sources, not installed packages,
so it gets a folder in which they have their imported names. Pages link to benchmark outputs and to CONTRIBUTING.md
where they lie in the repository; in the site these are files of its own.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOMS = ("zoo", "surrogate", "optimize", "figures", "studies", "cli", "demo")
# Folder or file of the repository that pages link to -> its place in the site.
OUTSIDE = {
    "benchmarks/results": "benchmarks/results",
    "benchmarks/README.md": "benchmarks/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "tests/hostile/README.md": "hostile-files.md",
    "README.md": "index.md",
}
# Pages with a wide picture or table, which need the room of a menu.
HIDDEN = {"index.md": ["navigation", "toc"], "reference/layouts.md": ["toc"], "evaluation/scheduler.md": ["toc"]}
_LINK = re.compile(r"(\]\(|\]: )((?:\.\./)*)([^)\s#:]+)")


def on_startup(**_: object) -> None:
    """Make a folder in which each room lies under its imported name, before mkdocstrings looks for it."""
    source = ROOT / "build" / "docs-source" / "epsopt"
    source.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = source / room
        if not link.is_symlink():
            link.symlink_to(ROOT / room, target_is_directory=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/."""
    for outside, place in OUTSIDE.items():
        if place == "index.md":  # docs/ has one of its own
            continue
        for path in sorted((ROOT / outside).glob("*.txt")) if (ROOT / outside).is_dir() else [ROOT / outside]:
            uri = f"{place}/{path.name}" if (ROOT / outside).is_dir() else place
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs' call
    """Lead links out of docs/ to the copies in the site."""
    page.meta["hide"] = HIDDEN.get(page.file.src_uri, [])
    here = _home(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        opening, up, rest = match.groups()
        target = _resolved(here.parent, up + rest)
        place = _place(target)
        if place is None:
            return match[0]
        above = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{opening}{above}{place}"

    return _LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs' call
    """Leave out the mark that click puts where an option has no default."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def _home(uri: str) -> PurePosixPath:
    """Return where the page of that name lies in the repository."""
    for outside, place in OUTSIDE.items():
        if place == uri:
            return PurePosixPath(outside)
    return PurePosixPath("docs") / uri


def _resolved(folder: PurePosixPath, link: str) -> str:
    parts: list[str] = []
    for part in (*folder.parts, *PurePosixPath(link).parts):
        if part == "..":
            if not parts:
                return ""
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _place(target: str) -> str | None:
    """Return the place in the site of a file of the repository; None: it has none, or the link needs no change."""
    if target in OUTSIDE:
        return OUTSIDE[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    folder, _, name = target.rpartition("/")
    if folder in OUTSIDE and name.endswith(".txt"):
        return f"{OUTSIDE[folder]}/{name}"
    return None
