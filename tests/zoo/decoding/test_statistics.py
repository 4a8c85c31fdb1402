"""What is measured is what is saved, where networks keep statistics of their data, too."""

from __future__ import annotations

import hashlib
import sys

import pytest
import torch

from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.provenance import Provenance
from epsopt.zoo.decoding.recombination import Parent, Recombination
from epsopt.zoo.decoding.weight_gram import WeightProducts, weight_products
from epsopt.zoo.errors import HookError
from epsopt.zoo.reading.source import Limits

HOOKS = """
import torch
DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3.0 + 1.0
def net(state):
    found = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5, momentum=None), torch.nn.Linear(5, 1))
    found.load_state_dict(state)
    return found
def calibrate(state):
    found = net(state).train()
    found[1].reset_running_stats()
    found(DATA)
    return found.state_dict()
def evaluate(state):
    return {"score": float(net(state).eval()(DATA).square().mean())}
def both(state):
    state = calibrate(state)
    return evaluate(state), {n: t for n, t in state.items() if "running" in n}
def mute(state):
    return None
def odd(state):
    return {"1.running_mean": torch.zeros(3)}
"""


@pytest.fixture(scope="module")
def hooks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "statistics_hooks.py").write_text(HOOKS)
    sys.path.insert(0, str(folder))
    import statistics_hooks

    yield statistics_hooks
    sys.path.remove(str(folder))


@pytest.fixture
def parents(hooks, tmp_path):
    found = []
    for k in range(2):
        torch.manual_seed(k)
        net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1))
        path = tmp_path / f"{k}.pt"
        torch.save({"state_dict": hooks.calibrate(net.state_dict())}, path)
        found.append(Parent(str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    return tuple(found)


@pytest.mark.parametrize(("evaluate", "calibrate"), [("evaluate", "calibrate"), ("both", None)])
def test_corrected_statistics_are_saved_with_what_was_measured_with_them(hooks, parents, tmp_path, evaluate, calibrate):
    spec = None if calibrate is None else f"statistics_hooks:{calibrate}"
    with WeightDecoder(f"statistics_hooks:{evaluate}", calibrate=spec) as decoder:
        recombined = Recombination(parents, ((0.4, 0.6),))
        decoded = decoder.decode(recombined)
        measured = decoder.measure(decoded)
        decoder.forget(decoded)
        again = decoder.decode(recombined)  # as a merge is that joined the front
        decoder.save(again, tmp_path / "m.pt", Provenance("merge", None, measured))
        decoder.save(again, tmp_path / "m.safetensors", Provenance("merge", None, measured))
        assert decoder.notes == []
    saved = torch.load(tmp_path / "m.pt", weights_only=True)["state_dict"]
    assert hooks.evaluate(saved)["score"] == pytest.approx(measured["score"], abs=1e-6)
    assert measured["score"] == pytest.approx(hooks.evaluate(hooks.calibrate(saved))["score"], rel=1e-5)


def test_without_a_hook_a_sentence_says_that_statistics_of_a_merge_are_those_of_no_network(hooks, parents):
    with WeightDecoder("statistics_hooks:evaluate") as decoder:
        decoder.measure(decoder.decode(Recombination(parents[:1], ((1.0,),))))
        assert decoder.notes == []
        decoder.measure(decoder.decode(Recombination(parents, ((0.4, 0.6),))))
        assert "BatchNorm" in decoder.notes[0]
        assert "calibrate" in decoder.notes[0]


def test_variances_beyond_the_parents_stay_positive(hooks, parents):
    with WeightDecoder("statistics_hooks:evaluate") as decoder:
        for row in ((6.0, -5.0), (-5.0, 6.0)):
            decoded = decoder.decode(Recombination(parents, (row,)))
            low = torch.stack([torch.load(p.path)["state_dict"]["1.running_var"] for p in parents]).min(dim=0).values
            assert (decoded.tensors()["1.running_var"] >= low).all()
            assert decoder.measure(decoded)["score"] is not None


def test_statistics_count_for_nothing_in_distances(parents):
    said = [{"path": p.path, "sha256": p.sha256} for p in parents]
    products = WeightProducts.from_message(*weight_products({"base": said[0], "checkpoints": said[1:]}, Limits()))
    assert not [n for n in products.names if "running" in n]
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(products.others)


def test_a_hook_that_corrects_nothing_that_there_is_is_named(parents):
    for hook, reason in (("mute", "a NoneType"), ("odd", "of shape")):
        with (
            WeightDecoder("statistics_hooks:evaluate", calibrate=f"statistics_hooks:{hook}") as decoder,
            pytest.raises(HookError, match=reason) as error,
        ):
            decoder.measure(decoder.decode(Recombination(parents, ((0.5, 0.5),))))
        assert f"statistics_hooks:{hook}" in str(error.value)
