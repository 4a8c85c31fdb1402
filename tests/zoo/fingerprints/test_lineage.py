"""Lineages: declared by the runs, found from distances, or separate; whatever the order of answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.fingerprints.fingerprint import SECTIONS, fingerprint
from epsopt.zoo.fingerprints.lineage import KnownLineage, LineageBook
from epsopt.zoo.fingerprints.sketch import SKETCH, gain_directions, sketch_distance, sketch_of, without_directions
from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints


def other_base(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (32, 16), "a.bias": (32,), "b.weight": (8, 32), "b.bias": (8,)}
    return {n: torch.randn(s, generator=generator) for n, s in shapes.items()}


def near(base: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    noise = other_base(seed)
    return {n: w + 0.05 * noise[n] for n, w in base.items()}


def test_fine_tunes_of_one_base_are_one_lineage_and_the_first_is_its_reference(catalogue, runs):
    ingest(catalogue, runs)
    (lineage,) = catalogue.lineages()
    assert not lineage.declared
    assert lineage.reference_path == str(runs / "one" / "epoch_001.pt")
    assert {c.lineage_id for c in catalogue.checkpoints()} == {lineage.id}


def test_independent_initialisations_are_lineages_of_their_own(catalogue, tmp_path, save):
    for run in range(6):
        base = other_base(run)
        for epoch in range(4):
            weights = near(base, 100 * run + epoch + 10)
            save(tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt", epoch, weights=weights, run=run)
    ingest(catalogue, tmp_path / "runs")
    lineages = {(c.run, c.lineage_id) for c in catalogue.checkpoints()}
    assert len(lineages) == 6
    assert [Path(line.reference_path).name for line in catalogue.lineages()] == ["epoch_0.pt"] * 6


def test_an_ingest_in_two_steps_or_with_other_jobs_comes_to_the_same_lineages(tmp_path, save):
    for run in range(4):
        base = other_base(run % 2)
        for epoch in range(3):
            save(
                tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt",
                epoch,
                weights=near(base, 10 * run + epoch),
            )
    results = []
    for name, jobs, steps in (
        ("a", 2, [tmp_path / "runs"]),
        ("b", 1, [tmp_path / "runs" / f"run_{r}" for r in range(4)]),
    ):
        with Catalogue(f"sqlite:///{tmp_path / name}.db") as catalogue:
            for step in steps:
                ingest(catalogue, step, jobs=jobs)
            found = sorted(catalogue.checkpoints(), key=lambda c: c.path)
            kept = catalogue.fingerprints([c.id for c in found])
            results.append(([(c.path, c.lineage_id) for c in found], [f.to_bytes() for f in kept]))
    assert results[0] == results[1]


def test_other_tensor_names_are_another_signature_and_lineage(catalogue, tmp_path):
    torch.save({"model": {"w": torch.ones(4, 4)}}, tmp_path / "a.pt")
    torch.save({"model": {"w": torch.ones(4, 5)}}, tmp_path / "b.pt")
    ingest(catalogue, tmp_path)
    first, second = catalogue.checkpoints()
    assert first.signature != second.signature
    assert first.lineage_id != second.lineage_id
    assert catalogue.checkpoints(signature=first.signature) == [first]


def test_a_declared_base_is_the_reference_of_its_lineage(catalogue, tmp_path, save):
    base = other_base(1)
    torch.save({"model_state_dict": base}, tmp_path / "base.pt")
    # Trained so far that distances would not tell: the declaration does.
    far = {n: w + 2.0 * other_base(2)[n] for n, w in base.items()}
    save(tmp_path / "runs" / "one" / "epoch_1.pt", 1, weights=far, init_from="../../base.pt")
    save(tmp_path / "runs" / "two" / "epoch_1.pt", 2, weights=near(base, 3), base=str(tmp_path / "base.pt"))
    save(tmp_path / "runs" / "undeclared" / "epoch_1.pt", 3, weights=near(base, 4))
    ingest(catalogue, tmp_path / "runs")
    (lineage,) = catalogue.lineages()
    assert lineage.declared
    assert lineage.reference_path == str(tmp_path / "base.pt")
    deltas = [f.features[:, SECTIONS["DELTA"]] for f in catalogue.fingerprints([c.id for c in catalogue.checkpoints()])]
    assert all(np.any(d != 0) for d in deltas)


def test_a_run_that_starts_from_another_run_is_of_the_lineage_that_both_come_from(catalogue, tmp_path, save):
    base = other_base(1)
    torch.save({"model_state_dict": base}, tmp_path / "base.pt")
    first = near(base, 3)
    save(tmp_path / "runs" / "one" / "epoch_1.pt", 1, weights=first, init_from="../../base.pt")
    save(tmp_path / "runs" / "two" / "epoch_1.pt", 2, weights=near(first, 4), init_from="../one/epoch_1.pt")
    save(tmp_path / "runs" / "three" / "epoch_1.pt", 3, weights=near(first, 5), init_from="../two/epoch_1.pt")
    ingest(catalogue, tmp_path / "runs")
    (lineage,) = catalogue.lineages()
    assert lineage.reference_path == str(tmp_path / "base.pt")


def test_runs_that_name_each_other_as_their_base_are_read_all_the_same(catalogue, tmp_path, save):
    base = other_base(1)
    save(tmp_path / "runs" / "one" / "epoch_1.pt", 1, weights=near(base, 3), init_from="../two/epoch_1.pt")
    save(tmp_path / "runs" / "two" / "epoch_1.pt", 2, weights=near(base, 4), init_from="../one/epoch_1.pt")
    assert ingest(catalogue, tmp_path / "runs").added == 2


def test_a_file_outside_the_catalogue_that_declares_its_base_is_of_that_bases_lineage(catalogue, tmp_path, save):
    base = other_base(1)
    torch.save({"model_state_dict": base}, tmp_path / "base.pt")
    for name in ("inside", "outside"):
        save(tmp_path / name / "epoch_1.pt", 1, weights=near(base, 3), init_from="../base.pt", name=name)
    ingest(catalogue, tmp_path / "inside")
    (read,) = read_fingerprints([tmp_path / "outside" / "epoch_1.pt"], catalogue)
    assert read.lineage == catalogue.lineages()[0].id
    (unknown,) = read_fingerprints([tmp_path / "outside" / "epoch_1.pt"])
    assert unknown.lineage is None


def test_a_base_that_was_ingested_first_becomes_declared_when_a_run_names_it(catalogue, tmp_path, save):
    base = other_base(1)
    save(tmp_path / "runs" / "a_base" / "base.pt", 0, weights=base)
    ingest(catalogue, tmp_path / "runs")
    assert [line.declared for line in catalogue.lineages()] == [False]
    save(tmp_path / "runs" / "one" / "epoch_1.pt", 1, weights=near(base, 3), init_from="../a_base/base.pt")
    ingest(catalogue, tmp_path / "runs")
    assert [line.declared for line in catalogue.lineages()] == [True]


def test_a_declared_base_with_fewer_tensors_is_still_the_reference_for_those_it_has(catalogue, tmp_path, save):
    base = other_base(1)
    torch.save({n: w for n, w in base.items() if n.startswith("a.")}, tmp_path / "base.pt")
    save(tmp_path / "one" / "epoch_1.pt", 1, weights=near(base, 3), init_from=str(tmp_path / "base.pt"))
    save(tmp_path / "one" / "epoch_2.pt", 2, weights=near(base, 4), init_from=str(tmp_path / "base.pt"))
    ingest(catalogue, tmp_path / "one")
    (lineage,) = catalogue.lineages()
    kept = catalogue.fingerprints([c.id for c in catalogue.checkpoints()])[0]
    has_delta = {n: bool(np.any(row)) for n, row in zip(kept.names, kept.features[:, SECTIONS["DELTA"]], strict=True)}
    assert has_delta == {"a.weight": True, "a.bias": True, "b.weight": False, "b.bias": False}
    assert {c.lineage_id for c in catalogue.checkpoints()} == {lineage.id}


def test_a_base_that_is_no_file_or_no_checkpoint_declares_nothing(catalogue, tmp_path, save):
    (tmp_path / "notes.pt").write_text("no")
    for i, base in enumerate(("bert-base", "/etc/passwd", "..", "gone.pt", str(tmp_path / "notes.pt"), "a\0b.pt")):
        save(tmp_path / "runs" / f"r{i}" / "epoch_1.pt", i, base=base)
    report = ingest(catalogue, tmp_path / "runs")
    assert (report.added, report.failed) == (6, [])
    assert [line.declared for line in catalogue.lineages()] == [False]


def test_when_a_reference_is_gone_later_checkpoints_found_a_new_lineage(catalogue, runs, save):
    ingest(catalogue, runs)
    (runs / "one" / "epoch_001.pt").unlink()
    save(runs / "three" / "epoch_001.pt", 31)
    save(runs / "three" / "epoch_002.pt", 32)
    assert ingest(catalogue, runs).added == 2
    old, new = catalogue.lineages()
    of_run = {c.run: c.lineage_id for c in catalogue.checkpoints()}
    assert of_run == {"one": old.id, "two": old.id, "three": new.id}


def test_files_outside_the_catalogue_are_compared_with_its_lineages(catalogue, runs, tmp_path, save):
    ingest(catalogue, runs)
    inside = save(tmp_path / "new.pt", 77)
    outside = save(tmp_path / "foreign.pt", 78, weights=other_base(5))
    first, second = read_fingerprints([inside, outside], catalogue)
    assert first.lineage == catalogue.lineages()[0].id
    assert second.lineage is None
    assert len(catalogue.checkpoints()) == 4


def test_the_nearest_lineage_is_chosen_as_sketch_distance_says_and_ties_go_to_the_oldest():
    rng = np.random.default_rng(0)
    sketches = [rng.standard_normal(64).astype(np.float32) for _ in range(3)]
    book = LineageBook(KnownLineage(i + 1, "s", f"{i}.pt", str(i), False, v) for i, v in enumerate(sketches))
    query = (sketches[1] + 0.1 * sketches[0]).astype(np.float32)
    assert min(range(3), key=lambda i: sketch_distance(query, sketches[i])) == 1
    assert book.nearest("s", query).id == 2
    assert book.nearest("other", query) is None
    assert book.nearest("s", -query) is None
    book.add(KnownLineage(9, "s", "twin.pt", "twin", False, sketches[1]))
    assert book.nearest("s", query).id == 2
    book.close(2)
    assert book.nearest("s", query).id == 9


def small_transformer(seed: int, moved: float = 0.0) -> dict[str, torch.Tensor]:
    """Weights with gains of one that are most of their norm, as layer norms of a small transformer have them."""
    g, h = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(1000 + seed)
    state = {}
    for block in range(4):
        weight = 0.02 * torch.randn(24, 24, generator=g)
        state[f"blocks.{block}.norm.weight"] = torch.ones(24) + moved * torch.randn(24, generator=h)
        state[f"blocks.{block}.norm.bias"] = moved * torch.randn(24, generator=h)
        state[f"blocks.{block}.linear.weight"] = weight + moved * 0.02 * torch.randn(24, 24, generator=h)
    return state


def test_gains_that_begin_at_one_do_not_make_initialisations_alike(catalogue, tmp_path):
    for seed in range(3):
        for epoch in range(3):
            path = tmp_path / "runs" / f"run_{seed}" / f"epoch_{epoch}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": small_transformer(seed, 0.1 * epoch), "epoch": epoch}, path)
    one, other = (fingerprint(small_transformer(seed).items()) for seed in range(2))
    assert sketch_distance(one.sketch, other.sketch) < 0.5, "as near as a fine-tune is to its base"
    ingest(catalogue, tmp_path / "runs")
    lineages = {}
    for c in catalogue.checkpoints():
        lineages.setdefault(c.run, set()).add(c.lineage_id)
    assert [len(ids) for ids in lineages.values()] == [1, 1, 1]
    assert len(set.union(*lineages.values())) == 3


def test_directions_of_gains_are_those_of_tensors_that_begin_at_one():
    shapes = {"norm.weight": (8,), "norm.bias": (8,), "bn.running_var": (8,), "bn.running_mean": (8,), "w": (4, 8)}
    directions = gain_directions(tuple(shapes), tuple(shapes.values()))
    assert directions.shape == (SKETCH, 2)
    ones = sketch_of("norm.weight", np.ones(8, dtype=np.float32))
    assert np.abs(without_directions(ones, directions)).max() < 1e-9
    weights = sketch_of("w", np.random.default_rng(0).normal(size=32).astype(np.float32))
    assert np.linalg.norm(without_directions(weights, directions)) > 0.9 * np.linalg.norm(weights)
    only_vectors = {n: s for n, s in shapes.items() if len(s) == 1}
    assert gain_directions(tuple(only_vectors), tuple(only_vectors.values())) is None
    assert gain_directions(("w",), ((4, 8),)) is None
    many = tuple(f"layers.{i}.weight" for i in range(600))
    assert gain_directions((*many, "w"), (*[(16,)] * 600, (4, 8))).shape == (SKETCH, 256)


def drifting(base: dict[str, torch.Tensor], steps: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Weights of a run that moves by .4 of the base's size in each epoch, always in another direction."""
    out = [base]
    for step in range(1, steps):
        move = other_base(1000 * seed + step)
        out.append({n: w + 0.4 * move[n] for n, w in out[-1].items()})
    return out


def test_a_run_that_moves_far_from_its_first_checkpoint_stays_one_lineage(catalogue, tmp_path, save):
    for run in range(3):
        for epoch, weights in enumerate(drifting(other_base(run), 8, run + 1)):
            save(tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt", epoch, weights=weights, run=run)
    ingest(catalogue, tmp_path / "runs")
    kept = [f.sketch for f in catalogue.fingerprints([c.id for c in catalogue.checkpoints()])]
    assert sketch_distance(kept[0], kept[7]) > 0.7
    assert len({(c.run, c.lineage_id) for c in catalogue.checkpoints()}) == 3
    assert [Path(line.reference_path).name for line in catalogue.lineages()] == ["epoch_0.pt"] * 3


def test_a_far_checkpoint_that_comes_later_is_of_its_runs_lineage_too(catalogue, tmp_path, save):
    weights = drifting(other_base(1), 8, 1)
    for epochs in ((0, 1), (6, 7)):
        for epoch in epochs:
            save(tmp_path / "run" / f"epoch_{epoch}.pt", epoch, weights=weights[epoch])
        ingest(catalogue, tmp_path / "run")
    (lineage,) = catalogue.lineages()
    prints = catalogue.fingerprints([c.id for c in catalogue.checkpoints()])
    assert Path(lineage.reference_path).name == "epoch_0.pt"
    assert np.any(prints[-1].features[:, SECTIONS["DELTA"]] != 0), "deltas are taken from the lineage's reference"


def test_runs_of_one_first_checkpoint_are_one_lineage_however_far_they_go(catalogue, tmp_path, save):
    base = other_base(1)
    for run in (1, 2):
        for epoch, weights in enumerate(drifting(base, 8, run)):
            said = {} if epoch == 0 else {"run": run}
            save(tmp_path / "runs" / f"run_{run}" / f"epoch_{epoch}.pt", epoch, weights=weights, **said)
    ingest(catalogue, tmp_path / "runs")
    assert len(catalogue.lineages()) == 1


def test_a_run_that_was_resumed_from_another_one_is_of_its_lineage(catalogue, tmp_path, save):
    first, second = drifting(other_base(1), 16, 1)[::8], drifting(other_base(1), 16, 1)[12:]
    for epoch, weights in zip((1, 9), first, strict=True):
        save(tmp_path / "runs" / "a" / f"epoch_{epoch}.pt", epoch, weights=weights)
    for epoch, weights in enumerate(second, 10):
        save(tmp_path / "runs" / "b" / f"epoch_{epoch}.pt", epoch, weights=weights, resume_from="../a/epoch_9.pt")
    ingest(catalogue, tmp_path / "runs")
    assert [Path(line.reference_path).name for line in catalogue.lineages()] == ["epoch_1.pt"]


def test_a_run_that_resumes_itself_names_no_base(catalogue, tmp_path, save):
    for epoch in (1, 2, 3):
        path = tmp_path / "run" / f"epoch_{epoch}.pt"
        save(path, epoch, weights=near(other_base(1), epoch), resume_from=str(tmp_path / "run" / "epoch_3.pt"))
    ingest(catalogue, tmp_path / "run")
    (lineage,) = catalogue.lineages()
    assert (lineage.declared, Path(lineage.reference_path).name) == (False, "epoch_1.pt")


def test_independent_models_in_one_folder_are_lineages_of_their_own(catalogue, tmp_path, save):
    for i in range(4):
        save(tmp_path / "models" / f"epoch_{i}.pt", i, weights=other_base(i))
    ingest(catalogue, tmp_path / "models")
    assert len(catalogue.lineages()) == 4
