"""The page in Chromium, on names that act where they are not escaped, and as one file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from epsopt.figures.axis_scale import AxisScale
from epsopt.optimize.objectives import Objective
from epsopt.studies.explore.columns import described
from epsopt.studies.explore.page import exported
from epsopt.studies.schedule.budget import MeasuredMerge
from epsopt.zoo.layouts.parsed import RECOMBINED
from epsopt.zoo.reading.text import visible

from ...chromium import opened  # noqa: TID252
from ...sweeps import sweep  # noqa: TID252
from .conftest import EVIL, OBJECTIVES

pytestmark = pytest.mark.usefixtures("one_browser")

SHOWN = visible(EVIL)


def box(page, plot, left, top, right, bottom):
    """Draw a box over a plot, its ends as shares of the plot's size."""
    page.locator(f"#{plot} .canvases").scroll_into_view_if_needed()
    place = page.locator(f"#{plot} .canvases").bounding_box()
    at = lambda x, y: (place["x"] + x * place["width"], place["y"] + y * place["height"])  # noqa: E731
    page.mouse.move(*at(left, top))
    page.mouse.down()
    page.mouse.move(*at(right, bottom), steps=3)
    page.mouse.up()


def ready(page, url):
    page.goto(url)
    page.wait_for_selector("body[data-ready]")


@pytest.mark.parametrize("served", [True, False])
def test_names_from_files_are_text_wherever_they_are_shown(server, snapshot, tmp_path, served):
    file = tmp_path / "page.html"
    file.write_bytes(exported(snapshot))
    url = server.url if served else file.as_uri()
    with opened() as found:
        page = found.page
        ready(page, url)
        row = page.locator("#runs tbody tr", has_text="alert(1)")
        assert SHOWN in row.inner_text()
        row.get_by_role("button", name="details").click()
        page.wait_for_selector("#neighbours")
        assert SHOWN in page.inner_text("#details h3")
        assert "alert(1)" in page.inner_text("#path")
        page.select_option("#colour", f"hyperparameter:{EVIL}")
        assert "alert(2)" in page.inner_text("#legend")
        page.locator("#map .canvases").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("img, script:not([src]):not([type='text/plain']):not([type='module'])").count() == 0
        assert page.title() == "the zoo: explore"
        assert found.errors == []
        # What comes in with a text runs not even where it reaches the page; a browser may say so more than once.
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(3)>')")
        blocked = [e for e in found.errors if "Content Security Policy" in e]
    assert blocked
    assert [e for e in found.errors if "Content Security Policy" not in e] == []
    assert found.reached(server.url if served else "file:") == []


def test_the_file_shows_what_the_page_shows_without_asking_anyone(server, snapshot, tmp_path):
    file = tmp_path / "page.html"
    file.write_bytes(exported(snapshot))
    shown = {}
    with opened() as found:
        for url in (server.url, file.as_uri()):
            page = found.page
            ready(page, url)
            box(page, "map", 0.1, 0.05, 0.6, 0.9)
            counts, front = page.inner_text("#counts"), page.inner_text("#runs")
            page.keyboard.press("Escape")
            page.locator("#runs tbody tr").first.get_by_role("button", name="details").click()
            page.wait_for_selector("#apart, #alike")
            shown[url] = (counts, front, page.inner_text("#neighbours"), page.inner_text("#path"))
        asked = [url for url in found.asked if url.startswith("file:")]
    assert shown[server.url] == shown[file.as_uri()]
    assert "selected" in shown[server.url][0]
    assert asked == [file.as_uri()], "nothing but the file itself"
    assert found.errors == []


def of(snapshot, rows, objectives=OBJECTIVES, **changes):
    """A snapshot of some checkpoints, each changed."""
    kept = tuple(replace(snapshot.checkpoints[i], **changes) for i in rows)
    return replace(
        snapshot,
        objectives=objectives,
        checkpoints=kept,
        latents=snapshot.latents[rows],
        learned=snapshot.learned[rows],
    )


ODD = {"nan": math.nan, "inf": math.inf, "huge": 10**400, "list": [1, "<b>"], "none": None, "flag": True, "": "empty"}
VARIANTS = {
    "one objective, no epochs": lambda s: of(s, list(range(20)), OBJECTIVES[:1], epoch=None),
    "an objective that was never measured": lambda s: of(
        s, list(range(20)), (*OBJECTIVES, Objective("f1", maximize=True))
    ),
    "nothing varies": lambda s: of(s, list(range(20)), metrics={"coverage": 0.5, "structure": 0.5}, hyperparameters={}),
    "one run": lambda s: of(s, list(range(5))),
    "one checkpoint": lambda s: of(s, [4]),
    "odd hyperparameters": lambda s: of(s, list(range(10)), hyperparameters=ODD),
    "no metric measured": lambda s: of(s, list(range(10)), metrics={"coverage": None}),
    "another architecture": lambda s: of(s, list(range(10)), signature="another"),
}


@pytest.mark.parametrize("name", sweep(VARIANTS, quick=3))
def test_whatever_is_missing_the_page_shows_the_rest(snapshot, tmp_path, name):
    file = tmp_path / "page.html"
    file.write_bytes(exported(VARIANTS[name](snapshot)))
    with opened() as found:
        page = found.page
        ready(page, file.as_uri())
        box(page, "map", 0.02, 0.02, 0.98, 0.9)
        page.locator("#runs tbody tr").first.get_by_role("button", name="details").click()
        page.wait_for_selector("#path")
        for select in ("#colour", "#across", "#up"):
            for value in page.locator(f"{select} option").evaluate_all("e => e.map(o => o.value)"):
                page.select_option(select, value)
        page.keyboard.press("Escape")
        assert page.locator("#counts").inner_text() == ""
    assert found.errors == []


def test_a_checkpoint_without_a_place_says_so_instead_of_its_neighbours(server, snapshot):
    broken = snapshot.checkpoints[-2]
    with opened() as found:
        page = found.page
        ready(page, f"{server.url}#chosen={broken.id}")
        page.wait_for_selector("#details .error")
        assert "NaN" in page.inner_text("#details .error")
        assert "1 without a value here" in page.inner_text("#map-said")


@pytest.mark.parametrize(
    "scale", sweep([AxisScale(0.0, 100.0, 3.0, flipped=True), AxisScale(1.0, 1.0, 4.0), AxisScale(100.0, 50.0, 2.5)])
)
def test_axes_are_scaled_as_in_every_other_picture(server, scale):
    values = [scale.bound, *(scale.bound + (1 if scale.flipped else -1) * scale.unit * 10.0**-k for k in range(7))]
    with opened() as found:
        page = found.page
        ready(page, server.url)
        script = """async ([values, scale]) => {
            const { scaleOf, ticks } = await import('/static/scales.js');
            const made = scaleOf({ scale });
            const at = values.map(made.to);
            return [at, at.map(made.from), ticks([Math.min(...at), Math.max(...at)], made, 6, String)];
        }"""
        at, back, ticks = page.evaluate(script, [values, described(scale)])
    assert at == pytest.approx(scale(values).tolist())
    kept = [v if abs(a) < scale.cap else scale.bound for v, a in zip(values, at, strict=True)]
    assert back == pytest.approx(kept)
    assert 2 <= len(ticks) <= 12
    assert [t["at"] for t in ticks] == pytest.approx(scale([float(t["text"]) for t in ticks]).tolist())


def test_a_merge_is_drawn_from_its_parents_which_are_one_click_away(snapshot, tmp_path):
    merge = replace(snapshot.checkpoints[40], hyperparameters={RECOMBINED: True})
    ends = (snapshot.checkpoints[3].sha256, snapshot.checkpoints[20].sha256)
    checkpoints = tuple(merge if i == 40 else c for i, c in enumerate(snapshot.checkpoints))
    drawn = {}
    for name, merges in {
        "with": (MeasuredMerge(0.1, 0.2, 1.0, 1.0, path=merge.path, ends=ends),),
        "without": (),
    }.items():
        file = tmp_path / f"{name}.html"
        file.write_bytes(exported(replace(snapshot, checkpoints=checkpoints, merges=merges)))
        with opened() as found:
            page = found.page
            ready(page, f"{file.as_uri()}#chosen={merge.id}")
            page.wait_for_selector("#neighbours")
            drawn[name] = page.evaluate("document.querySelector('#map canvas.top').toDataURL()")
            said = page.inner_text("#details")
            if merges:
                parent = f"{checkpoints[20].run}:{checkpoints[20].epoch}"
                assert "merged from" in said
                page.locator("#details").get_by_role("button", name=parent, exact=True).first.click()
                page.wait_for_function("t => document.querySelector('#details h3').textContent === t", arg=parent)
        assert found.errors == []
    assert drawn["with"] != drawn["without"]


def test_beside_neighbours_stand_the_metrics_of_the_axes_where_all_do_not_fit(snapshot, tmp_path):
    more = ("accuracy", "f1", "loss")
    wide = tuple(replace(c, metrics={**c.metrics, **dict.fromkeys(more, 0.5)}) for c in snapshot.checkpoints)
    objectives = (*(Objective(name, maximize=True) for name in more), *OBJECTIVES)
    file = tmp_path / "page.html"
    file.write_bytes(exported(replace(snapshot, checkpoints=wide, objectives=objectives)))
    with opened() as found:
        page = found.page
        ready(page, f"{file.as_uri()}#across=metric:coverage&up=metric:structure&chosen={wide[7].id}")
        page.wait_for_selector("#neighbours")
        heads = page.locator("#neighbours thead th").all_inner_texts()
    assert heads[2:] == ["coverage", "structure", "accuracy"]
    assert found.errors == []


def test_the_banner_says_first_how_proposals_fared(server):
    accuracy = [{"name": "a", "error": 0.1, "inside": 3, "n": 4}, {"name": "b", "error": 0.2, "inside": 2, "n": 4}]
    with opened() as found:
        page = found.page
        ready(page, server.url)
        script = """async (accuracy) => {
            const { showTrust } = await import('/static/trust.js');
            const data = await (await fetch('/about.json')).json();
            data.trust.proposals = { text: '4 proposals', accuracy, gain: { before: 1, after: 1.5, relative: 0.5 } };
            showTrust(document.getElementById('trust'), data);
        }"""
        page.evaluate(script, accuracy)
        assert "Of proposals, 5 of 8 measured values inside." in page.inner_text("#trust summary")
        page.locator("#trust summary").click()
        assert "from 1 to 1.5" in page.inner_text("#fared")
    assert found.errors == []


def test_answers_in_two_metrics_are_rows_of_one_table(server):
    with opened() as found:
        page = found.page
        ready(page, server.url)
        page.get_by_role("button", name="Search the map").click()
        page.wait_for_selector("#answers tbody tr, #answers .error")
        assert page.locator("#answers table").count() == 1
        assert page.locator("#answers thead th").all_inner_texts() == ["#", "coverage", "structure", "P", "nearest"]
    assert found.errors == []


def test_answers_in_many_metrics_stand_below_each_other_with_all_that_belongs_to_them(server):
    script = """async (names) => {
        const { Targets } = await import('/static/targets.js');
        const column = { values: Float64Array.from([0, 1, 2]) };
        const data = { objectives: names.map((name) => ({ name, maximize: true })), metrics: names, n: 3,
            server: true, writes: true, evaluates: true, label: (row) => `run_${row}:1`,
            byKey: new Map(names.map((n) => [`metric:${n}`, column])) };
        const state = { data, get: () => ({}), on: () => null, set: (changes) => { window.picked = changes; } };
        const root = document.getElementById('targets');
        const targets = new Targets(root, state, () => null);
        const predicted = Object.fromEntries(names.map((n, i) => [n, [i, i - 1, i + 1]]));
        const answer = { predicted, probability: 0.5, nearest: [{ row: 2, distance: 1 }], way: [] };
        const measured = Object.fromEntries(names.map((n) => [n, 7]));
        const made = { predicted, measured, file: '/m.pt', refused: null };
        const found = { answers: [answer, { ...answer, made }], targets: [], level: 0.9 };
        targets.found.replaceChildren(...targets.answers(found).filter(Boolean));
    }"""
    names = ["accuracy", "f1", "calibration error", "loss"]
    with opened() as found:
        page = found.page
        ready(page, server.url)
        page.evaluate(script, names)
        cards = page.locator("#answers article")
        assert cards.count() == 2
        assert "P 0.50" in cards.first.inner_text()
        assert cards.first.locator("tbody tr").all_inner_texts()[3].split("\t") == ["loss", "3", "[2, 4]"]
        assert cards.first.get_by_role("button", name="Make it").count() == 1
        assert cards.nth(1).get_by_role("button", name="Make it").count() == 0
        assert cards.nth(1).locator("tbody tr").all_inner_texts()[0].split("\t")[-1] == "7"
        over = "e => e.filter(x => x.clientWidth && x.scrollWidth > x.clientWidth + 1).length"
        assert page.locator("#side *").evaluate_all(over) == 0, "nothing is cut off at the panel's edge"
        cards.first.get_by_role("button", name="run_2:1").click()
        assert page.evaluate("window.picked") == {"chosen": 2}
    assert found.errors == []


def test_embeddings_are_previewed_on_demand(server):
    with opened() as found:
        page = found.page
        ready(page, server.url)
        page.locator("#runs tbody tr").first.get_by_role("button", name="details").click()
        page.get_by_role("button", name="Preview embeddings").click()
        page.wait_for_selector("#embedding canvas")
        assert "of the variance" in page.inner_text("#embedding")
    assert found.errors == []


def test_the_page_is_usable_at_800_pixels_light_and_dark(server):
    for scheme in ("light", "dark"):
        with opened(800, 900, scheme) as found:
            page = found.page
            ready(page, server.url)
            width = page.evaluate("document.documentElement.scrollWidth")
            paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            sizes = page.locator(".canvases").evaluate_all("e => e.map(x => x.clientWidth)")
        assert width <= 800, "nothing is wider than the window"
        assert min(sizes) > 300
        assert (max(map(int, paper[4:-1].split(","))) < 60) == (scheme == "dark")
        assert found.errors == []


def test_a_server_that_has_ended_is_one_sentence(server):
    with opened() as found:
        page = found.page
        ready(page, server.url)
        page.context.set_offline(True)
        page.get_by_role("button", name="Search the map").click()
        page.wait_for_selector("#answers .error")
        assert "still running" in page.inner_text("#answers .error")
