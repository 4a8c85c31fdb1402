"""What a browser is sent: columns that say what the catalogue and the map say, and texts that do not act."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.objectives import Objectives, Target, meets
from epsopt.studies.explore.columns import Column, of_values, pack
from epsopt.studies.explore.view import view
from epsopt.studies.schedule.budget import MeasuredMerge
from epsopt.zoo.layouts.merge_record import DIGITS
from epsopt.zoo.layouts.parsed import RECOMBINED

from .conftest import EVIL, OBJECTIVES

TYPES = {"Float64Array": "<f8", "Float32Array": "<f4", "Int32Array": "<i4"}


def column(shown, key):
    """Read a column as the browser does."""
    found = next(c for c in shown.about["columns"] if c["key"] == key)
    values = np.frombuffer(shown.data, TYPES[found["type"]], found["length"], found["offset"])
    return found, values


@pytest.fixture(scope="module")
def shown(snapshot):
    return view(snapshot)


@given(st.lists(st.tuples(st.sampled_from(["<f8", "<f4", "<i4"]), st.integers(0, 9)), max_size=6))
def test_every_column_is_where_it_is_said_to_be(kinds):
    columns = [Column(f"c{i}", "", "", np.arange(n).astype(kind)) for i, (kind, n) in enumerate(kinds)]
    described, data = pack(columns)
    for made, said in zip(columns, described, strict=True):
        assert said["offset"] % np.dtype(TYPES[said["type"]]).itemsize == 0, "where a typed array may begin"
        assert np.array_equal(np.frombuffer(data, TYPES[said["type"]], said["length"], said["offset"]), made.values)


def test_hyperparameters_are_numbers_where_all_are_and_categories_otherwise():
    assert np.array_equal(of_values("k", "k", "g", [1, None, 2.5]).values, [1.0, math.nan, 2.5], equal_nan=True)
    mixed = of_values("k", "k", "g", ["b", 1, None, True, [1, 2]])
    assert mixed.categories == ("1", "True", "[1, 2]", "b")
    assert mixed.values.tolist() == [3, 0, -1, 1, 2]
    assert of_values("k", "k", "g", [10**400, 1]).values.tolist()[1] == 1.0


@pytest.mark.parametrize(
    ("values", "logarithmic"), [([1e-5, 1e-2], True), ([0.0, 1e-2], False), ([1.0, 50.0], False), ([math.nan], False)]
)
def test_positive_numbers_over_orders_of_magnitude_are_read_on_a_logarithmic_scale(values, logarithmic):
    assert of_values("k", "k", "g", values).logarithmic is logarithmic


def test_a_metric_is_drawn_as_in_every_other_picture_and_never_logarithmic_by_its_span():
    assert not Column("metric:loss", "loss", "measured", np.array([1e-4, 1.0])).logarithmic


def test_what_was_measured_arrives_to_the_last_digit(shown, snapshot):
    for name in ("coverage", "structure"):
        assert column(shown, f"metric:{name}")[1].tolist() == [c.metrics[name] for c in snapshot.checkpoints]


def test_a_metric_that_is_missing_is_missing(snapshot):
    first = replace(snapshot.checkpoints[0], metrics={"coverage": None})
    shown = view(replace(snapshot, checkpoints=(first, *snapshot.checkpoints[1:])))
    assert math.isnan(column(shown, "metric:coverage")[1][0])
    assert math.isnan(column(shown, "metric:structure")[1][0])
    assert math.isfinite(column(shown, "metric:structure")[1][1])


def test_predictions_and_places_are_the_maps_own_and_nan_weights_have_none(shown, snapshot):
    surrogate = snapshot.surrogate
    expected = surrogate.predict(snapshot.latents[:-2], snapshot.level)
    for j, name in enumerate(surrogate.metric_names):
        for kind, values in (("predicted", expected.point), ("low", expected.low), ("high", expected.high)):
            got = column(shown, f"{kind}:{name}")[1]
            assert got[:-2] == pytest.approx(values[:, j], rel=1e-6)
            assert math.isnan(got[-2])
    places = surrogate.plane_coordinates(snapshot.latents)
    assert column(shown, "x")[1] == pytest.approx(places[:, 0], rel=1e-5, nan_ok=True)
    assert math.isnan(column(shown, "y")[1][-2])
    notes = " ".join(shown.about["notes"])
    assert "1 checkpoint with NaN weights" in notes
    assert "the map was not trained on 1 checkpoint" in notes


def test_the_front_is_the_measured_one(shown, snapshot):
    table = [[c.metrics[o.name] for o in OBJECTIVES] for c in snapshot.checkpoints]
    front = column(shown, "front")[1]
    assert sorted(np.flatnonzero(front).tolist()) == sorted(Objectives(OBJECTIVES).front(table).tolist())


def test_only_hyperparameters_that_differ_are_columns_and_a_seed_is_bookkeeping(shown):
    groups = {c["key"]: c["group"] for c in shown.about["columns"]}
    assert groups["hyperparameter:lr"] == groups["hyperparameter:mode"] == "hyperparameters"
    assert groups["hyperparameter:seed"] == "bookkeeping"
    constant = [c for c in shown.about["columns"] if c["key"] == "hyperparameter:constant"]
    assert constant == []


def test_files_lead_from_the_folder_of_the_run_to_the_checkpoint(shown, snapshot):
    run = column(shown, "run")[1]
    for i, c in enumerate(snapshot.checkpoints):
        assert f"{shown.about['runs'][run[i]]['folder']}/{shown.files[i]}" == c.path


def test_a_restart_is_linked_to_the_checkpoint_that_it_began_from(snapshot):
    start = snapshot.checkpoints[7]
    again = tuple(
        replace(c, hyperparameters={**c.hyperparameters, "init_from": start.path}) if c.run_id == 9 else c
        for c in snapshot.checkpoints
    )
    first = next(i for i, c in enumerate(again) if c.run_id == 9)
    assert view(replace(snapshot, checkpoints=again)).about["links"] == [[first, 7]]


def test_a_proposed_run_is_linked_to_its_start_and_a_merge_to_both_its_ends(snapshot):
    start, merged = snapshot.checkpoints[7], snapshot.checkpoints[40]
    ends = (snapshot.checkpoints[3].sha256, snapshot.checkpoints[20].sha256)
    known = replace(
        snapshot,
        started={Path("/zoo/run_09"): start.path, Path("/zoo/run_10"): "/gone.pt"},
        merges=(MeasuredMerge(0.1, 0.2, 1.0, 1.0, path=merged.path, ends=ends), MeasuredMerge(0.1, 0.2, 1.0, 1.0)),
    )
    first = next(i for i, c in enumerate(known.checkpoints) if c.run == "run_09")
    assert view(known).about["links"] == [[first, 7], [40, 3], [40, 20]]


def test_a_merge_that_was_ingested_is_linked_to_the_parents_that_it_names(snapshot):
    digits = {d: d * 64 for d in "abc"}
    named = list(snapshot.checkpoints)
    for row, d in zip((3, 20, 33), digits, strict=True):
        named[row] = replace(named[row], sha256=digits[d])
    own = {**named[40].hyperparameters, RECOMBINED: f"{'b' * DIGITS},{'a' * DIGITS},{'f' * DIGITS}"}
    named[40] = replace(named[40], hyperparameters=own)
    shown = view(replace(snapshot, checkpoints=tuple(named)))
    assert [link for link in shown.about["links"] if link[0] == 40] == [[40, 20], [40, 3]]
    assert RECOMBINED not in {c["title"] for c in shown.about["columns"]}


def test_names_that_act_are_escaped_and_the_data_is_plain_json(shown):
    json.dumps(shown.about, allow_nan=False)
    texts = [r["name"] + r["label"] for r in shown.about["runs"]]
    texts += [c["title"] for c in shown.about["columns"]] + shown.about["notes"]
    texts += [t for c in shown.about["columns"] for t in c["categories"] or ()]
    assert all(t.isprintable() for t in texts)
    assert any("<script>" in t for t in texts), "it is shown as it is; the page makes text of it"
    assert EVIL in shown.about["runs"][3]["folder"], "a path is copied as it is"


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 2.0])
def test_what_meets_a_target_in_the_browser_meets_it_in_python(shown, snapshot, value):
    measured = column(shown, "metric:coverage")[1]
    python = sum(meets(c.metrics, [Target("coverage", value)], OBJECTIVES) for c in snapshot.checkpoints)
    assert int((measured >= value).sum()) == python


def test_the_page_says_what_the_map_refuses_to_predict_and_why(snapshot):
    refusing = view(replace(snapshot, refused={69: "its architecture has other parts"}))
    _, predicted = column(refusing, "predicted:coverage")
    assert math.isnan(predicted[69])
    assert math.isfinite(predicted[67])
    assert "no prediction for 1 checkpoint, for example: its architecture has other parts" in refusing.about["notes"]
