"""Values of an Optuna study that was run before."""

from __future__ import annotations

import math

import optuna
from hypothesis import given
from hypothesis import strategies as st

from epsopt.studies.optuna_io.optuna_import import study_sheet

from .conftest import ABSENT, kept, numbers, quick, save

optuna.logging.set_verbosity(optuna.logging.ERROR)


@quick
@given(st.lists(numbers, min_size=1, max_size=6))
def test_objective_values_are_finite_or_not_measured(door, values):
    folder = door.new()
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{folder / 'old.db'}")
    study.set_metric_names(["m"])
    for value in values:
        trial = study.ask()
        save(folder / f"trial_{trial.number}" / "epoch_1.pt", trial.number)
        if math.isnan(value):  # Optuna takes none: the trial fails, and failed trials say nothing
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
    sheet = study_sheet(f"sqlite:///{folder / 'old.db'}#s", folder)
    expected = {e: ABSENT if math.isnan(v) else kept(v) for e, v in enumerate(values)}
    assert door.read(folder, sheets=[sheet]) == expected


@quick
@given(st.lists(numbers, min_size=2, max_size=6))
def test_what_was_reported_on_the_way_is_finite_or_not_measured(door, values):
    folder = door.new()
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{folder / 'old.db'}")
    study.set_metric_names(["m"])
    trial = study.ask()
    for epoch, value in enumerate(values):
        trial.report(value, epoch)
        save(folder / "trial_0" / f"epoch_{epoch}.pt", epoch)
    save(folder / "trial_0" / f"epoch_{len(values)}.pt", len(values))
    study.tell(trial, 0.25)
    sheet = study_sheet(f"sqlite:///{folder / 'old.db'}", folder)
    expected = {**{e: kept(v) for e, v in enumerate(values)}, len(values): 0.25}
    assert door.read(folder, sheets=[sheet]) == expected
