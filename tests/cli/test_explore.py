"""`epsopt explore` on the demo's data: every interaction, in Chromium, against what the commands say."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from epsopt.cli.explore import open_snapshot
from epsopt.cli.workspace import open_workspace
from epsopt.demo.hooks import evaluate
from epsopt.studies import load_map
from epsopt.studies.explore.server import explore_server
from epsopt.studies.optuna_io.stored_trials import config_of, proposed_trials
from epsopt.zoo import Catalogue, load_weights

from ..chromium import opened  # noqa: TID252
from .conftest import EPOCHS, RUNS, check

pytestmark = pytest.mark.usefixtures("one_browser")

TOTAL = RUNS * EPOCHS + 1
"""Checkpoints; the base that all runs start from is one of them."""


@pytest.fixture(scope="module")
def served(project):
    options = SimpleNamespace(project=project.folder / "epsopt.toml", storage=None)
    workspace = open_workspace(options)
    with workspace.catalogue() as catalogue:
        snapshot = open_snapshot(workspace, catalogue, 0.9)
    with explore_server(snapshot, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def shown(served):
    """The page, read and drawn; nothing went wrong on it, and it asked nobody else."""
    with opened() as found:
        found.page.goto(served.url)
        found.page.wait_for_selector("body[data-ready]")
        yield found.page
    assert found.errors == []
    assert found.reached(served.url) == []


def writable_snapshot(mine):
    """What the page is about, with a place for studies."""
    workspace = open_workspace(SimpleNamespace(project=mine.folder / "epsopt.toml", storage=None))
    with workspace.catalogue() as catalogue:
        return open_snapshot(workspace, catalogue, 0.9, studies=True)


@contextlib.contextmanager
def writable_page(snapshot):
    """A page that may write, read and drawn; nothing went wrong on it."""
    with explore_server(snapshot, port=0, allow_writes=True) as server, opened() as found:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.page.goto(server.url)
        found.page.wait_for_selector("body[data-ready]")
        yield found.page
        server.shutdown()
    assert found.errors == []


def drag(page, plot, left, top, right, bottom):
    place = page.locator(f"#{plot} .canvases").bounding_box()
    page.mouse.move(place["x"] + left * place["width"], place["y"] + top * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + right * place["width"], place["y"] + bottom * place["height"], steps=3)
    page.mouse.up()


def pixels(page, plot, layer="base"):
    """What a plot shows, to tell whether it changed."""
    return page.evaluate(f"document.querySelector('#{plot} canvas.{layer}').toDataURL()")


def settled(page, part):
    """The address, once it says a part: it follows the page a quarter of a second behind."""
    page.wait_for_function("part => location.hash.includes(part)", arg=part)
    return page.evaluate("location.href")


def number(text):
    return int(re.search(r"\d+", text).group())


def value(text):
    """A number as the page writes it."""
    return float(text.replace("\N{MINUS SIGN}", "-"))


def choose(page, run):
    """Open the details of a run's last checkpoint."""
    page.locator("#runs tbody tr").filter(has=page.get_by_role("button", name=run, exact=True)).get_by_role(
        "button", name="details"
    ).click()
    page.wait_for_selector("#neighbours")


def test_a_box_on_one_plot_lights_up_the_other_and_the_table_until_escape(shown):
    whole = {plot: pixels(shown, plot) for plot in ("map", "front")}
    drag(shown, "map", 0.02, 0.02, 0.98, 0.9)
    everything = number(shown.inner_text("#counts"))
    drag(shown, "map", 0.02, 0.02, 0.5, 0.9)
    some = number(shown.inner_text("#counts"))
    assert 0 < some < everything <= TOTAL
    assert pixels(shown, "front") != whole["front"]
    cells = shown.locator("#runs tbody tr td:nth-last-child(2)").all_inner_texts()
    assert sum(map(int, cells)) == some, "the table counts what is selected"
    assert shown.locator("#runs tr.lit").count() == sum(int(c) > 0 for c in cells)
    shown.keyboard.press("Escape")
    assert shown.inner_text("#counts") == ""
    assert {plot: pixels(shown, plot) for plot in ("map", "front")} == whole
    drag(shown, "front", 0.1, 0.02, 0.98, 0.5)
    assert "selected" in shown.inner_text("#counts")
    assert pixels(shown, "map") != whole["map"]


def test_points_are_coloured_by_whatever_is_known_of_them(shown):
    groups = shown.locator("#colour optgroup").evaluate_all("e => e.map(g => g.label)")
    assert {"measured", "predicted", "training", "hyperparameters", "prediction error", "interval width"} <= set(groups)
    training = shown.locator("#colour optgroup[label=training] option").all_inner_texts()
    assert {"epoch", "kind", "lineage", "measured front"} <= set(training)
    seen = set()
    values = (
        "metric:coverage", "epoch", "front", "error:coverage", "width:coverage", "predicted:rad_hier", "lineage",
        "kind", "hyperparameter:lr",
    )  # fmt: skip
    for value in values:
        shown.select_option("#colour", value)
        seen.add(pixels(shown, "map"))
        assert shown.inner_text("#legend") != ""
    assert len(seen) >= len(values) - 1, "all are of one kind and of one lineage here"
    shown.select_option("#colour", "width:coverage")
    assert shown.locator("#colour option:checked").inner_text() == "coverage, interval width"
    shown.select_option("#colour", "front")
    chip = shown.locator("#legend button", has_text="on the front")
    n = int(re.search(r"\((\d+)\)", chip.inner_text()).group(1))
    chip.click()
    assert number(shown.inner_text("#counts")) == n, "a value of the legend selects what has it"


def test_the_path_of_a_run_is_drawn_on_both_plots_and_runs_are_filtered_by_name(shown):
    before = {plot: pixels(shown, plot, "top") for plot in ("map", "front")}
    shown.get_by_role("button", name="run_004", exact=True).click()
    assert all(pixels(shown, plot, "top") != before[plot] for plot in before)
    shown.get_by_role("button", name="run_004", exact=True).click()
    assert {plot: pixels(shown, plot, "top") for plot in before} == before
    shown.select_option("#paths", "all")
    assert pixels(shown, "map", "top") != before["map"]
    points = pixels(shown, "map")
    shown.fill("#filter", "run_003")
    assert shown.locator("#runs tbody tr").count() == 1
    assert number(shown.inner_text("#counts")) == EPOCHS
    assert pixels(shown, "map") != points
    field = shown.get_by_label("target for coverage as a number")
    field.fill("0.0001")
    field.press("Tab")
    assert f" of {EPOCHS} meet the targets" in shown.inner_text("#counts")
    assert f" of {EPOCHS} checkpoints of the filtered runs" in shown.inner_text("#meeting")
    shown.fill("#filter", "nothing of the kind")
    assert "no run fits" in shown.inner_text("#table")


def test_the_table_is_sorted_by_any_column(shown):
    for heading, down in (("coverage (max)", True), ("coverage (max)", False)):
        shown.locator("#runs thead button", has_text=heading).click()
        column = shown.locator("#runs thead th button").all_inner_texts()
        at = next(i for i, text in enumerate(column) if text.startswith(heading))
        cells = shown.locator(f"#runs tbody tr > :nth-child({at + 1})").all_inner_texts()
        values = [value(c) for c in cells if c != "\N{EN DASH}"]
        assert values == sorted(values, reverse=down)


def test_the_details_of_a_checkpoint_are_those_of_predict_and_nearest(shown, project):
    choose(shown, "run_005")
    name = f"run_005:{EPOCHS}"
    assert shown.inner_text("#details h3") == name
    near = project("nearest", name, "-k", "5", "--json").document["nearest"]
    rows = shown.locator("#neighbours tbody tr").all_inner_texts()
    assert [r.split("\t")[0] for r in rows] == [f"{n['run']}:{n['epoch']}" for n in near]
    steps = [float(r.split("\t")[1]) for r in rows]
    trajectory = project("trajectory", "run_005", "--json").document["motion"]
    assert steps == sorted(steps)
    assert steps[0] * min(trajectory["speed"]) <= near[0]["distance"] * 1.01
    assert near[0]["distance"] * 0.99 <= steps[0] * max(trajectory["speed"])
    path = shown.inner_text("#path")
    predicted = project("predict", path, "--json").document["predictions"][0]
    for metric, said in predicted["predicted"].items():
        row = shown.locator("#measured tbody tr", has_text=metric).inner_text().split("\t")
        assert value(row[2]) == pytest.approx(said["value"], rel=1e-3)
    shown.get_by_role("button", name="copy path").click()
    assert shown.evaluate("navigator.clipboard.readText()") == path
    lines = shown.inner_text("#python").splitlines()
    assert len(lines) == 3
    namespace: dict = {}
    exec(compile("\n".join(lines[:2]), "page", "exec"), namespace)
    assert namespace["weights"]


def test_a_neighbour_is_one_click_away(shown):
    choose(shown, "run_002")
    second = shown.locator("#neighbours button").nth(1)
    name = second.inner_text()
    second.click()
    shown.wait_for_function(f"document.querySelector('#details h3').textContent === '{name}'")


def test_hyperparameters_that_set_a_checkpoint_apart_lie_outside_those_of_its_neighbours(shown):
    choose(shown, "run_007")
    rows = shown.locator("#apart tbody tr").all_inner_texts() if shown.locator("#apart").count() else []
    for row in rows:
        _, here, others = row.split("\t")
        ends = others.split(" to ")
        if len(ends) == 2:
            assert not value(ends[0]) <= value(here) <= value(ends[1])
    assert shown.locator("#apart, #alike").count() > 0


def test_targets_count_those_that_measurably_meet_them_as_the_search_does(shown, project):
    values = sorted(
        n["metrics"]["coverage"] for n in project("nearest", "run_000", "-k", "99", "--json").document["nearest"]
    )
    wanted = round(values[len(values) // 2], 4)
    field = shown.get_by_label("target for coverage as a number")
    field.fill(str(wanted))
    field.press("Tab")
    said = project("search", "--target-coverage", str(wanted), "--no-record", "--json").document
    assert shown.inner_text("#meeting").startswith(f"{len(said['measured_meeting_targets'])} of {TOTAL} ")
    assert f"--target-coverage {wanted}" in shown.inner_text("#targets code")
    dimmed = pixels(shown, "map")
    slider = shown.get_by_label("target for coverage", exact=True)
    before = number(shown.inner_text("#meeting"))
    slider.press("End")
    assert 0 < number(shown.inner_text("#meeting")) < before, "it counts while the slider moves"
    slider.press("ArrowLeft")
    slider.press("Home")
    assert "No target" in shown.inner_text("#meeting")
    slider.press("End")
    assert pixels(shown, "map") != dimmed
    shown.locator("#targets button", has_text="Clear").click()
    assert "No target" in shown.inner_text("#meeting")


def test_the_search_of_the_page_is_the_search_of_the_command(shown, project):
    field = shown.get_by_label("target for coverage as a number")
    field.fill("0.5")
    field.press("Tab")
    before = {plot: pixels(shown, plot, "top") for plot in ("map", "front")}
    shown.get_by_role("button", name="Search the map").click()
    shown.wait_for_selector("#answers article")
    said = project("search", "--target-coverage", "0.5", "--no-record", "--json").document["answers"]
    cards = shown.locator("#answers article").all()
    assert len(cards) == len(said)
    for card, answer in zip(cards, said, strict=True):
        row = card.locator("tbody tr", has_text="coverage").locator("td").all_inner_texts()
        expected = answer["predicted"]["coverage"]
        assert value(row[0]) == pytest.approx(expected["value"], rel=1e-3)
        ends = [value(end) for end in row[1].strip("[]").split(", ")]
        assert ends == pytest.approx([expected["low"], expected["high"]], rel=1e-3)
        assert f"P {answer['probability']:.2f}" in card.inner_text()
        near = answer["nearest"][0]
        assert card.locator("button.link").inner_text() == f"{near['run']}:{near['epoch']}"
    assert all(pixels(shown, plot, "top") != before[plot] for plot in before), "answers are drawn on both plots"
    asked = shown.evaluate("fetch('search?target.coverage=0.5').then((response) => response.json())")
    climbed = any(len(answer["way"]) > 1 for answer in asked["answers"])
    assert ("Dotted: the way that the search climbed" in shown.inner_text("#answers")) == climbed
    field.fill("0.6")
    field.press("Tab")
    assert shown.locator("#answers article").count() == 0, "answers to another question go"


def test_interpolation_moves_a_marker_and_tells_each_metric(shown, project):
    choose(shown, "run_001")
    shown.get_by_role("button", name="Interpolate from here").click()
    choose(shown, "run_006")
    shown.get_by_role("button", name="Interpolate to here").click()
    shown.wait_for_selector("#share")
    assert "0 % of the way" in shown.inner_text("#share-said")
    first = [pixels(shown, "map", "top"), shown.inner_text("#way")]
    for _ in range(10):
        shown.locator("#share").press("ArrowRight")
    assert "50 % of the way" in shown.inner_text("#share-said")
    assert pixels(shown, "map", "top") != first[0]
    assert shown.locator("#way canvas.band").count() == 3
    assert all(re.search(r"\[.*\]", t) for t in shown.locator("#way .band-row").all_inner_texts())
    assert "epsopt interpolate run_001:3 run_006:3" in shown.inner_text("#way")
    shown.locator("#way button", has_text="Clear").click()
    assert "Choose two" in shown.inner_text("#way")


def test_proposals_are_configs_to_copy_and_nothing_is_queued(shown, project):
    before, front = project.database(), pixels(shown, "front", "top")
    shown.locator("#side summary", has_text="Propose").click()
    shown.fill("#how-many", "2")
    shown.get_by_role("button", name="Propose", exact=True).click()
    shown.wait_for_selector("#proposed article, #proposed .error")
    assert shown.locator("#proposed article").count() == 2, shown.inner_text("#proposed")
    assert pixels(shown, "front", "top") != front, "what they are predicted to reach is drawn"
    config = json.loads(shown.locator("#proposed pre").first.inner_text())
    assert "lr" in config or len(config) > 2
    shown.locator("#proposed button", has_text="copy config").first.click()
    assert json.loads(shown.evaluate("navigator.clipboard.readText()")) == config
    assert shown.get_by_role("button", name="Propose and queue").count() == 0
    assert project.database() == before


def test_a_page_that_may_write_queues_proposals(project, copy):
    snapshot = writable_snapshot(copy(project))
    with writable_page(snapshot) as page:
        page.locator("#side summary", has_text="Propose").click()
        page.fill("#how-many", "1")
        page.get_by_role("button", name="Propose and queue").click()
        page.wait_for_selector("#proposed article, #proposed .error")
        assert "1 proposal queued" in page.inner_text("#proposed")
        config = json.loads(page.locator("#proposed pre").inner_text())
    queued = proposed_trials(snapshot.storage, snapshot.project.name)
    assert [t.state.name for t in queued] == ["WAITING"]
    assert config_of(queued[0]).items() <= config.items()


def test_a_page_that_may_write_makes_an_answer_and_shows_what_it_measures(project, copy, tmp_path):
    snapshot = writable_snapshot(copy(project))
    runs = tmp_path / "made"  # others share the project's
    runs.mkdir()
    snapshot = replace(snapshot, project=replace(snapshot.project, runs=runs, evaluate="epsopt.demo.hooks:evaluate"))
    with writable_page(snapshot) as page:
        page.get_by_role("button", name="Search the map").click()
        page.wait_for_selector("#answers article")
        before, front = (pixels(page, plot, "top") for plot in ("map", "front"))
        page.get_by_role("button", name="Make it").first.click()
        page.wait_for_selector("#answers .made, #answers .error", timeout=120_000)
        card = page.locator("#answers .made")
        assert card.count() == 1, page.inner_text("#answers")
        assert "measured" in card.locator("thead").inner_text()
        page.get_by_role("button", name="copy path").first.click()
        (file,) = runs.glob("search_001/*/model*")
        cells = [row.split("\t")[-1] for row in card.locator("tbody tr").all_inner_texts()]
        measured = evaluate(load_weights(file))
        shown = [measured[o.name] for o in snapshot.objectives]
        assert [value(c) for c in cells] == pytest.approx(shown, abs=1e-3)
        assert pixels(page, "front", "top") != front, "the plot shows what they measure"
        page.get_by_role("button", name="Make it").first.click()  # the first answer may lie beyond the map's frame
        page.wait_for_selector("#answers .made >> nth=1", timeout=120_000)
        assert pixels(page, "map", "top") != before, "the plot shows where the weights lie"


def test_the_banner_says_what_the_fit_said(shown, project):
    with Catalogue.existing(f"sqlite:///{project.folder / 'epsopt.db'}") as catalogue:
        _, validation = load_map(catalogue)
    said = shown.inner_text("#trust summary")
    assert "On runs that the map had not seen: coverage ±" in said
    assert said.startswith("Careful") == bool(validation.warnings())
    assert "No proposals yet." in said
    shown.locator("#trust summary").click()
    for metric in validation.metrics:
        row = shown.locator("#trust tbody tr", has_text=metric.name).inner_text().split("\t")
        assert value(row[1]) == pytest.approx(metric.error, rel=1e-3)
        assert row[3] == f"{metric.coverage:.0%}".replace("%", " %")
    assert "No proposals were made yet" in shown.inner_text("#trust")


def test_the_address_brings_back_what_was_looked_at(shown):
    choose(shown, "run_002")
    shown.select_option("#colour", "epoch")
    shown.select_option("#across", "metric:dist_corr")
    shown.get_by_role("button", name="run_003", exact=True).click()
    field = shown.get_by_label("target for coverage as a number")
    field.fill("0.4")
    field.press("Tab")
    drag(shown, "map", 0.02, 0.02, 0.6, 0.9)
    shown.locator("#front .canvases").focus()
    shown.keyboard.press("+")
    texts = ["#counts", "#meeting", "#details h3", "#runs", "#front-said"]
    before = [shown.inner_text(t) for t in texts], [pixels(shown, p, "top") for p in ("map", "front")]
    address = settled(shown, "view.front=")
    shown.goto("about:blank")
    shown.goto(address)
    shown.wait_for_selector("body[data-ready]")
    shown.wait_for_selector("#neighbours")
    assert shown.input_value("#colour") == "epoch"
    assert shown.input_value("#across") == "metric:dist_corr"
    assert [shown.inner_text(t) for t in texts] == before[0]
    assert [pixels(shown, p, "top") for p in ("map", "front")] == before[1]
    shown.select_option("#colour", "front")
    shown.locator("#legend button", has_text="on the front").click()
    counted = shown.inner_text("#counts")
    address = settled(shown, "chip=")
    shown.goto("about:blank")
    shown.goto(address)
    shown.wait_for_selector("body[data-ready]")
    assert shown.inner_text("#counts") == counted
    assert shown.locator("#legend button[aria-pressed=true]").count() == 1
    shown.goto(
        f"{address.partition('#')[0]}#colour=nothing&chosen=999999&box=a,b&target.coverage=x&run=none&chip=x,y&view.map=1,0"
    )
    shown.reload()
    shown.wait_for_selector("body[data-ready]")
    assert shown.inner_text("#counts") == ""


def test_the_keyboard_reaches_a_point_its_details_and_the_frame(shown):
    shown.locator(".skip").focus()
    shown.locator("#map .canvases").focus()
    whole = pixels(shown, "map")
    shown.keyboard.press("ArrowLeft")
    shown.keyboard.press("ArrowUp")
    said = shown.inner_text("#map .said")
    assert re.match(r"run_\d+:\d", said), "what the cursor stands on is said"
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#neighbours")
    assert shown.inner_text("#details h3") == said.partition(",")[0]
    shown.keyboard.press("+")
    assert pixels(shown, "map") != whole
    assert "outside the frame" in shown.inner_text("#map-said")
    shown.keyboard.press("0")
    assert pixels(shown, "map") == whole
    for _ in range(40):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.closest('#runs') !== null"):
            break
    assert shown.evaluate("document.activeElement.closest('#front, #side, #runs') !== null")


def test_a_box_is_drawn_with_keys_alone(shown):
    shown.locator("#map .canvases").focus()
    empty = pixels(shown, "map", "top")
    shown.keyboard.press("b")
    assert "a box begins at run_" in shown.inner_text("#map .said")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        shown.keyboard.press(key)
    drawn = pixels(shown, "map", "top")
    shown.keyboard.press("b")
    assert number(shown.inner_text("#counts")) >= 2, "both corners lie inside"
    assert "selected" in shown.inner_text("#counts")
    assert shown.locator("#runs tr.lit").count() >= 1
    shown.keyboard.press("Escape")
    assert shown.inner_text("#counts") == ""
    shown.keyboard.press("b")
    shown.keyboard.press("Escape")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#neighbours")
    assert shown.inner_text("#counts") == "", "Esc gave the box up before it was one"
    assert len({empty, drawn, pixels(shown, "map", "top")}) == 3


def test_a_page_is_exported_as_one_file_that_epsopt_may_replace(project, copy):
    here = copy(project)
    namespace = here("explore", "--export", "page.html", "--json")
    assert namespace.status == 0, namespace.err
    check("explore", namespace.document)
    assert namespace.document["page"] == str(here.folder / "page.html")
    assert here("explore", "--export", "page.html").status == 0
    (here.folder / "other.html").write_text("<html></html>")
    refused = here("explore", "--export", "other.html")
    assert refused.status == 2
    assert "--overwrite" in refused.err
    assert here("explore", "--export", "page.txt").status == 2


def test_there_is_nothing_to_explore_without_a_map(fresh):
    result = fresh("explore", "--export", "page.html")
    assert result.status == 1
    assert "epsopt fit" in result.err
