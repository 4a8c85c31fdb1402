"""Pages and pictures: they reach no network, offer no upload, and show strangers' names as text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsopt import figures
from epsopt.cli.output import DOCUMENT_VERSION, one_line, plain, print_json
from epsopt.optimize.forecast.run_trajectory import RunTrajectory
from epsopt.optimize.latent.clusters import Clustering, Group
from epsopt.optimize.latent.embedding_projection import Preview
from epsopt.optimize.latent.trajectory import RunPath
from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.optuna_io.study_notes import curve_note
from epsopt.studies.output_files import is_ours, output_file
from epsopt.studies.pages import html_page
from epsopt.studies.pictures import save_picture
from epsopt.studies.report.document import ReportDocument, Section, Table
from epsopt.studies.report.verdict import Verdict
from epsopt.surrogate.plane import Plane, fit_plane
from epsopt.zoo.catalogue.types import Checkpoint
from epsopt.zoo.html_text import escaped

from ...sweeps import examples  # noqa: TID252
from ..fakes import COVERAGE, DIST_CORR, make_answers, make_zoo  # noqa: TID252

CHROMIUM = Path("/usr/bin/chromium")
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[2J\0\u202egnp.\u2066"
PLANE = fit_plane(torch.arange(12.0).reshape(6, 2))
ACTING = "\x1b\0\u202e\u2066\x9b"


def make_checkpoint(run, i=0, config=None, metrics=None):
    return Checkpoint(i, i, run, f"/runs/{i}.pt", f"{i:064x}", 1, metrics or {"loss": 0.1}, config or {}, "s", 1, 10)


@dataclass
class Flat:
    """A map whose latent space is its plane."""

    plane: Plane

    def plane_coordinates(self, z):
        return self.plane.coordinates(z)


def groups():
    places = np.arange(12.0).reshape(6, 2)
    found = Clustering((Group((0, 1, 2), 0, 0.9), Group((3, 4), 3, 0.8)), (5,), 0.5, (), 0.1, ())
    return figures.groups(Flat(PLANE), found, [make_checkpoint(EVIL)] * 6, places, title=EVIL)


def path():
    places = np.arange(12.0).reshape(6, 2)
    run = RunPath(EVIL, {}, np.array([1.0, 2.0, 3.0]), torch.from_numpy(places[:3]), np.array([[0.1], [0.2], [0.3]]))
    found = RunTrajectory(run, run, None, None, None, None, (EVIL,), counted_from_0=False)
    return figures.trajectory(Flat(PLANE), places, found)


def preview():
    points = {"predicted": np.ones((3, 2))}
    shown = Preview(np.ones((3, 2)), None, points, points, None, 0.5, None, None)
    return figures.embedding(shown, title=EVIL)


def way():
    point = SimpleNamespace(point={EVIL: 0.5}, low={EVIL: 0.4}, high={EVIL: 0.6})
    return figures.interpolation(
        [figures.Way(EVIL, [0.0, 1.0], [point] * 2, [{EVIL: 0.5}, None], [True, False])], [EVIL]
    )


def compared():
    return figures.calibration([figures.Comparison(EVIL, EVIL, 0.5, 0.4, 0.6, 0.55)] * 2, 0.9, title=EVIL)


def runs():
    some = [
        make_checkpoint(EVIL, i, config={EVIL: 0.1 * (i + 1), "kind": EVIL if i else "b"}, metrics={EVIL: 0.5 + i})
        for i in range(3)
    ]
    return figures.parallel([Objective(EVIL, maximize=True)], some, title=EVIL)


def samples():
    zoo = make_zoo()
    for checkpoint in zoo:
        checkpoint.run = EVIL
    return figures.sampling(
        [COVERAGE, DIST_CORR], zoo, make_answers(zoo), [Target("coverage", 0.5)], [{"coverage": 0.4, "dist_corr": 0.6}],
        title=EVIL,
    )  # fmt: skip


def fronts():
    zoo = make_zoo()
    for checkpoint in zoo:
        checkpoint.run = EVIL
    return figures.front([COVERAGE, DIST_CORR], zoo, make_answers(zoo))


def one_objective():
    zoo = make_zoo()
    for checkpoint in zoo:
        checkpoint.run = EVIL
    return figures.front([COVERAGE], zoo, targets=[Target("coverage", 0.5)])


def grown():
    return figures.hypervolume({EVIL: [1.0, 2.0], "other": [1.0, 1.5]}, title=EVIL)


FIGURES = {
    "groups": groups, "path": path, "preview": preview, "way": way, "compared": compared, "runs": runs,
    "samples": samples, "fronts": fronts, "one_objective": one_objective, "grown": grown,
}  # fmt: skip


def texts(value):
    """Every text in a figure's JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def report():
    """A report in which every text is a stranger's."""
    table = Table(EVIL, [EVIL], [[EVIL]])
    return ReportDocument(
        EVIL, [Verdict(EVIL, EVIL, EVIL)], [Section(EVIL, [EVIL], {"front": fronts()}, [table]), Section("empty")]
    )


@pytest.mark.parametrize("kind", FIGURES)
def test_every_text_of_a_figure_is_text(kind):
    found = list(texts(json.loads(FIGURES[kind]().to_json())))
    assert any("alert(1)" in text for text in found), "the name is shown"
    for text in found:
        assert not re.search(r"<(?!/?b>|br>)", text)
        assert not set(ACTING) & set(text)


def test_a_page_shows_what_is_in_a_name_and_obeys_none_of_it():
    page = report().html()
    assert "<img" not in page.replace("<img>", "")
    assert not set(ACTING) & set(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    assert "\\x1b[2J\\x00\\u202egnp." in page


def test_markdown_shows_what_is_in_a_name_and_obeys_none_of_it():
    text = report().markdown("pictures")
    assert "![" in text
    assert "](pictures/front.png)" in text
    assert not re.search(r"(?<!\\)<", text)
    assert not set(ACTING) & set(text)
    assert "## empty" not in text


def test_notes_carry_no_character_that_acts():
    note = curve_note(EVIL, COVERAGE, f"{EVIL}/runs")
    assert not set(ACTING) & set(note)


@given(st.text())
@settings(max_examples=examples(200), deadline=None)
def test_nothing_that_acts_reaches_a_terminal_or_a_page(text):
    assert one_line(text).isprintable()
    assert plain(text).replace("\n", "").isprintable()
    assert escaped(text).isprintable()
    assert not set("<>\"'") & set(escaped(text))
    if text.isprintable():
        assert one_line(text) == text, "what is printable is left as it is"


def test_json_on_a_terminal_obeys_nothing_and_is_the_same_json(capsys):
    print_json({"run": EVIL + "\x9b31m\U000e0001 é"})
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == {"version": DOCUMENT_VERSION, "run": EVIL + "\x9b31m\U000e0001 é"}


def test_pictures_and_pages_name_themselves_so_that_they_may_be_replaced(tmp_path):
    file = output_file(tmp_path / "p.html", (".html",), "a picture")
    save_picture(groups(), file)
    assert is_ours(file.path)
    (tmp_path / "other.html").write_text("<html></html>")
    assert not is_ours(tmp_path / "other.html")


def matrix():
    zoo = make_zoo()
    return figures.front([COVERAGE, DIST_CORR, COVERAGE], zoo, [])


@pytest.mark.parametrize("kinds", [("groups",), pytest.param(("path", "preview"), marks=pytest.mark.slow)])
def test_a_browser_draws_pages_that_reach_nothing_and_offer_no_upload(tmp_path, kinds):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    pages = {"report": report().html(), "bare": html_page(EVIL, f"<p>{escaped(EVIL)}</p>")}
    for kind in kinds:
        save_picture(FIGURES[kind](), output_file(tmp_path / f"{kind}.html", (".html",), "a picture"))
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text)
    asked, titles = [], {}
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        for file in sorted(tmp_path.glob("*.html")):
            page, errors = browser.new_page(), list[str]()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda said, errors=errors: errors.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.on("dialog", lambda dialog, errors=errors: errors.append(dialog.message) or dialog.dismiss())
            page.goto(file.as_uri())
            if file.stem != "bare":
                page.locator("svg.main-svg").first.wait_for(timeout=30_000)
                assert page.locator("path.point").count() > 0
            titles[file.stem] = page.locator("[data-title]").evaluate_all("e => e.map(x => x.dataset.title)")
            assert errors == []
            # What comes in with a text runs not even where it reaches the page; a browser may say so more than once.
            page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(3)>')")
            assert [e for e in errors if "Content Security Policy" in e]
            page.close()
            assert [e for e in errors if "Content Security Policy" not in e and "ERR_FILE_NOT_FOUND" not in e] == []
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert titles["report"], "the report has a toolbar"
    for buttons in titles.values():
        assert not [b for b in buttons if re.search(r"share|cloud|upload|edit|studio", b, re.IGNORECASE)]


def test_a_figure_without_a_title_is_a_page_too():
    assert "<title>epsopt</title>" in html_page("epsopt", figure=go.Figure())
