"""The server answers its own page alone, and changes nothing unless that is allowed."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import subprocess

import pytest

from epsopt.studies.explore import what_if
from epsopt.studies.explore.page import MODULES, STATIC, bundle, exported
from epsopt.studies.explore.server import explore_server, serve_page
from epsopt.zoo.errors import UsageError

from .conftest import EVIL

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OWN = {"Host": "127.0.0.1:PORT", "Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}
FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:PORT"},
    {"Host": "127.0.0.1:1"},
    {"Host": ""},
    {"Host": "127.0.0.1:PORT", "Origin": "http://evil.example"},
    {"Host": "127.0.0.1:PORT", "Origin": "null"},
    {"Host": "127.0.0.1:PORT", "Origin": "https://127.0.0.1:PORT"},
    {"Host": "127.0.0.1:PORT", "Sec-Fetch-Site": "cross-site"},
    {"Host": "127.0.0.1:PORT", "Sec-Fetch-Site": "same-site"},
]


def ask(server, path="/", method="GET", headers=OWN):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, headers={n: v.replace("PORT", str(port)) for n, v in headers.items()})
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_is_refused_whatever_it_asks(server, writable, headers):
    for one, method, path in itertools.product((server, writable), METHODS, ("/", "/data.bin", "/proposals?n=1")):
        assert ask(one, path, method, headers)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_is_changed_unless_writes_are_allowed(server, method):
    status, body, _ = ask(server, "/proposals?n=1", method)
    assert status == 403
    assert b"--allow-writes" in body


def test_where_writes_are_allowed_a_post_queues_and_a_get_does_not(writable, monkeypatch):
    seen = []
    monkeypatch.setattr(what_if, "next_runs", lambda *_, **how: seen.append(how.get("record", False)) or {})
    assert ask(writable, "/proposals?n=2", "GET")[0] == 200
    assert ask(writable, "/proposals?n=2", "POST")[0] == 200
    assert seen == [False, True]
    assert ask(writable, "/proposals?n=2", "DELETE")[0] == 405
    assert seen == [False, True]


def test_an_answer_is_made_by_a_post_where_writes_are_allowed(server, writable, monkeypatch):
    seen = []
    monkeypatch.setattr(what_if, "make_answer", lambda _, wanted, number: seen.append((wanted, number)) or {})
    assert ask(server, "/make?answer=1", "POST")[0] == 403
    assert ask(writable, "/make?answer=1", "GET")[0] == 405
    assert ask(writable, "/make", "POST")[0] == 400
    assert seen == []
    assert ask(writable, "/make?answer=2&target.coverage=0.5", "POST")[0] == 200
    assert seen == [({"coverage": 0.5}, 2)]


def test_every_answer_forbids_framing_sniffing_inline_scripts_and_other_hosts(server):
    for path in ("/", "/about.json", "/data.bin", "/files.json", "/static/main.js", "/nothing"):
        headers = ask(server, path)[2]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


@pytest.mark.parametrize(
    "path",
    ["/static/../page.py", "/static/%2e%2e/page.py", "/static/", "/static/body.html", "/etc/passwd", "//evil", "/x"],
)
def test_only_the_pages_own_files_are_served(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/neighbours",
        "/neighbours?row=x",
        "/neighbours?row=-1",
        "/neighbours?row=68",
        "/neighbours?row=1&row=2",
        "/way?from=1",
        "/way?from=1&to=1",
        "/search?target.nothing=1",
        "/search?target.coverage=x",
        "/search?" + "x" * 5000,
        "/proposals?n=0",
        "/proposals?n=1000000",
        "/neighbours?row=%F0%9F%99%82",
        "/neighbours?row=99999999999999999999",
    ],
)
def test_a_question_that_makes_no_sense_gets_one_sentence(server, path):
    status, body, _ = ask(server, path)
    assert status == 400
    said = json.loads(body)["error"]
    assert said
    assert "Traceback" not in said


def test_a_defect_is_said_and_does_not_end_the_server(server, monkeypatch):
    def broken(*_):
        raise RuntimeError("oh")

    monkeypatch.setattr(what_if, "neighbours", broken)
    status, body, _ = ask(server, "/neighbours?row=1")
    assert status == 500
    assert "defect" in json.loads(body)["error"]
    assert ask(server)[0] == 200


def test_other_machines_are_let_in_only_when_that_is_meant(snapshot):
    with pytest.raises(UsageError, match="other machines"):
        explore_server(snapshot, "0.0.0.0", 0)


def test_serving_announces_the_address_and_ends_quietly_when_interrupted(snapshot, monkeypatch):
    def interrupted(_server):
        raise KeyboardInterrupt

    server = explore_server(snapshot, port=0)
    monkeypatch.setattr(type(server), "serve_forever", interrupted)
    said: list[str] = []
    serve_page(server, said.append)
    assert len(said) == 1
    assert said[0].startswith("http://127.0.0.1:")


def test_an_exported_page_holds_no_text_that_ends_a_script_or_begins_one(snapshot):
    page = exported(snapshot).decode()
    assert page.count("</script>") == page.count("<script ") == 4, "about, files, data and the script"
    assert EVIL not in page
    assert "alert(1)" in page, "the name is in it"
    assert "default-src 'none'" in page
    assert "unsafe" not in page.partition("<style>")[0]


def test_modules_are_listed_after_what_they_import_and_share_no_name():
    before: set[str] = set()
    for name in MODULES:
        text = STATIC[name][0].decode()
        imported = {line.rpartition("./")[2].rstrip('";\n') for line in text.splitlines() if line.startswith("import ")}
        assert imported <= before
        before.add(name)
    names = [
        line.split()[1 + line.startswith("async")].partition("(")[0]
        for line in bundle().splitlines()
        if line.startswith(("function ", "const ", "class ", "async function "))
    ]
    assert len(names) > 20
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_makes_html_or_code_of_texts(name):
    text = STATIC[name][0].decode()
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "http:",
        "https:",
    ):
        assert risky not in text


def test_modules_parse(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the browser tests parse the modules, too")
    for name in MODULES:
        (tmp_path / name.replace(".js", ".mjs")).write_bytes(STATIC[name][0])
    (tmp_path / "bundle.mjs").write_text(bundle())
    for file in sorted(tmp_path.iterdir()):
        checked = subprocess.run([node, "--check", str(file)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
