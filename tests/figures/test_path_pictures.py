from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np

from epsopt.figures.path_pictures import Curve, notice_picture, path_picture

EVIL = "</text><script>alert(1)</script>\x1b"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(path, curves=(), title="run_00", background=None):
    path = np.array(path, dtype=np.float64)
    others = np.random.default_rng(0).normal(size=(50, 2)) if background is None else background
    return ET.fromstring(path_picture(others, path, 1 % len(path), ("first", "second"), curves, title))


def rings(root):
    return [c for c in root.iter(f"{SVG}circle") if c.get("fill") == "none"]


def test_the_path_goes_through_every_checkpoint_and_the_chosen_one_is_ringed():
    root = drawn([[0, 0], [1, 1], [2, 0]])
    line = next(root.iter(f"{SVG}polyline")).get("points").split()
    assert len(line) == 3
    assert [f"{r.get('cx')},{r.get('cy')}" for r in rings(root)] == [line[1]]
    assert len(list(root.iter(f"{SVG}polygon"))) == 1, "an arrowhead says which way it went"


def test_each_metric_is_a_curve_with_its_ends_named_and_gaps_left_out():
    values = np.array([0.25, np.nan, 0.75])
    curves = [Curve("coverage", np.arange(3.0), values), Curve("never measured", np.arange(3.0), np.full(3, np.nan))]
    root = drawn([[0, 0], [1, 1], [2, 0]], curves)
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {"coverage", "0.25", "0.75", "epochs 0 to 2"} <= set(texts)
    assert "never measured" not in texts
    assert len(list(root.iter(f"{SVG}polyline"))) == 2


def test_one_checkpoint_and_no_others_are_a_picture_too():
    root = drawn([[0.5, 0.5]], [Curve("loss", np.ones(1), np.ones(1))], background=np.full((3, 2), np.nan))
    assert len(rings(root)) == 2
    assert "nan" not in ET.tostring(root, encoding="unicode").lower().replace("nanum", "")


def test_names_are_text_and_a_reason_stands_in_a_picture_s_place():
    root = drawn([[0, 0], [1, 1]], [Curve(EVIL, np.arange(2.0), np.arange(2.0))], EVIL)
    assert not list(root.iter(f"{SVG}script"))
    assert any("alert(1)" in (t.text or "") for t in root.iter(f"{SVG}text"))
    said = ET.fromstring(notice_picture(EVIL))
    assert [t.text for t in said.iter(f"{SVG}text")]
    assert not list(said.iter(f"{SVG}script"))
