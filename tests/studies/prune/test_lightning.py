"""EpsoptPruning in a real Trainer: runs of a made-up family whose metrics follow from their hyperparameters."""

from __future__ import annotations

import logging
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from epsopt.optimize import Curve, Objective, Parameter, Pruner, Space
from epsopt.studies import CataloguePruner, EpsoptPruning
from epsopt.zoo import Catalogue, EmptyCatalogue, UsageError, ingest
from epsopt.zoo.errors import EpsoptError

pl = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402
from pytorch_lightning.loggers import CSVLogger  # noqa: E402

SPACE = Space((Parameter("a", "float", 0.0, 1.0), Parameter("b", "float", 0.0, 1.0)))
OBJECTIVES = (Objective("gain", maximize=True), Objective("cost", maximize=False))
DIRECTIONS = {"gain": "maximize", "cost": "minimize"}
GOOD, BAD = {"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.9}
EPOCHS = 8


def measured(a: float, b: float, epoch: int) -> tuple[float, float]:
    """The gain grows towards a, the cost falls towards 1 + a; b spoils both."""
    grown = 1 - math.exp(-epoch / 3)
    return grown * (a - b), 2 - grown * (1 - a - b)


def configs() -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    return [(float(a), 0.0) for a in np.linspace(0.05, 0.6, 5)] + rng.uniform(0, 0.6, (5, 2)).tolist()


class Model(pl.LightningModule):
    def __init__(self, a: float, b: float, prefix: str = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
        self.spoilt: set[int] = set()

    def training_step(self, batch, _index):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, _index):
        gain, cost = measured(self.hparams.a, self.hparams.b, self.current_epoch)
        self.log(f"{self.hparams.prefix}gain", math.nan if self.current_epoch in self.spoilt else gain)
        self.log(f"{self.hparams.prefix}cost", cost)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder: Path, *callbacks, **options):
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given = {
        "max_epochs": EPOCHS,
        "logger": CSVLogger(folder),
        "callbacks": [*callbacks, ModelCheckpoint(save_top_k=-1)],
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**given, **options})


def fit(what, model, **more) -> None:
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 2)), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        what.fit(model, data, data, **more)


@pytest.fixture(scope="module")
def pruner() -> Pruner:
    steps = np.arange(1.0, EPOCHS)
    out = Pruner(SPACE, OBJECTIVES, EPOCHS - 1, control_share=0.0)
    out.learn([Curve({"a": a, "b": b}, steps, np.array([measured(a, b, e) for e in steps])) for a, b in configs()])
    return out


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> str:
    """The URL of a catalogue of runs that Lightning trained."""
    folder = tmp_path_factory.mktemp("past")
    for a, b in configs():
        fit(trainer(folder), Model(a, b))
    url = f"sqlite:///{folder / 'epsopt.db'}"
    with Catalogue(url) as opened:
        ingest(opened, folder, jobs=1)
        assert len(opened.runs()) == len(configs())
    return url


def test_a_bad_run_is_stopped_by_what_the_catalogue_knows_and_a_good_one_is_not(catalogue, tmp_path, caplog):
    bad, good = (EpsoptPruning(catalogue, objectives=DIRECTIONS, control_share=0.0) for _ in range(2))
    with caplog.at_level(logging.INFO, "epsopt"):
        stopped = trainer(tmp_path, bad)
        fit(stopped, Model(**BAD))
    assert 2 <= stopped.current_epoch < EPOCHS - 1
    assert bad.decision.stop
    assert bad.decision.probability < 0.05
    assert "likely to join the front" in bad.stopped
    assert bad.stopped in caplog.text
    assert "version_0 is stopped after epoch" in caplog.text
    whole = trainer(tmp_path, good)
    fit(whole, Model(**GOOD))
    assert whole.current_epoch == EPOCHS
    assert good.stopped is None


def test_the_project_file_says_what_counts_and_how_runs_name_it(catalogue, tmp_path):
    (tmp_path / "epsopt.toml").write_text(
        f'[project]\nruns = "runs"\nstorage = "{catalogue}"\n[metrics.rename]\n"val/gain" = "gain"\n'
        '"val/cost" = "cost"\n[objectives.gain]\ndirection = "maximize"\n[objectives.cost]\ndirection = "minimize"\n'
    )
    callback = EpsoptPruning(tmp_path, control_share=0.0)
    fit(trainer(tmp_path, callback), Model(**BAD, prefix="val/"))
    assert callback.stopped


def test_a_resumed_run_is_judged_by_its_whole_curve_and_by_other_runs_only(catalogue, tmp_path):
    first = EpsoptPruning(catalogue, objectives=DIRECTIONS, control_share=0.0, length=EPOCHS - 1)
    begun = trainer(tmp_path, first, max_epochs=4)
    fit(begun, Model(**GOOD))
    checkpoint = next((tmp_path / "lightning_logs/version_0/checkpoints").glob("epoch=3*.ckpt"))
    kept = torch.load(checkpoint, weights_only=True)["callbacks"]["StopHopeless"]
    assert sorted(map(int, kept["curve"])) == [0, 1, 2, 3]
    again = EpsoptPruning(catalogue, objectives=DIRECTIONS, control_share=0.0)
    seen = []
    resumed = trainer(tmp_path, again)
    again_judge = EpsoptPruning.decide
    again.decide = lambda t: seen.append((again.run, sorted(again.curve))) or again_judge(again, t)
    fit(resumed, Model(**GOOD), ckpt_path=checkpoint)
    assert seen[0] == (first.run, [0, 1, 2, 3, 4])
    assert checkpoint in again.own
    assert resumed.current_epoch == EPOCHS


def test_one_odd_value_is_not_measured_and_several_in_a_row_stop_the_run(pruner, tmp_path):
    once, always = EpsoptPruning(pruner), EpsoptPruning(pruner, not_finite=2)
    model = Model(**GOOD)
    model.spoilt = {1, 3, 5}
    whole = trainer(tmp_path, once)
    fit(whole, model)
    assert whole.current_epoch == EPOCHS
    assert math.isnan(once.curve[3]["gain"])
    model = Model(**GOOD)
    model.spoilt = set(range(1, EPOCHS))
    fit(trainer(tmp_path, always), model)
    assert always.stopped == "gain was NaN or infinite 2 times in a row"
    assert max(always.curve) == 2


def test_an_objective_that_is_not_logged_is_named_with_what_to_do_and_the_training_goes_on(pruner, tmp_path, caplog):
    whole = trainer(tmp_path, EpsoptPruning(pruner))
    with caplog.at_level(logging.WARNING, "epsopt"):
        fit(whole, Model(**GOOD, prefix="val/"))
    assert whole.current_epoch == EPOCHS
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("epsopt")]
    assert "goes on, nothing is decided: the objective gain is not among the logged metrics" in said
    assert "val/gain" in said
    assert "metrics=" in said
    named = EpsoptPruning(pruner, metrics={"gain": "val/gain", "cost": "val/cost"})
    fit(trainer(tmp_path, named), Model(**BAD, prefix="val/"))
    assert named.stopped


def test_where_validation_is_rarer_than_epochs_it_decides_after_validation(pruner, tmp_path):
    callback = EpsoptPruning(pruner)
    fit(trainer(tmp_path, callback, check_val_every_n_epoch=2), Model(**BAD))
    assert sorted(callback.curve) == [1], "two epochs lie behind it: as many as every run is given"
    assert callback.stopped


def test_nothing_is_judged_while_things_are_only_tried_out(pruner, tmp_path):
    callback = EpsoptPruning(pruner)
    fit(trainer(tmp_path, callback, fast_dev_run=True), Model(**BAD))
    assert (callback.decision, callback.curve) == (None, {})
    tried = trainer(tmp_path, callback, num_sanity_val_steps=2, max_epochs=1)
    fit(tried, Model(**BAD))
    assert list(callback.curve) == [0]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 2)))
    tried.validate(Model(**BAD), data, verbose=False)
    assert list(callback.curve) == [0]


class OtherProcess:
    """A trainer as process one of two has it: what process zero decides arrives by broadcast."""

    is_global_zero = sanity_checking = fast_dev_run = should_stop = False
    current_epoch, max_epochs, ckpt_path, checkpoint_callback, datamodule = 3, EPOCHS, None, None, None
    val_check_interval, check_val_every_n_epoch = 1.0, 1
    callback_metrics = {"gain": torch.tensor(0.1), "cost": torch.tensor(1.0)}  # noqa: RUF012
    state = type("State", (), {"fn": type("Fn", (), {"value": "fit"})})

    def __init__(self, arriving: list) -> None:
        self.strategy, self.arriving = self, arriving

    def broadcast(self, _mine):
        return self.arriving.pop(0)


def test_other_processes_obey_process_zero_and_ask_nobody(pruner):
    answers = type(pruner.should_stop("x", Curve({}, np.array([]), np.empty((0, 2)))))(True, 0.01, "too small a chance")
    other = OtherProcess([(None, OBJECTIVES, {}, "the run"), (None, answers)])
    callback = EpsoptPruning("sqlite:////nowhere/at/all.db", objectives=DIRECTIONS)
    callback.on_fit_start(other, None)
    callback.on_train_epoch_end(other, None)
    assert other.should_stop
    assert (callback.stopped, callback.run) == ("too small a chance", "the run")
    with pytest.raises(EmptyCatalogue):
        callback.on_fit_start(OtherProcess([(EmptyCatalogue("none"), (), {}, "")]), None)


@pytest.mark.slow
def test_two_processes_stop_together(pruner, tmp_path):
    both = trainer(tmp_path, EpsoptPruning(pruner), devices=2, strategy="ddp_fork")
    fit(both, Model(**BAD))
    saved = [p.name for p in (tmp_path / "lightning_logs/version_0/checkpoints").glob("*.ckpt")]
    assert 2 <= len(saved) < EPOCHS - 1


def test_what_makes_no_sense_is_refused_before_the_training(pruner, tmp_path):
    with pytest.raises(UsageError, match="objectives="):
        EpsoptPruning("sqlite:///epsopt.db")
    with pytest.raises(UsageError, match="'maximize' or 'minimize', not gain: 'max'"):
        EpsoptPruning("sqlite:///epsopt.db", objectives={"gain": "max"})
    with pytest.raises(UsageError, match="a Pruner has"):
        EpsoptPruning(pruner, gain_ratio=0.1)
    with pytest.raises(EmptyCatalogue, match="epsopt ingest"):
        fit(trainer(tmp_path, EpsoptPruning(f"sqlite:///{tmp_path}/no.db", objectives=DIRECTIONS)), Model(**GOOD))
    assert not (tmp_path / "no.db").exists()
    with pytest.raises(UsageError, match=r"this run's b: call self.save_hyperparameters\(\).*there are: a$"):
        fit(trainer(tmp_path, EpsoptPruning(pruner, config={"a": 0.5})), Model(**GOOD))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gain_rate": 0.1}, "no option gain_rate: known are gain_ratio,"),
        ({"threshold": 0.05}, "no option threshold since version 0.2: .*; give gain_ratio, from 0 to 0.2, instead"),
        ({"gain_ratio": "0.05"}, "gain_ratio of early stopping is '0.05', expected a number"),
        ({"gain_ratio": 1.5}, "gain_ratio is 1.5"),
        ({"control_share": None}, "control_share of early stopping is None, expected a number"),
        ({"seed": "x"}, "seed of early stopping is 'x', expected a number"),
        ({"grace": -1}, "grace of early stopping is -1 epochs"),
        ({"targets": {"loss": 0.5}}, "target loss: there is no such objective, known are gain, cost"),
        ({"targets": {"gain": "high"}}, "target gain of early stopping is 'high', expected a number"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once_wherever_the_objectives_are_from(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        EpsoptPruning("sqlite:///epsopt.db", objectives=DIRECTIONS, **options)
    if "loss" not in words:  # a project file is read when the training begins
        with pytest.raises(UsageError, match=words):
            EpsoptPruning(tmp_path, **options)


def test_whatever_fails_in_process_zero_is_passed_to_the_others(pruner, monkeypatch):
    answers = []

    class ProcessZero(OtherProcess):
        is_global_zero, checkpoint_callback = True, ModelCheckpoint()

        def broadcast(self, mine):
            answers.append(pickle.loads(pickle.dumps(mine))[0])
            return mine

    callback, trainer = EpsoptPruning(pruner, config=GOOD), ProcessZero([])
    callback.on_fit_start(trainer, None)
    monkeypatch.setattr(callback.judge, "should_stop", lambda *_, **__: {}["deciding"])
    callback.on_train_epoch_end(trainer, None)
    assert (callback.decision, callback.stopped, trainer.should_stop) == (None, None, False)
    monkeypatch.setattr(callback, "open_judge", lambda: {}["beginning"])
    with pytest.raises(EpsoptError, match="early stopping failed: KeyError: 'beginning'"):
        callback.on_fit_start(trainer, None)
    assert answers[0] is None
    assert ["deciding" in str(answers[1]), "beginning" in str(answers[2])] == [True, True]


def test_it_can_be_sent_to_another_process(pruner):
    assert pickle.loads(pickle.dumps(EpsoptPruning(pruner))).objectives == ()


class Rarely(Model):
    """Validates in any rhythm, and says how many epochs lie behind each validation."""

    def validation_step(self, batch, index):
        super().validation_step(batch, index)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"check_val_every_n_epoch": 2}, [1, 3]),
        ({"val_check_interval": 0.5}, [-0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]),
        ({"val_check_interval": 1}, [-0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [0.5, 2]),
        ({"val_check_interval": 1.0}, [0, 1, 2, 3]),
        ({"inference_mode": False, "val_check_interval": 0.5}, [-0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]),
    ],
)
def test_in_whatever_rhythm_it_validates_the_training_is_judged_and_goes_on(
    catalogue, tmp_path, caplog, options, epochs
):
    callback = EpsoptPruning(catalogue, objectives=DIRECTIONS, control_share=1.0)
    whole = trainer(tmp_path, callback, max_epochs=4, **options)
    with caplog.at_level(logging.WARNING, "epsopt"):
        fit(whole, Rarely(**GOOD))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("epsopt")] == []
    assert sorted(callback.curve) == epochs
    assert whole.current_epoch == 4
    assert not math.isnan(callback.decision.probability) or max(epochs) == 3, "of a run at its end nothing is forecast"
    assert "cannot" not in caplog.text


def test_without_any_validation_what_training_logs_is_judged(pruner, tmp_path):
    class Trains(Model):
        def training_step(self, batch, index):
            self.validation_step(batch, index)
            return super().training_step(batch, index)

    callback = EpsoptPruning(pruner)
    fit(trainer(tmp_path, callback, limit_val_batches=0, val_check_interval=0.5), Trains(**BAD))
    assert callback.stopped
    assert sorted(callback.curve)[:2] == [0, 1]


def test_a_database_that_breaks_while_it_trains_is_logged_once_and_the_training_goes_on(
    catalogue, tmp_path, caplog, monkeypatch
):
    def breaks(*_, **__):
        raise MemoryError("no more")

    callback = EpsoptPruning(catalogue, objectives=DIRECTIONS)
    monkeypatch.setattr("epsopt.studies.prune.catalogue_pruner.past_curves", breaks)
    whole = trainer(tmp_path, callback, max_epochs=3)
    with caplog.at_level(logging.WARNING, "epsopt"):
        fit(whole, Model(**BAD))
    assert whole.current_epoch == 3
    assert callback.stopped is None
    assert "it cannot be judged: MemoryError: no more" in callback.decision.reason


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_loop_of_ones_own_may_ask_while_it_evaluates(catalogue, without):
    judge = CataloguePruner(Catalogue.existing(catalogue), None, OBJECTIVES, control_share=0.0)
    steps = np.arange(1.0, 4.0)
    so_far = Curve(BAD, steps, np.array([measured(**BAD, epoch=e) for e in steps]))
    with without():
        decision = judge.judge("mine", so_far, length=EPOCHS)
    assert decision.stop, decision.reason
