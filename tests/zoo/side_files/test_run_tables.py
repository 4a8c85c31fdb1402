"""Tables of runs: a CSV file, an Optuna study, each matched to the runs that were found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import optuna
import pytest
import torch

from epsopt.studies.optuna_io.optuna_import import study_sheet
from epsopt.zoo.catalogue.catalogue import Catalogue
from epsopt.zoo.errors import CatalogueError, UsageError
from epsopt.zoo.ingestion.ingest import ingest
from epsopt.zoo.layouts.parsed import Position
from epsopt.zoo.reading.pool import shared_pool
from epsopt.zoo.side_files.discover import read_table
from epsopt.zoo.side_files.run_tables import Entry, RunTable, match

from ..layouts.examples import weights  # noqa: TID252


@pytest.fixture
def bare(tmp_path) -> Path:
    """Three runs of two checkpoints that say nothing of themselves."""
    for run in range(3):
        for epoch in (1, 2):
            path = tmp_path / "runs" / f"trial_{run:03d}" / f"epoch_{epoch}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": weights(10 * run + epoch)}, path)
    return tmp_path / "runs"


def table(path: Path, text: str, **columns) -> RunTable:
    path.write_text(text)
    return RunTable(f"table {path}", path.parent, read_table(shared_pool(2), path, **columns))


def measured(catalogue: Catalogue):
    return {(c.run, c.epoch): c.metrics for c in catalogue.checkpoints() if c.metrics}


def test_a_table_tells_hyperparameters_and_metrics_of_runs_and_of_checkpoints(bare, catalogue):
    text = (
        "path,param.lr,param.name,metric.acc,epoch\n"
        "trial_000,1e-3,adam,0.5,1\n"
        "trial_000,1e-3,adam,0.75,2\n"
        "runs/trial_001/epoch_1.pt,0.1,no,0.25,\n"
        f"{bare / 'trial_002'},0.2,sgd,nan,\n"
        "elsewhere,0.3,sgd,0.1,\n"
    )
    sheet = table(bare.parent / "runs.csv", text)
    report = ingest(catalogue, bare, sheets=[sheet])
    assert report.unmatched == {sheet.name: 1}
    assert [r.hyperparameters for r in catalogue.runs()] == [
        {"lr": 0.001, "name": "adam"},
        {"lr": 0.1, "name": "no"},
        {"lr": 0.2, "name": "sgd"},
    ]
    assert measured(catalogue) == {
        ("trial_000", 1): {"acc": 0.5},
        ("trial_000", 2): {"acc": 0.75},
        ("trial_001", 1): {"acc": 0.25},
        ("trial_002", 2): {"acc": None},
    }


def test_declared_columns_need_no_prefix(bare, catalogue):
    text = "folder;lr;acc\ntrial_000;0.5;0.25\n"
    sheet = table(bare.parent / "runs.csv", text, params=["lr"], metrics=["acc"])
    ingest(catalogue, bare, sheets=[sheet])
    assert catalogue.runs()[0].hyperparameters == {"lr": 0.5}
    assert measured(catalogue) == {("trial_000", 2): {"acc": 0.25}}


def test_what_a_table_said_stays_without_it_and_is_replaced_by_its_next_state(bare, catalogue):
    file = bare.parent / "runs.csv"
    ingest(catalogue, bare, sheets=[table(file, "path,metric.acc\ntrial_000,0.5\n")])
    assert ingest(catalogue, bare).refreshed_runs == 0
    assert measured(catalogue) == {("trial_000", 2): {"acc": 0.5}}
    ingest(catalogue, bare, sheets=[table(file, "path,metric.acc\ntrial_001,0.75\n")])
    assert measured(catalogue) == {("trial_001", 2): {"acc": 0.75}}


def test_a_table_counts_more_than_side_files_and_less_than_the_checkpoint(bare, catalogue):
    run = bare / "trial_000"
    (run / "config.json").write_text('{"lr": 1, "beta": 2, "seed": 3}')
    torch.save({"model": weights(2), "config": {"seed": 5}}, run / "epoch_2.pt")
    sheet = table(bare.parent / "runs.csv", "path,param.lr,param.seed\ntrial_000,7,7\n")
    ingest(catalogue, bare, sheets=[sheet])
    assert catalogue.runs()[0].hyperparameters == {"lr": 7, "beta": 2, "seed": 5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("lr,acc\n1,2\n", "no row names its run"), ("path,path\na,b\n", "stands twice"), ("\xff", "not UTF-8")],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, text, reason):
    (tmp_path / "runs.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=reason):
        read_table(shared_pool(2), tmp_path / "runs.csv")


def test_a_row_that_could_mean_two_runs_means_none():
    runs = {f"/a/{part}/run_1": [Position("k", f"/a/{part}/run_1/e.pt", 1, None)] for part in "xy"}
    rows = (Entry(("run_1",), {"lr": 1}), Entry((), {"lr": 1}, number=1), Entry(("x/run_1",), {"lr": 2}))
    found = match([RunTable("t", Path("/elsewhere"), rows)], runs, [])
    assert found.unmatched == {"t": 2}
    assert list(found.given) == ["/a/x/run_1"]


@pytest.fixture
def study(tmp_path, bare) -> str:
    """A study of three trials: by number, by attribute, and one that failed."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(storage=url, study_name="old", direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.0, 1.0)
        trial.report(0.125, 1)
        if trial.number == 1:
            trial.set_user_attr("folder", str(bare / "trial_002"))
        if trial.number == 2:
            raise RuntimeError
        return lr / 2

    for lr in (0.5, 0.25, 0.75):
        made.enqueue_trial({"lr": lr})
    made.optimize(objective, n_trials=3, catch=(RuntimeError,))
    return f"{url}#old"


def test_a_study_gives_its_parameters_and_values_to_the_runs_of_its_trials(bare, catalogue, study):
    before = hashlib.sha256(Path(study[len("sqlite:///") :].partition("#")[0]).read_bytes()).hexdigest()
    ingest(catalogue, bare, sheets=[study_sheet(study, bare)])
    assert {r.name: r.hyperparameters for r in catalogue.runs()} == {
        "trial_000": {"lr": 0.5},
        "trial_001": {},
        "trial_002": {"lr": 0.25},
    }
    assert measured(catalogue) == {
        ("trial_000", 1): {"value": 0.125},
        ("trial_000", 2): {"value": 0.25},
        ("trial_002", 1): {"value": 0.125},
        ("trial_002", 2): {"value": 0.125},
    }
    assert hashlib.sha256(Path(study[len("sqlite:///") :].partition("#")[0]).read_bytes()).hexdigest() == before


def test_a_failed_trial_that_names_its_run_gives_it_what_it_was_launched_with(bare, catalogue, tmp_path):
    url = f"sqlite:///{tmp_path / 'failed.db'}"
    made = optuna.create_study(storage=url, study_name="s", direction="maximize")
    for number, state in ((0, optuna.trial.TrialState.FAIL), (1, None), (2, optuna.trial.TrialState.FAIL)):
        trial = made.ask({"lr": optuna.distributions.FloatDistribution(0.0, 1.0)})
        trial.report(0.125, 1)
        if number < 2:
            trial.set_user_attr("folder", str(bare / f"trial_00{number}"))
        if state is not None:
            made.tell(trial, state=state)
    ingest(catalogue, bare, sheets=[study_sheet(f"{url}#s", bare)])
    lr = [t.params["lr"] for t in made.trials]
    assert {r.name: r.hyperparameters for r in catalogue.runs()} == {
        "trial_000": {"lr": lr[0]},
        "trial_001": {"lr": lr[1]},
        "trial_002": {},
    }
    assert measured(catalogue) == {("trial_000", 1): {"value": 0.125}, ("trial_001", 1): {"value": 0.125}}


def test_a_study_that_is_not_there_is_one_sentence(tmp_path, study):
    url = study.partition("#")[0]
    with pytest.raises(UsageError, match="no study 'new'; there are: old"):
        study_sheet(f"{url}#new", tmp_path)
    with pytest.raises(UsageError, match="there is no such database"):
        study_sheet("sqlite:///nowhere.db#old", tmp_path)
    assert not (tmp_path / "nowhere.db").exists()
    (tmp_path / "text.db").write_text("hello")
    with pytest.raises(CatalogueError, match="cannot be read"):
        study_sheet(f"sqlite:///{tmp_path / 'text.db'}#old", tmp_path)
    assert study_sheet(url, tmp_path).name == "study old"


def test_metrics_get_their_name_when_they_are_read(bare, catalogue):
    ingest(
        catalogue, bare, sheets=[table(bare.parent / "runs.csv", "path,metric.val/acc,metric.loss\ntrial_000,1,2\n")]
    )
    with Catalogue(catalogue.url, {"val/acc": "accuracy", "top1": "accuracy"}) as renamed:
        assert renamed.metric_names() == ["accuracy", "loss"]
        assert measured(renamed) == {("trial_000", 2): {"accuracy": 1.0, "loss": 2.0}}
        assert renamed.renamed({"accuracy": 1.0, "top1": 2.0}) == {"accuracy": 1.0}
        assert renamed.renamed({"accuracy": None, "top1": 2.0}) == {"accuracy": 2.0}
    assert catalogue.metric_names() == ["loss", "val/acc"]
