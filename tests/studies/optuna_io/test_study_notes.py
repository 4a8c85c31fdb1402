"""A note's link opens the page to explore at the run that it speaks of."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from epsopt.optimize.latent.neighbours import Neighbour
from epsopt.optimize.latent.search import Answer
from epsopt.studies.optuna_io.study_notes import answer_note, proposal_note


def linked_run(note: str) -> str:
    (address,) = re.findall(r"\[its page\]\(([^)]*)\)", note)
    assert urlsplit(address).port == 8081
    (run,) = parse_qs(urlsplit(address).fragment)["run"]
    return run


def test_the_note_of_a_proposal_leads_to_its_run():
    assert linked_run(proposal_note(7, "trained", None, [], {"lr": 0.1}, None, [])) == "proposal_007"


@pytest.mark.parametrize("run", ["run_012", "sweep (2)/lr=0.1&wd", "läufe/a b"])
def test_the_note_of_an_answer_leads_to_the_run_of_its_nearest_checkpoint(run):
    near = Neighbour("runs/a/epoch_1.pt", run, 1, 0.5, {"accuracy": 0.9}, {}, "0" * 64)
    point = {"accuracy": 0.9}
    assert (
        linked_run(answer_note(1, Answer(torch.zeros(2), point, point, point, 0.5, (near,), torch.zeros(1, 2)))) == run
    )
