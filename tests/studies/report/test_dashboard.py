from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
import sqlite3
import threading
from pathlib import Path

import optuna
import pytest

from epsopt.optimize.objectives import Target
from epsopt.studies import dashboard_server, open_storage, record_front, record_runs, serve
from epsopt.studies.optuna_io.study_notes import write_note
from epsopt.zoo.errors import CatalogueError, EpsoptError, UsageError

from ..fakes import COVERAGE, DIST_CORR, make_answers, make_zoo  # noqa: TID252

CHROMIUM = Path("/usr/bin/chromium")
TWO = [COVERAGE, DIST_CORR]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'epsopt.db'}"
    storage = open_storage(url)
    zoo = make_zoo()
    record_runs(storage, "p", TWO, zoo)
    record_front(storage, "p", TWO, zoo, make_answers(zoo), [Target("coverage", 0.95)])
    long = optuna.create_study(storage=storage, study_name="p/long", directions=["maximize", "maximize"])
    path = "/a/long/path/without/a/space" * 100
    attributes = {"path": path, "checkpoints": [{"epoch": i, "path": "/runs"} for i in range(100)]}
    long.add_trial(optuna.create_trial(values=[0.1, 0.2], user_attrs=attributes))
    write_note(long, f"`{path}`\n\n    {path}")
    return url


@pytest.fixture(scope="module")
def server(recorded):
    server = dashboard_server(recorded, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def editable(recorded):
    with dashboard_server(recorded, port=0, allow_edits=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, method="GET", path="/api/studies", **headers: str):
    """Send one request; a header name's underscores are dashes."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port)
    sent = {name.replace("_", "-"): value.replace("PORT", str(port)) for name, value in headers.items()}
    connection.request(method, path, headers=sent)
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def test_the_dashboard_lists_the_studies(server):
    status, body, headers = ask(server)
    assert status == 200
    assert {s["study_name"] for s in json.loads(body)["study_summaries"]} == {
        "p/runs",
        "p/runs/coverage",
        "p/runs/dist_corr",
        "p/front",
        "p/front/predicted",
        "p/long",
    }
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:PORT"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1"},
        {"Host": "192.0.2.7:PORT"},
        {"Host": "localhost:PORT@evil.example"},
        {"Host": "evil@localhost:PORT"},
        {"Host": "localhost:PORT/x"},
        {"Host": ""},
        {"Host": "localhost:x"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:PORT"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:PORT"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    ],
)
def test_a_foreign_page_is_refused_whatever_it_asks(server, editable, headers):
    followed = "GET" if headers.get("Sec_Fetch_Mode") == "navigate" else None  # a link, which may be followed
    for one, method in itertools.product((server, editable), [m for m in METHODS if m != followed]):
        status, body, _ = ask(one, method, "/api/studies/1", **headers)
        assert status == 403, method
        assert method == "HEAD" or b"epsopt" in body
    assert len(json.loads(ask(server)[1])["study_summaries"]) == 6


@pytest.mark.parametrize("host", ["evil.example:PORT", "127.0.0.1.evil.example:PORT", "0x7f000001:PORT"])
def test_a_rebound_name_reads_nothing(server, host):
    assert ask(server, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT", "[::1]:PORT"])
def test_the_servers_own_pages_may_do_everything_where_edits_are_allowed(recorded, editable, host):
    storage = open_storage(recorded)
    optuna.create_study(storage=storage, study_name="to go")
    study = storage.get_study_id_from_name("to go")
    headers = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
    assert ask(editable, "DELETE", f"/api/studies/{study}", **headers)[0] < 300
    assert "to go" not in optuna.get_all_study_names(storage)


CHANGES = [
    ("DELETE", "/api/studies/1"),
    ("POST", "/api/studies"),
    ("POST", "/api/studies/1/rename"),
    ("PUT", "/api/studies/1/note"),
    ("PUT", "/api/studies/1/1/note"),
    ("POST", "/api/trials/1/tell"),
    ("POST", "/api/trials/1/user-attrs"),
    ("PATCH", "/api/studies/1"),
    ("OPTIONS", "/api/studies"),
]


def contents(url):
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return sorted(connection.iterdump())


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_the_dashboard_only_shows_unless_edits_are_allowed(server, recorded, method, path):
    before = contents(recorded)
    headers = {"Host": "127.0.0.1:PORT", "Origin": "http://127.0.0.1:PORT", "Sec_Fetch_Site": "same-origin"}
    status, body, _ = ask(server, method, path, **headers)
    assert status == 403
    assert b"--allow-edits" in body
    assert contents(recorded) == before


def test_no_page_that_is_only_read_changes_the_database(server, recorded):
    import optuna_dashboard._app as dashboard

    application = dashboard.create_app(open_storage(recorded))
    rules = [route.rule for route in application.routes if route.method in ("GET", "HEAD", "ANY")]
    assert len(rules) >= 8, "the routes are found"
    before = contents(recorded)
    for study in range(1, 7):
        for rule in rules:
            path = re.sub(r"<plot_type>", "contour", rule)
            path = re.sub(r"<:re:[^>]*>|<filename:path>", "", re.sub(r"<\w+_id(:int)?>", str(study), path))
            for method in ("GET", "HEAD"):
                assert ask(server, method, path)[0] != 403, path
    assert contents(recorded) == before


def test_a_link_from_elsewhere_may_be_followed(server):
    assert ask(server, path="/dashboard", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "example.org", "::"])
def test_other_machines_are_let_in_only_when_that_is_meant(recorded, host):
    with pytest.raises(UsageError, match="other machines"):
        dashboard_server(recorded, host=host, port=0)


def test_a_server_for_other_machines_still_refuses_foreign_names(recorded):
    with dashboard_server(recorded, host="0.0.0.0", port=0, allow_remote=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask(server, Host="192.0.2.7:PORT")[0] == 200
        assert ask(server, Host=f"{socket.gethostname()}:PORT")[0] == 200
        assert ask(server, Host="evil.example:PORT")[0] == 403
        server.shutdown()


def test_a_port_in_use_is_one_sentence(recorded, server):
    port = server.server_address[1]
    with pytest.raises(EpsoptError, match=f"port {port} on 127.0.0.1 is in use"):
        dashboard_server(recorded, port=port)


def test_no_port_and_no_such_address_are_one_sentence(recorded):
    with pytest.raises(UsageError, match="65535"):
        dashboard_server(recorded, port=70000)
    with pytest.raises(EpsoptError, match="cannot listen"):
        dashboard_server(recorded, host="no.such.host.invalid", port=0, allow_remote=True)


def test_a_missing_database_says_what_to_run_first(tmp_path):
    with pytest.raises(CatalogueError, match="epsopt ingest"):
        dashboard_server(f"sqlite:///{tmp_path}/none.db", port=0)


def test_serve_announces_its_address_and_ends_quietly_when_interrupted(recorded, monkeypatch):
    def interrupted(_server):
        raise KeyboardInterrupt

    monkeypatch.setattr("epsopt.studies.report.dashboard.DashboardServer.serve_forever", interrupted)
    said: list[str] = []
    serve(recorded, port=0, announce=said.append)
    assert len(said) == 1
    assert said[0].startswith("http://127.0.0.1:")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


@pytest.mark.parametrize("names", [{"p/runs"}, pytest.param(None, id="all", marks=pytest.mark.slow)])
def test_no_page_is_wider_than_the_window(server, browser, names):
    every = json.loads(ask(server)[1])["study_summaries"]
    studies = [s for s in every if names is None or s["study_name"] in names]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(0)  # a busy machine takes its time
    wide = []
    views = {"": "Hyperparameter Importance", "/note": "Note", "/trials?numbers=0": "User Attributes"}
    for study in studies:
        for view, heading in views.items():
            page.goto(f"{server.url}dashboard/studies/{study['study_id']}{view}")
            page.get_by_text(heading, exact=True).locator("visible=true").first.wait_for()
            if page.evaluate("document.documentElement.scrollWidth") > 1280:
                wide.append((study["study_name"], view))
    page.close()
    assert (len(every), len(studies)) == (6, len(names or every))
    assert wide == []


def test_a_browser_shows_both_fronts_with_the_names_of_the_objectives(server, browser):
    studies = json.loads(ask(server)[1])["study_summaries"]
    front = next(s["study_id"] for s in studies if s["study_name"] == "p/front")
    errors: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(0)  # a busy machine takes its time
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda r: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(f"{server.url}dashboard/studies/{front}")
    page.get_by_text("Pareto Front", exact=True).wait_for()
    picture = page.locator(".js-plotly-plot", has_text="Measured and predicted front")
    picture.locator(".legendtext", has_text="predicted, not evaluated").wait_for()
    shown = picture.inner_text()
    points = picture.locator("path.point").count()
    page.goto(f"{server.url}dashboard/studies/{front}/note")
    page.get_by_text("Predicted, not evaluated.").wait_for()
    page.close()
    assert errors == []
    assert [u for u in asked if not u.startswith((server.url, "data:", "blob:"))] == [], "nothing else is reached"
    assert points >= 30 + 4  # every measured checkpoint and every predicted point
    for words in (
        "coverage (higher is better)",
        "dist_corr (higher is better)",
        "measured front",
        "coverage ≥ 0.95",
    ):
        assert words in shown
