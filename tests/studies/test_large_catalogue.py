"""Of a large catalogue a map is learned from some checkpoints, and the others are placed on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.figures import held_out
from epsopt.optimize import Objective
from epsopt.optimize.latent.search import learned_latents, search
from epsopt.optimize.latent.trust_region import trust_region
from epsopt.studies import surrogate_store, training_data
from epsopt.studies.surrogate_store import find_map, fit_map, unseen
from epsopt.surrogate import TrainingConfig
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.fingerprints.fingerprint import Fingerprint
from epsopt.zoo.ingestion.ingest import ingest

QUICK = TrainingConfig(steps=20, batch=16)
EPOCHS = 10


def write_runs(folder: Path, numbers: range) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        return {"a.weight": torch.randn(6, 4, generator=g), "b.weight": torch.randn(3, 6, generator=g)}

    base, direction = weights(0), weights(1)
    for run in numbers:
        strength, noise = (run * 0.618034) % 1.0, weights(100 + run)
        (folder / f"run_{run:03d}").mkdir(parents=True)
        for epoch in range(EPOCHS):
            far = strength * (epoch + 1) / EPOCHS
            state = {n: base[n] + far * direction[n] + 0.05 * noise[n] for n in base}
            about = {"metrics": {"gain": far**0.5}, "config": {"lr": strength}, "epoch": epoch}
            torch.save({"model_state_dict": state, **about}, folder / f"run_{run:03d}" / f"epoch_{epoch}.pt")


@pytest.fixture(scope="module")
def read_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    write_runs(folder / "runs", range(24))
    with Catalogue(f"sqlite:///{folder / 'epsopt.db'}") as catalogue:
        ingest(catalogue, folder / "runs", jobs=1)
    return folder / "epsopt.db"


@pytest.fixture
def catalogue(read_once, tmp_path):
    shutil.copy(read_once, tmp_path / "epsopt.db")
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        yield catalogue


@pytest.fixture
def few(monkeypatch):
    """A map is learned from sixty checkpoints, of catalogues as large as tests make them."""
    monkeypatch.setattr(training_data, "MOST_CHECKPOINTS", 60)


@pytest.fixture
def read(monkeypatch):
    """How many fingerprints each reading asks for."""
    asked: list[int] = []
    whole = Catalogue.fingerprints

    def counted(self: Catalogue, ids: list[int]) -> list[Fingerprint]:
        asked.append(len(ids))
        return whole(self, ids)

    monkeypatch.setattr(Catalogue, "fingerprints", counted)
    return asked


def test_a_map_of_a_large_catalogue_holds_all_and_never_reads_all_at_once(catalogue, few, read, monkeypatch):
    monkeypatch.setattr(training_data, "BATCH", 32)
    surrogate, validation, made = fit_map(catalogue, recipe=QUICK)
    checkpoints = catalogue.checkpoints()
    assert set(surrogate.memory.keys) == {c.sha256 for c in checkpoints}
    assert surrogate.memory.n_learned == validation.n_checkpoints == 60
    assert made.placed == len(checkpoints) - 60
    assert max(read) == 60
    assert set(surrogate.memory.head_rows.tolist()) <= set(range(60)), "heads answer from what was learned"
    assert unseen(catalogue, surrogate) == 0
    assert len(held_out(surrogate, validation)) == 60
    place = {c.sha256: c.id for c in checkpoints}
    placed = [60, 100, len(checkpoints) - 1]
    prints = catalogue.fingerprints([place[surrogate.memory.keys[i]] for i in placed])
    torch.testing.assert_close(surrogate.encode(prints), surrogate.memory.latents[placed])


def test_a_map_of_a_large_catalogue_is_kept_whole_and_is_current(catalogue, few, read):
    surrogate, _, _ = fit_map(catalogue, recipe=QUICK)
    read.clear()
    again, _, made = fit_map(catalogue, recipe=QUICK)
    assert made.how == "current"
    assert made.placed == len(surrogate.memory.keys) - 60
    assert sum(read) == 1, "what is current reads no fingerprints to learn from, but one of each architecture"
    assert again.memory.keys == surrogate.memory.keys
    assert again.memory.n_learned == 60
    torch.testing.assert_close(again.memory.latents, surrogate.memory.latents)


def test_new_runs_of_a_large_catalogue_refine_the_map_and_the_others_are_placed_anew(catalogue, few, tmp_path):
    before, _, _ = fit_map(catalogue, recipe=QUICK)
    write_runs(tmp_path / "runs", range(24, 27))
    ingest(catalogue, tmp_path / "runs", jobs=1)
    after, _, made = fit_map(catalogue, recipe=QUICK)
    assert made.how == "refined", made.reason
    assert set(before.memory.keys[:60]) <= set(after.memory.keys[: after.memory.n_learned])
    assert after.memory.n_learned == 90
    assert set(after.memory.keys) == {c.sha256 for c in catalogue.checkpoints()}
    kept = find_map(catalogue)
    assert kept is not None
    assert kept.surrogate.memory.n_learned == 90


def test_a_search_stays_where_the_map_was_learned_and_names_any_checkpoint_as_nearest(catalogue, few):
    surrogate, _, _ = fit_map(catalogue, recipe=QUICK)
    checkpoints = catalogue.checkpoints()
    learned = set(surrogate.memory.keys[:60])
    latents, known = learned_latents(surrogate, checkpoints)
    assert {c.sha256 for c in known} == learned
    found = search(surrogate, checkpoints, [Objective("gain", maximize=True)], neighbours=20)
    assert {n.sha256 for a in found.answers for n in a.nearest} - learned
    region = trust_region(latents, np.array([c.run_id for c in known]))
    assert region.contains(torch.stack([a.z for a in found.answers])).all()


@pytest.mark.slow
def test_up_to_the_limit_nothing_is_thinned_and_the_map_is_bit_for_bit_that_of_all(catalogue, monkeypatch):
    n = len(catalogue.checkpoints())
    limited, limited_validation = [], []
    for most in (n, 10 * n):
        monkeypatch.setattr(training_data, "MOST_CHECKPOINTS", most)
        surrogate, validation, made = fit_map(catalogue, recipe=QUICK, again=True)
        assert made.placed == 0
        assert surrogate.memory.learned is None
        limited.append(surrogate)
        limited_validation.append([(m.name, m.error, m.width) for m in validation.metrics])
    one, other = limited
    assert one.trained_on == other.trained_on == surrogate_store.find_map(catalogue).surrogate.trained_on
    assert one.memory.keys == other.memory.keys
    assert torch.equal(one.memory.latents, other.memory.latents)
    assert limited_validation[0] == limited_validation[1]


def test_checkpoints_with_nan_weights_are_not_placed(tmp_path, few):
    write_runs(tmp_path / "runs", range(10))
    for file in sorted((tmp_path / "runs").glob("run_00[0-2]/epoch_[3-5].pt")):
        content = torch.load(file, weights_only=True)
        content["model_state_dict"]["a.weight"][0] = torch.nan
        torch.save(content, file)
    with Catalogue(f"sqlite:///{tmp_path / 'epsopt.db'}") as catalogue:
        ingest(catalogue, tmp_path / "runs", jobs=1)
        surrogate, _, _ = fit_map(catalogue, recipe=QUICK)
        assert len(surrogate.memory.keys) == 100 - 9
        assert unseen(catalogue, surrogate) == 0
    assert np.isfinite(surrogate.memory.latents.numpy()).all()
