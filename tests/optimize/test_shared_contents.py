"""Runs of one name, and files that several runs share: nothing is merged, and nothing predicts itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from epsopt.optimize.latent.neighbours import nearest
from epsopt.optimize.latent.search import known_latents
from epsopt.optimize.latent.trajectory import run_paths
from epsopt.optimize.latent.trust_region import trust_region
from epsopt.optimize.proposals.past_runs import past_runs
from epsopt.zoo.catalogue.types import each_content_once


def test_runs_of_one_name_are_distinguished_by_their_ids(zoo, fitted):
    surrogate, (_, checkpoints) = fitted[0], zoo
    same = [replace(c, run="run_000") for c in checkpoints]
    latents, known = known_latents(surrogate, same, of_runs=True)
    assert len(run_paths(surrogate, known, latents)) == 14
    past = past_runs(surrogate, same)
    assert [r.run_id for r in past] == list(range(14))
    assert [r.config["seed"] for r in past] == list(range(14))


def shared(checkpoints):
    """All runs begin at the first one's file; a folder of copies holds the last of three runs."""
    first = checkpoints[0]
    begun = [replace(c, sha256=first.sha256) if c.epoch == 1 else c for c in checkpoints]
    copies = [replace(c, id=900 + c.id, run_id=99, run="best", path=f"/best/{c.run_id}.pt") for c in begun[4:15:5]]
    return [*copies, *begun]


def test_what_runs_share_is_one_of_the_run_that_has_most_of_them(zoo):
    known = shared(zoo[1])
    once = each_content_once(known)
    assert len(once) == len({c.sha256 for c in known}) == 57
    assert [c.run for c in once if c.sha256 == known[3].sha256] == ["run_00"]
    assert all(c.run != "best" for c in once), "copies do not part a run"
    assert each_content_once(once) == once


def test_a_metric_that_one_of_the_runs_did_not_measure_is_taken_from_the_others(zoo):
    one, other = zoo[1][0], replace(zoo[1][1], run_id=5, sha256=zoo[1][0].sha256)
    bare = replace(one, metrics={"coverage": None})
    (kept,) = each_content_once([bare, replace(other, metrics={"coverage": 0.5, "structure": 0.25})])
    assert kept.metrics == {"coverage": 0.5, "structure": 0.25}


def test_a_shared_file_is_no_neighbour_of_itself_and_does_not_shrink_the_trust_region(zoo, fitted):
    surrogate, known = fitted[0], shared(zoo[1])
    latents, kept = known_latents(surrogate, known)
    near = nearest(latents[:1], latents, kept, 3)[0]
    assert len({n.sha256 for n in near}) == 3
    twice, both = known_latents(surrogate, [*zoo[1], *(replace(c, run_id=c.run_id + 50) for c in zoo[1])], of_runs=True)
    region = trust_region(twice, np.array([c.run_id for c in both]))
    latents, kept = known_latents(surrogate, zoo[1])
    alone = trust_region(latents, np.array([c.run_id for c in kept]))
    assert region.radius == alone.radius > 0
    assert torch.equal(region.reach, alone.reach)
    assert len({n.sha256 for n in nearest(twice[:1], twice, both, 4)[0]}) == 4
