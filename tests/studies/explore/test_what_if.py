"""Answers to the page: they are what the commands say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from epsopt.optimize import search
from epsopt.optimize.latent.neighbours import nearest
from epsopt.optimize.objectives import Objective, Target
from epsopt.studies.explore.what_if import answers, embedding, finite, neighbours, next_runs, targets_of, way
from epsopt.zoo import Catalogue
from epsopt.zoo.errors import UsageError


def test_neighbours_are_the_nearest_checkpoints_and_the_nearest_of_other_runs(snapshot):
    found = neighbours(snapshot, 12)
    own = snapshot.checkpoints[12]
    there = [i for i in range(len(snapshot.checkpoints)) if i not in (12, 68)]
    expected = nearest(snapshot.latents[12:13], snapshot.latents[there], [snapshot.checkpoints[i] for i in there], 5)[0]
    assert [snapshot.checkpoints[n["row"]].sha256 for n in found["nearest"]] == [n.sha256 for n in expected]
    assert [n["distance"] for n in found["nearest"]] == pytest.approx([n.distance for n in expected])
    runs = [snapshot.checkpoints[n["row"]].run_id for n in found["other_runs"]]
    assert len(set(runs)) == 5
    assert own.run_id not in runs
    assert found["usual_step"] == 0.5


def test_a_copy_in_another_run_is_no_neighbour(snapshot):
    copy = replace(snapshot.checkpoints[0], sha256=snapshot.checkpoints[12].sha256, run_id=99)
    found = neighbours(replace(snapshot, checkpoints=(copy, *snapshot.checkpoints[1:])), 12)
    assert 0 not in [n["row"] for n in found["nearest"] + found["other_runs"]]


@pytest.mark.parametrize("row", [-1, 70, 68])
def test_what_has_no_place_on_the_map_has_no_neighbours(snapshot, row):
    with pytest.raises(UsageError, match=r"NaN|there is no checkpoint"):
        neighbours(snapshot, row)


def test_the_search_is_that_of_the_command(snapshot):
    found = answers(snapshot, {"coverage": 0.5}, limit=4)
    expected = search(snapshot.surrogate, snapshot.checkpoints, snapshot.objectives, [Target("coverage", 0.5)], limit=4)
    assert len(found["answers"]) == len(expected.answers) > 0
    for got, answer in zip(found["answers"], expected.answers, strict=True):
        assert got["probability"] == pytest.approx(answer.probability)
        assert got["predicted"]["structure"][0] == pytest.approx(answer.point["structure"])
        assert snapshot.checkpoints[got["nearest"][0]["row"]].sha256 == answer.nearest[0].sha256
        place = snapshot.surrogate.plane_coordinates(answer.z[None])[0]
        assert got["place"] == pytest.approx(place.tolist())


def test_answers_lie_at_the_end_of_the_way_that_the_search_climbed(snapshot):
    found = answers(snapshot, {"coverage": 0.5}, limit=8)["answers"]
    climbed = [a for a in found if len(a["way"]) > 1]
    assert climbed
    for answer in found:
        end = answer["way"][-1]
        assert end["place"] == pytest.approx(answer["place"], abs=1e-4)
        assert end["predicted"]["structure"] == pytest.approx(answer["predicted"]["structure"][0], abs=1e-4)
    assert all(a["way"][0]["place"] != a["way"][-1]["place"] for a in climbed)


def test_a_limit_of_an_objective_is_a_target_as_in_the_command(snapshot):
    limited = replace(snapshot, objectives=(Objective("coverage", maximize=True, limit=0.2), snapshot.objectives[1]))
    assert targets_of(limited, {}) == [Target("coverage", 0.2)]
    assert targets_of(limited, {"coverage": 0.6}) == [Target("coverage", 0.6)]


@pytest.mark.parametrize("wanted", [{"nothing": 1.0}, {"coverage": math.nan}, {"coverage": 7.0}])
def test_a_target_that_makes_no_sense_is_one_sentence(snapshot, wanted):
    with pytest.raises(UsageError):
        answers(snapshot, wanted)


def test_a_way_begins_and_ends_at_its_checkpoints(snapshot):
    found = way(snapshot, 2, 30, steps=5)
    places = snapshot.surrogate.plane_coordinates(snapshot.latents[[2, 30]])
    assert [p["share"] for p in found["points"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert np.array(found["points"][0]["place"]) == pytest.approx(places[0])
    assert np.array(found["points"][-1]["place"]) == pytest.approx(places[1])
    predicted = snapshot.surrogate.predict(snapshot.latents[2:3])
    assert found["points"][0]["predicted"]["coverage"] == pytest.approx(
        [predicted.point[0, 0], predicted.low[0, 0], predicted.high[0, 0]]
    )
    assert found["points"][0]["within_data"]
    assert found["not_mergeable"] is None


def test_a_way_needs_two_checkpoints_of_the_map(snapshot):
    for start, end in ((2, 2), (2, 68), (2, 400)):
        with pytest.raises(UsageError):
            way(snapshot, start, end)
    with pytest.raises(UsageError, match="steps"):
        way(snapshot, 2, 3, steps=1)


def test_embeddings_are_previewed_as_the_map_predicts_them(snapshot, zoo, tmp_path, monkeypatch):
    found = embedding(snapshot, 4)
    assert len(found["predicted"]) == 6
    assert found["real"] is None
    assert found["cosine"] is None
    monkeypatch.setattr("epsopt.studies.explore.what_if.real_embeddings", lambda *_: zoo[0].embeddings[4])
    url = f"sqlite:///{tmp_path / 'epsopt.db'}"
    Catalogue(url).close()
    beside = embedding(replace(snapshot, url=url), 4)
    assert len(beside["real"]) == 6
    assert -1.0 <= beside["cosine"] <= 1.0
    with pytest.raises(UsageError, match="no embedding head"):
        embedding(replace(snapshot, surrogate=replace(snapshot.surrogate, embedding_scale=None)), 4)


def test_nothing_is_said_to_be_queued_where_nothing_can_be(snapshot):
    with pytest.raises(UsageError, match="queued"):
        next_runs(snapshot, {}, n=1, record=True)


def test_no_number_that_json_has_no_word_for_is_sent():
    assert finite({"a": [math.nan, math.inf, 1.5, np.float32(2.0), np.int64(3), True, None, "x"]}) == {
        "a": [None, None, 1.5, 2.0, 3, True, None, "x"]
    }


def test_what_the_map_refuses_has_no_prediction_and_no_way(snapshot):
    refusing = replace(snapshot, refused={69: "none of the architectures has tensors such as c of 4 dimensions"})
    with pytest.raises(UsageError, match="cannot be predicted: none of the architectures has tensors such as c"):
        way(refusing, 3, 69)
    assert len(way(snapshot, 3, 69)["points"]) == 21
