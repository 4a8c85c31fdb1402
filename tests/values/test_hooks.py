"""What a user's hooks return: numbers are kept, what is not finite is said to be so, all else is one sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize import Objective
from epsopt.optimize.merge.simplex_merge import merge
from epsopt.studies.surrogate_store import training_set
from epsopt.surrogate import TrainingConfig, fit
from epsopt.zoo.errors import EpsoptError, HookError
from epsopt.zoo.reading.hooks import embed, measure

from .conftest import kept, numbers, quick, save

STATE = {"w": torch.ones(2, 3)}
NO_NUMBER = ["0.5", "nan", "", b"1", None, [0.5], [], {"a": 1.0}, 1j, torch.ones(2), np.ones(3), object()]


@quick
@given(st.lists(numbers | st.booleans(), max_size=12))
def test_measured_numbers_are_finite_or_not_measured(values):
    named = {f"m{i}": value for i, value in enumerate(values)}
    found, corrected = measure(lambda _: named, "h:f", STATE, "x.pt")
    assert found == {name: kept(value) for name, value in named.items()}
    assert corrected == {}


def test_numbers_of_any_library_and_of_any_size_are_numbers():
    one = {"t": torch.tensor(0.5, requires_grad=True), "n": np.float32(0.5), "a": torch.tensor([0.5]), "h": 10**400}
    assert measure(lambda _: one, "h:f", STATE, "x.pt")[0] == {"t": 0.5, "n": 0.5, "a": 0.5, "h": None}


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda v: f"{type(v).__name__}-{str(v)[:6]}")
def test_what_is_no_number_is_one_sentence_with_its_name(value):
    with pytest.raises(HookError, match=r"'h:f' returned 'm': .* on x.pt: expected a dictionary from metric names"):
        measure(lambda _: {"good": 0.5, "m": value}, "h:f", STATE, "x.pt")
    with pytest.raises(HookError, match=r"'h:f' returned .* on x.pt: expected a dictionary from metric names"):
        measure(lambda _: {0: 0.5} if isinstance(value, dict) else value, "h:f", STATE, "x.pt")


def opened(path="x.pt"):
    """A checkpoint of one tensor, as the reading process hands it to a hook."""
    checkpoint = SimpleNamespace(source=SimpleNamespace(path=path), read=lambda name, _: STATE[name])
    return checkpoint, {"w": None}


@pytest.mark.parametrize(
    "value",
    [None, "text", 0.5, [0.5], [], [[]], [[1.0], [1.0, 2.0]], {"a": 1.0}, [["a"]], np.ones((2, 2, 2)), torch.ones(3)],
    ids=lambda v: f"{type(v).__name__}-{str(v)[:12]}",
)
def test_what_is_no_embedding_is_one_sentence(value):
    with pytest.raises(HookError, match=r"the embed hook 'h:f' (returned shape|failed on x.pt)"):
        embed(lambda _: value, "h:f", *opened())


def test_embeddings_that_are_not_finite_or_of_another_shape_count_as_none(door, zoo, monkeypatch):
    folder = door.new()
    for epoch in range(6):
        save(folder / f"epoch_{epoch}.pt", epoch, metrics={"m": epoch / 6})
    door.read(folder)
    good = np.ones((2, 3), dtype=np.float32)
    odd = [np.full((2, 3), np.nan), good * np.inf, np.ones((3, 2)), None, good, good]
    given_out = [None if e is None else embed(lambda _, e=e: e, "h:f", *opened()) for e in odd]
    monkeypatch.setattr(door.catalogue, "embeddings", lambda _: given_out)
    found = training_set(door.catalogue).embeddings
    assert np.isfinite(found).all(axis=(1, 2)).tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("odd", [1e30, 1e300, 0.0])
def test_a_map_learns_beside_embeddings_that_are_huge_constant_or_missing(zoo, odd, monkeypatch):

    train = zoo[0].take(np.arange(30))
    embeddings = train.embeddings.copy()
    with np.errstate(over="ignore"):
        embeddings[::2] = np.float32(min(odd, 3e38))
    embeddings[1::4] = np.nan
    surrogate, _ = fit(replace(train, embeddings=embeddings), recipe=TrainingConfig(steps=5, batch=8), folds=2)
    z = surrogate.encode(train.fingerprints)
    found = surrogate.predict(z)
    assert all(np.isfinite(ends).all() for ends in (found.point, found.low, found.high))


@pytest.mark.parametrize("odd", [1e8])
def test_a_merge_goes_on_whatever_is_measured_of_its_merges(odd):
    """A hook's NaN, infinity and 1e300 come as None; the parents' own values are ordinary ones."""
    done: list[float] = []

    def evaluate(c: np.ndarray) -> dict[str, float | None]:
        done.append(float(c[0, 0]))
        ordinary = {"accuracy": 0.5 + done[-1] / 4, "latency": 1.0 + done[-1]}
        return ordinary if len(done) <= 2 else {**ordinary, "latency": odd}

    objectives = (Objective("accuracy", maximize=True), Objective("latency", maximize=False))
    found = merge(evaluate, 2, objectives, budget=4)
    assert len(done) <= 4
    assert math.isfinite(found.before)
    assert math.isfinite(found.after)
    for evaluation in found.evaluations:
        for name, predicted in (evaluation.predicted or {}).items():
            assert all(math.isfinite(v) for v in predicted.values()), name
            if name == "latency":
                assert min(predicted.values()) > 0.0


@pytest.mark.parametrize("odd", [None, {}])
def test_a_merge_whose_parents_were_not_measured_says_so(odd):
    objectives = (Objective("accuracy", maximize=True),)
    with pytest.raises(EpsoptError, match="accuracy"):
        merge(lambda _: {"accuracy": None} if odd is None else {}, 2, objectives, budget=4)
