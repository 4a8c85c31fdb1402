"""Whose value is whose: logs that count otherwise than checkpoints do, and what says no place at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from epsopt.zoo.ingestion.ingest import ingest, read_fingerprints
from epsopt.zoo.layouts.parsed import Position, Row, RunMetadata, match_rows
from epsopt.zoo.layouts.wandb import run_ids

from ...mlflow_store import mlflow_database  # noqa: TID252 - of the tests
from .examples import weights


def positions(*epochs: int, steps: int | None = None, layout: str = "plain") -> list[Position]:
    return [Position(str(e), f"/r/{e}.pt", e, None if steps is None else steps * e, layout) for e in epochs]


def log(**series: dict[int, float]) -> RunMetadata:
    return RunMetadata(rows=[Row(None, step, {name: v}) for name, at in series.items() for step, v in at.items()])


def test_each_metric_of_a_log_has_a_clock_of_its_own():
    """Losses at each step, a score at each epoch, both by "step", as TensorBoard and MMEngine have them."""
    metadata = log(loss={s: s / 100 for s in range(1, 31)}, acc={1: 0.1, 2: 0.2, 3: 0.3})
    assert match_rows(metadata, positions(1, 2, 3)) == {"1": {"acc": 0.1}, "2": {"acc": 0.2}, "3": {"acc": 0.3}}
    found = match_rows(metadata, positions(1, 2, 3, steps=10))
    assert found == {str(e): {"acc": e / 10, "loss": e / 10} for e in (1, 2, 3)}


def test_a_log_from_zero_belongs_to_checkpoints_from_one():
    """``torch.save({"epoch": epoch + 1, …})`` of PyTorch's own examples, with the best and the last kept."""
    metadata = RunMetadata(rows=[Row(e, None, {"acc": e / 10}) for e in range(5)])
    assert match_rows(metadata, positions(3, 5)) == {"3": {"acc": 0.2}, "5": {"acc": 0.4}}
    assert match_rows(metadata, positions(0, 3, 4)) == {"0": {"acc": 0.0}, "3": {"acc": 0.3}, "4": {"acc": 0.4}}
    assert match_rows(log(acc={s: s / 10 for s in range(5)}), positions(3, 5)) == {"3": {"acc": 0.2}, "5": {"acc": 0.4}}
    # Lightning's epochs are what they say.
    assert match_rows(metadata, positions(3, 5, layout="lightning")) == {"3": {"acc": 0.3}}


def test_steps_of_updates_are_no_epochs_where_a_metric_comes_once_an_epoch():
    """W&B counts calls of ``log``: ten batches and a validation an epoch, and the checkpoints say their epoch alone."""
    metadata = log(loss={s: s / 100 for s in range(33) if s % 11 != 10}, val={10: 0.1, 21: 0.2, 32: 0.3})
    assert match_rows(metadata, positions(0, 1, 2)) == {}
    assert match_rows(metadata, positions(1, 2, 3)) == {}
    # A metric every fifth epoch, beside one of each, with the checkpoints of all of them.
    slow = log(loss={s: s / 100 for s in range(1, 21)}, val={5: 0.1, 10: 0.2, 15: 0.3, 20: 0.4})
    found = match_rows(slow, positions(*range(1, 21)))
    assert found["5"] == {"loss": 0.05, "val": 0.1}
    assert found["4"] == {"loss": 0.04}


def test_scores_at_the_number_of_the_epoch_are_not_taken_for_those_of_an_update():
    """MMEngine's, with so few updates an epoch that the numbers of both meet."""
    metadata = log(loss={s: s / 100 for s in range(1, 501)}, acc={e: e / 100 for e in range(1, 51)})
    found = match_rows(metadata, positions(*range(5, 51, 5), steps=10))
    assert found == {str(e): {"acc": e / 100, "loss": e / 10} for e in range(5, 51, 5)}


def test_a_log_of_updates_is_no_log_of_epochs_where_checkpoints_were_saved_all_along():
    metadata = log(loss={s: s / 100 for s in range(1, 1001)})
    assert match_rows(metadata, positions(*range(1, 11))) == {}
    assert match_rows(metadata, positions(*range(5, 51, 5))) == {}
    # The best of 300 epochs, which may stand anywhere.
    kept = match_rows(log(acc={e: e / 300 for e in range(1, 301)}), positions(47, 120))
    assert kept == {"47": {"acc": 47 / 300}, "120": {"acc": 0.4}}


def test_names_that_count_one_more_than_their_files_show_what_the_log_counts():
    """MMCV's ``epoch_5.pth`` holds epoch 4; of twenty epochs every fifth was saved."""
    metadata = RunMetadata(rows=[Row(e, None, {"acc": e / 10}) for e in range(1, 21)])
    ahead = [Position(str(e), f"/r/epoch_{e + 1}.pth", e, None, "plain") for e in (4, 9, 14, 19)]
    assert match_rows(metadata, ahead) == {str(e): {"acc": (e + 1) / 10} for e in (4, 9, 14, 19)}
    alike = [Position(str(e), f"/r/epoch_{e}.pth", e, None, "plain") for e in (5, 10, 15, 20)]
    assert match_rows(metadata, alike) == {str(e): {"acc": e / 10} for e in (5, 10, 15, 20)}


def test_the_step_in_a_files_name_is_one_and_no_epoch(tmp_path, catalogue):
    """300 epochs of ten updates, a checkpoint every hundred: step 100 is epoch 10."""
    rows = [{"epoch": e, "step": 10 * e, "acc": e / 1000} for e in range(1, 301)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (100, 200, 3000):
        torch.save(weights(step), tmp_path / f"step_{step}.pt")
    assert not ingest(catalogue, tmp_path).side_file_failures
    assert {c.epoch: c.metrics["acc"] for c in catalogue.checkpoints()} == {100: 0.01, 200: 0.02, 3000: 0.3}


def test_steps_stand_for_epochs_where_a_training_takes_one_epoch(tmp_path, catalogue):
    for run in range(2):
        folder = tmp_path / f"run_{run}"
        folder.mkdir()
        for step in (200, 900, 1000):
            said = {"epoch": 0, "step": step, "metrics": {"loss": 1 / step}, "config": {"lr": step * (run + 1)}}
            torch.save({"model": weights(step + run), **said}, folder / f"ckpt_{step}.pt")
    ingest(catalogue, tmp_path)
    found = [c for c in catalogue.checkpoints() if c.run == "run_1"]
    assert [(c.epoch, c.metrics["loss"]) for c in found] == [(s, 1 / s) for s in (200, 900, 1000)]
    assert found[0].hyperparameters["lr"] == 2000, "of the newest checkpoint"


def test_a_second_checkpoint_of_an_epoch_stands_after_the_first_and_epochs_stay(tmp_path, catalogue):
    for epoch, step in ((1, 100), (2, 200), (3, 900), (3, 1000)):
        torch.save({"model": weights(step), "epoch": epoch, "step": step}, tmp_path / f"ckpt_{step}.pt")
    ingest(catalogue, tmp_path)
    order = [(c.epoch, Path(c.path).stem) for c in catalogue.checkpoints()]
    assert order == [(1, "ckpt_100"), (2, "ckpt_200"), (3, "ckpt_900"), (3, "ckpt_1000")]


def test_a_log_that_stands_at_no_checkpoints_moment_is_named_with_the_moments_of_both(tmp_path, catalogue):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    with tensorboard.SummaryWriter(str(tmp_path / "a")) as writer:
        for step in range(10, 301, 10):
            writer.add_scalar("loss", 1 / step, step)
        for epoch in (1, 2, 3):
            writer.add_scalar("acc", epoch / 4, 100 * epoch)
    for epoch in (1, 2, 3):
        torch.save({"model": weights(epoch), "epoch": epoch}, tmp_path / "a" / f"epoch_{epoch}.pt")
    (said,) = ingest(catalogue, tmp_path).side_file_failures
    assert "at steps 10 to 300, and none belongs to a checkpoint: those are at epochs 1 to 3" in said.reason
    assert all(not c.metrics for c in catalogue.checkpoints())


def test_a_run_of_wandb_that_goes_on_within_a_second_is_one_run():
    day = "run-20260101_00000"
    names = [f"{day}0-abc", f"{day}0-abc-1", f"{day}5-abc", f"{day}0-b-2"]
    assert run_ids(names) == dict(zip(names, ["abc", "abc", "abc", "b-2"], strict=True))


@pytest.mark.parametrize(
    ("logged", "saved", "said"),
    [
        (range(1, 4), (0, 1, 2), True),
        (range(1, 4), (0, 1, 2, 3), False),
        (range(1, 7), (0, 1, 2), False),
        (range(3), (0, 1, 2), False),
        (range(1, 4), (0, 2), False),
    ],
)
def test_a_log_that_may_be_one_epoch_off_is_named_and_matched_by_its_numbers(logged, saved, said):
    metadata = RunMetadata(rows=[Row(e, None, {"acc": e / 10}) for e in logged])
    found = match_rows(metadata, positions(*saved))
    assert found == {str(e): {"acc": e / 10} for e in saved if e in logged}
    assert [reason.partition(":")[0] for _, reason in metadata.failures] == (
        ["its log counts epochs 1 to 3, and the checkpoints of its run 0 to 2"] if said else []
    )


def test_what_is_measured_later_in_an_epoch_is_not_a_checkpoints_where_steps_agree():
    rows = [Row(0, 10, {"acc": 0.1}), Row(0, 20, {"acc": 0.2}), Row(0, 20, {"late": 0.3})]
    places = [Position("a", "/a", 0, 10), Position("b", "/b", 0, 20)]
    assert match_rows(RunMetadata(rows=rows), places) == {"a": {"acc": 0.1}, "b": {"acc": 0.2, "late": 0.3}}


def test_steps_of_a_trainer_are_no_epochs():
    """Hugging Face's checkpoints count steps, and another logger of the same run logs the epoch as well."""
    metadata = RunMetadata(rows=[Row(1, 50, {"eval": 0.1}), Row(2, 100, {"eval": 0.2})])
    places = [Position(str(s), f"/c-{s}", s, s, "hugging-face") for s in (1, 2, 50, 100)]
    assert match_rows(metadata, places) == {"50": {"eval": 0.1}, "100": {"eval": 0.2}}


def run(folder, epochs, name, text):
    folder.mkdir(exist_ok=True)
    for epoch in epochs:
        torch.save({"model": weights(epoch), "epoch": epoch}, folder / f"epoch_{epoch}.pt")
    (folder / name).write_text(text)


COLUMNS = {"loss": [0.3, 0.2, 0.1], "acc": [0.5, 0.6, 0.7]}
UNPLACED = [
    ("metrics.json", json.dumps(COLUMNS)),
    ("history.json", json.dumps([{"loss": a, "acc": b} for a, b in zip(*COLUMNS.values(), strict=True)])),
    ("metrics.csv", "loss,acc\n0.3,0.5\n0.2,0.6\n0.1,0.7\n"),
    ("log.jsonl", "".join(json.dumps({"loss": a, "acc": b}) + "\n" for a, b in zip(*COLUMNS.values(), strict=True))),
]


@pytest.mark.parametrize(("name", "text"), UNPLACED)
@pytest.mark.parametrize("epochs", [(0, 1, 2), (1, 2, 3), (0, 2), (3,)])
def test_rows_without_an_epoch_are_placed_where_their_number_shows_it(tmp_path, catalogue, name, text, epochs):
    run(tmp_path / "r", epochs, name, text)
    assert ingest(catalogue, tmp_path).side_file_failures == []
    first = 0 if 0 in epochs else 1
    for c in catalogue.checkpoints():
        assert c.metrics == {k: v[c.epoch - first] for k, v in COLUMNS.items()}


@pytest.mark.parametrize(("name", "text"), UNPLACED)
def test_rows_without_an_epoch_are_named_where_nothing_shows_it(tmp_path, catalogue, name, text):
    run(tmp_path / "r", (1, 2), name, text)
    (failure,) = ingest(catalogue, tmp_path).side_file_failures
    assert (failure.path, "add a column epoch" in failure.reason) == (str(tmp_path / "r" / name), True)
    assert all(c.metrics == {} for c in catalogue.checkpoints())


def test_columns_beside_an_epoch_column_and_single_values_are_read(tmp_path, catalogue):
    tree = {"epoch": [1, 2], "loss": [0.2, 0.1], "best_acc": 0.75, "note": "text"}
    run(tmp_path / "r", (1, 2), "metrics.json", json.dumps(tree))
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert [c.metrics for c in catalogue.checkpoints()] == [{"loss": 0.2}, {"loss": 0.1, "best_acc": 0.75}]


def test_a_half_written_line_of_json_lines_waits(tmp_path, catalogue):
    run(tmp_path / "r", (1, 2), "metrics.json", '{"epoch": 1, "a": 1}\n{"epoch": 2, "a": 2}\n{"epoch": 3, "')
    assert ingest(catalogue, tmp_path).side_file_failures == []
    assert [c.metrics for c in catalogue.checkpoints()] == [{"a": 1.0}, {"a": 2.0}]


def test_a_checkpoint_that_is_looked_at_alone_has_the_values_of_its_ingest(tmp_path, catalogue):
    run(tmp_path / "r", (2, 3, 5), "metrics.csv", "epoch,acc\n" + "".join(f"{e},{e / 10}\n" for e in range(5)))
    ingest(catalogue, tmp_path)
    for c in catalogue.checkpoints():
        (alone,) = read_fingerprints([tmp_path / "r" / f"epoch_{c.epoch}.pt"], catalogue)
        assert alone.metrics == c.metrics == {"acc": (c.epoch - 1) / 10}


@pytest.fixture
def writer(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    for epoch in range(3):
        path = tmp_path / "r" / f"model_{epoch}.pt"
        path.parent.mkdir(exist_ok=True)
        torch.save(weights(epoch), path)
    with tensorboard.SummaryWriter(tmp_path / "r") as made:
        yield made


def test_values_of_add_hparams_belong_to_the_runs_end(tmp_path, catalogue, writer):
    for epoch in range(3):
        writer.add_scalar("loss", 1 - epoch / 10, epoch)
    writer.add_hparams({"lr": 0.1}, {"hparam/loss": 0.8, "hp_metric": -1})
    writer.add_hparams({"lr": 0.1}, {"hparam/acc": 0.9}, run_name="final")
    writer.close()
    ingest(catalogue, tmp_path)
    assert [c.metrics for c in catalogue.checkpoints()] == [
        {"loss": pytest.approx(1.0)},
        {"loss": pytest.approx(0.9)},
        {"loss": pytest.approx(0.8), "hparam/loss": pytest.approx(0.8), "hparam/acc": pytest.approx(0.9)},
    ]
    assert catalogue.runs()[0].hyperparameters == {"lr": pytest.approx(0.1)}


def test_curves_that_a_writer_puts_into_folders_are_read(tmp_path, catalogue, writer):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "r" / "validation") as other:
        for epoch in range(3):
            writer.add_scalars("a/loss", {"val": epoch / 10, "train": epoch / 20}, epoch)
            writer.add_scalar("epoch_loss", epoch / 5, epoch)
            other.add_scalar("epoch_loss", epoch / 4, epoch)
    writer.close()
    ingest(catalogue, tmp_path)
    for c in catalogue.checkpoints():
        expected = {"a/loss/val": 10, "a/loss/train": 20, "epoch_loss": 5, "validation/epoch_loss": 4}
        assert c.metrics == {name: pytest.approx(c.epoch / n) for name, n in expected.items()}


def test_event_files_of_a_run_of_its_own_are_not_its_neighbours(tmp_path, catalogue, writer):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "r" / "inner") as other:
        other.add_scalar("loss", 7.0, 0)
    torch.save(weights(9), tmp_path / "r" / "inner" / "model_0.pt")
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    ingest(catalogue, tmp_path)
    assert {c.run: c.metrics["loss"] for c in catalogue.checkpoints() if c.metrics} == {"r": 1.0, "r/inner": 7.0}


def test_what_mlflow_was_given_no_step_for_is_of_the_whole_run(tmp_path, catalogue, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    ident = client.create_run("0").info.run_id
    for epoch in range(3):
        at = [Metric("loss", 1 - epoch / 10, 0, epoch), Metric("epoch", epoch, 0, epoch)]
        client.log_batch(ident, [*at, Metric("system/cpu", 50.0, 0, epoch)])
        torch.save({"model": weights(epoch), "epoch": epoch}, tmp_path / f"epoch_{epoch}.pt")
        client.log_artifact(ident, str(tmp_path / f"epoch_{epoch}.pt"))
        (tmp_path / f"epoch_{epoch}.pt").unlink()
        client.log_metric(ident, "acc", epoch / 4, timestamp=epoch)
    client.log_metric(ident, "test_acc", 0.75)
    ingest(catalogue, tmp_path)
    assert [c.metrics for c in catalogue.checkpoints()] == [
        {"loss": 1.0, "acc": 0.0},
        {"loss": 0.9, "acc": 0.25},
        {"loss": 0.8, "acc": 0.5, "test_acc": 0.75},
    ]


@pytest.mark.parametrize("store", ["files", "database"])
def test_runs_that_were_deleted_in_mlflow_are_named_and_left_out(tmp_path, catalogue, monkeypatch, store):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import logging

    from mlflow.tracking import MlflowClient

    from epsopt.studies.project.scan_runs import survey

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    root = tmp_path / "work"
    root.mkdir()
    uri = (root / "mlruns").as_uri() if store == "files" else mlflow_database(root / "mlflow.db")
    client = MlflowClient(uri)
    where = {} if store == "files" else {"artifact_location": (root / "mlruns" / "1").as_uri()}
    experiment = client.create_experiment("e", **where)
    idents = [client.create_run(experiment).info.run_id for _ in range(2)]
    for i, ident in enumerate(idents):
        client.log_metric(ident, "acc", i / 2, step=1)
        torch.save({"model": weights(i), "epoch": 1}, tmp_path / "epoch_1.pt")
        client.log_artifact(ident, str(tmp_path / "epoch_1.pt"))
    for file in root.rglob("*.*"):  # so that one that is written anew has another time
        os.utime(file, (1e9, 1e9))
    assert ingest(catalogue, root).deleted == []
    assert len(catalogue.checkpoints()) == 2
    client.delete_run(idents[1])
    report = ingest(catalogue, root)
    (gone,) = report.deleted
    assert gone.path.endswith(idents[1])
    assert f"mlflow runs restore --run-id {idents[1]}" in gone.reason
    assert (report.found, report.runs, [c.metrics for c in catalogue.checkpoints()]) == (1, 1, [{"acc": 0.0}])
    assert survey(root).n_runs == 1
    client.restore_run(idents[1])
    report = ingest(catalogue, root)
    assert (report.deleted, report.added, len(catalogue.runs())) == ([], 1, 2)


def test_experiments_that_were_deleted_in_mlflow_are_named_and_left_out(tmp_path, catalogue, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiments = [client.create_experiment(name) for name in ("kept", "gone")]
    for i, experiment in enumerate(experiments):
        ident = client.create_run(experiment).info.run_id
        client.log_metric(ident, "acc", 0.5, step=1)
        torch.save({"model": weights(i), "epoch": 1}, tmp_path / "epoch_1.pt")
        client.log_artifact(ident, str(tmp_path / "epoch_1.pt"))
    (tmp_path / "epoch_1.pt").unlink()
    assert ingest(catalogue, tmp_path).deleted == []
    assert len(catalogue.checkpoints()) == 2
    client.delete_experiment(experiments[1])
    report = ingest(catalogue, tmp_path)
    assert [Path(f.path).parent.name for f in report.deleted] == [".trash"]
    assert "1 run with 1 checkpoint" in report.deleted[0].reason
    assert f"mlflow experiments restore --experiment-id {experiments[1]}" in report.deleted[0].reason
    assert (report.found, len(catalogue.checkpoints()), len(catalogue.runs())) == (1, 1, 1)
    client.restore_experiment(experiments[1])
    assert ingest(catalogue, tmp_path).deleted == []
    assert len(catalogue.checkpoints()) == 2
