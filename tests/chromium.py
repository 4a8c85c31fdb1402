"""A page in Chromium, with everything that it asked for and everything that went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@dataclass
class Opened:
    """A page and what came of it.

    Attributes:
        page: Playwright's.
        asked: addresses that were requested.
        errors: what the console, scripts and answers complained of.
    """

    page: Any
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def reached(self, *own: str) -> list[str]:
        """Return the requests that went elsewhere than to these."""
        return [url for url in self.asked if not url.startswith((*own, "data:", "blob:"))]


_kept: list[Any] = []


@contextmanager
def one_browser() -> Iterator[None]:
    """Have all pages that are opened meanwhile share one browser; each still has a profile of its own."""
    with ExitStack() as stack:
        _kept.append(stack)
        yield
        _kept.clear()


@contextmanager
def _browser() -> Iterator[Any]:
    """A browser that ends with the block, or with that of `one_browser`."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    if _kept[1:]:
        yield _kept[1]
        return
    with ExitStack() as own:
        stack = _kept[0] if _kept else own
        playwright = stack.enter_context(sync_api.sync_playwright())
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        stack.callback(browser.close)
        if _kept:
            _kept.append(browser)
        yield browser


@contextmanager
def opened(width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Opened]:
    """Open an empty page; the test skips, and says so, where there is no Chromium."""
    with _browser() as browser:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        found = Opened(context.new_page())
        page = found.page
        page.set_default_timeout(0)  # a busy machine takes its time
        page.on("request", lambda request: found.asked.append(request.url))
        page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("dialog", lambda dialog: found.errors.append(dialog.message) or dialog.dismiss())
        page.on("response", lambda r: found.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        try:
            yield found
        finally:
            context.close()
