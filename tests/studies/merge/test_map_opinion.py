"""What the map says of merges before they are measured, and what it learns of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.optimize.objectives import Objective
from epsopt.studies.merge import map_opinion as module
from epsopt.studies.merge.map_opinion import MapOpinion, map_opinion
from epsopt.studies.merge.merge_sources import Sources, choose_sources
from epsopt.studies.surrogate_store import find_map, fit_map
from epsopt.surrogate import Surrogate
from epsopt.zoo import Catalogue, ingest
from epsopt.zoo.decoding.decoder import WeightDecoder
from epsopt.zoo.decoding.recombination import Recombination, recombination
from epsopt.zoo.errors import DamagedArtifact

HOOK = """
def evaluate(state):
    x = float(state["fc.weight"].mean())
    return {"up": 1.0 - (x - 1.0) ** 2, "down": 1.0 - x ** 2}
"""
OBJECTIVES = (Objective("up", maximize=True), Objective("down", maximize=True))
REFERENCE = np.array([-3.0, -3.0])


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Runs that move along one direction from one base, measured by a hook."""
    folder = tmp_path_factory.mktemp("opinion")
    (folder / "opinion_hook.py").write_text(HOOK)
    sys.path.insert(0, str(folder))
    import opinion_hook  # type: ignore[import-not-found]

    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    start -= start.mean()
    for run, reach in enumerate((-0.4, 0.1, 0.5, 0.9, 1.3, 1.6)):
        noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(run + 1))
        for epoch in (1, 2, 3):
            weight = start + reach * epoch / 3 + 0.02 * (noise - noise.mean())
            state = {"fc.weight": weight, "fc.bias": torch.zeros(6)}
            file = folder / "runs" / f"run_{run}" / f"epoch_{epoch}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": state, "metrics": opinion_hook.evaluate(state), "epoch": epoch}, file)
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        assert not ingest(catalogue, folder / "runs", jobs=1).failed
        yield catalogue
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def mapped(zoo: Catalogue) -> Catalogue:
    fit_map(zoo, objectives=["up", "down"])
    return zoo


@pytest.fixture
def decoder(zoo: Catalogue) -> Iterator[WeightDecoder]:
    with WeightDecoder("opinion_hook:evaluate") as opened:
        yield opened


def sources_of(zoo: Catalogue) -> tuple[Sources, ...]:
    return choose_sources(zoo.checkpoints(), zoo.lineages(), OBJECTIVES)


def merges(zoo: Catalogue) -> list[Recombination]:
    """Half-way between runs, and at one end."""
    known = {(c.run, c.epoch): c for c in zoo.checkpoints()}
    pairs = [("run_0", "run_5"), ("run_2", "run_3"), ("run_0", "run_1")]
    return [recombination([known[one, 3], known[other, 3]], [[0.5, 0.5]]) for one, other in pairs]


def measured(zoo: Catalogue) -> np.ndarray:
    return np.array([[c.metrics["up"], c.metrics["down"]] for c in zoo.checkpoints()])


def opinion_of(decoder: WeightDecoder, zoo: Catalogue) -> MapOpinion:
    found, words = map_opinion(decoder, zoo, sources_of(zoo), OBJECTIVES)
    assert found is not None
    assert "together" in words
    return found


def test_gains_are_those_of_the_map_and_merges_are_learned(decoder: WeightDecoder, mapped: Catalogue) -> None:
    opinion, wanted = opinion_of(decoder, mapped), merges(mapped)
    few = measured(mapped)
    gains = opinion.gains(wanted, few, REFERENCE)
    assert (gains > 0.0).all()
    np.testing.assert_array_equal(gains, opinion_of(decoder, mapped).gains(wanted, few, REFERENCE))
    decoded = decoder.decode(wanted[1])
    opinion.learn(wanted[1], decoder.measure(decoded))
    later = opinion.gains([wanted[1]], np.vstack([few, [list(decoder.measure(decoded).values())]]), REFERENCE)
    assert later[0] < 0.8 * gains[1]  # it is known what it measures, and the front holds it
    opinion.learn(recombination([mapped.checkpoints()[0]], [[1.0]]), {"up": 1.0})  # was never looked at


def test_nothing_is_said_of_weights_that_cannot_be_read_or_of_another_architecture(
    decoder: WeightDecoder, mapped: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    opinion, wanted = opinion_of(decoder, mapped), merges(mapped)
    read = module.read_fingerprints
    monkeypatch.setattr(
        module, "read_fingerprints", lambda paths, *a, **k: read([Path("gone.pt"), *paths[1:]], *a, **k)
    )
    assert np.isfinite(opinion.gains(wanted, measured(mapped), REFERENCE)).tolist() == [False, True, True]
    size = max(Path(c.path).stat().st_size for c in mapped.checkpoints())
    monkeypatch.setattr(module, "TOGETHER", 6 * size)
    many = [m for m in merges(mapped) for _ in range(3)]
    assert np.isfinite(opinion_of(decoder, mapped).gains(many, measured(mapped), REFERENCE)).sum() == 6
    monkeypatch.setattr(Surrogate, "refusal", lambda *_, **__: "unknown")
    assert np.isnan(opinion_of(decoder, mapped).gains(wanted, measured(mapped), REFERENCE)).all()


def test_where_there_is_no_opinion_it_is_said_why(
    decoder: WeightDecoder, mapped: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(objectives: tuple[Objective, ...] = OBJECTIVES) -> str:
        found, words = map_opinion(decoder, mapped, sources_of(mapped), objectives)
        assert found is None
        return words

    assert "does not know sideways" in said((*OBJECTIVES, Objective("sideways", maximize=True)))
    monkeypatch.setattr(module, "TOGETHER", 100)
    assert "take long to look at" in said()
    monkeypatch.setattr(module, "find_map", lambda _: None)
    assert "no map is fitted" in said()

    def damaged(_: Catalogue) -> None:
        raise DamagedArtifact("the map cannot be read")

    monkeypatch.setattr(module, "find_map", damaged)
    assert said().startswith("the map cannot be read")
    assert find_map(mapped) is not None
