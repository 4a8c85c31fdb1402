from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.space import Parameter, Space, is_number
from epsopt.optimize.space_inference import infer_space
from epsopt.zoo.errors import UsageError

SPACE = Space(
    (
        Parameter("lr", "float", 1e-4, 1e-1, log=True),
        Parameter("layers", "int", 1, 6),
        Parameter("encoder", "categorical", choices=("frozen", "top", "full")),
        Parameter("scale", "float", 1e-3, 1.0, log=True, active_when=("encoder", ("top", "full"))),
        Parameter("flag", "categorical", choices=(False, True), active_when=("encoder", ("full",))),
    )
)
seeds = st.integers(0, 10_000)


@given(seeds)
def test_samples_and_their_neighbours_are_valid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (config,) = SPACE.sample(1, rng)
    assert SPACE.contains(config)
    for _ in range(3):
        config = SPACE.perturb(config, rng, 0.4)
        assert SPACE.contains(config)


@given(seeds)
def test_inactive_parameters_are_absent_and_masked(seed: int) -> None:
    (config,) = SPACE.sample(1, np.random.default_rng(seed))
    row = SPACE.encode([config])[0]
    assert row.shape == (SPACE.width,)
    assert ((row >= 0) & (row <= 1)).all()
    assert ("scale" in config) == (config["encoder"] != "frozen")
    assert row[6] == float(config["encoder"] != "frozen")
    if config["encoder"] == "frozen":
        assert row[5] == 0.5
        assert not row[7:].any()


@given(st.floats(0, 1))
def test_a_unit_value_comes_back_within_the_digits_that_are_shown(unit: float) -> None:
    for parameter in SPACE.parameters[:1]:
        value = parameter.from_unit(unit)
        assert parameter.contains(value)
        assert parameter.to_unit(value) == pytest.approx(unit, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("lr", 1e-3, True), ("lr", 1.0, False), ("lr", float("nan"), False), ("lr", True, False), ("lr", "1e-3", False),
        ("layers", 3, True), ("layers", 2.5, False), ("encoder", "top", True), ("encoder", "none", False),
        ("flag", True, True), ("flag", 1, False),
    ],
)  # fmt: skip
def test_values_are_checked_against_kind_and_range(name: str, value: object, valid: bool) -> None:
    (parameter,) = [p for p in SPACE.parameters if p.name == name]
    assert parameter.contains(value) is valid  # type: ignore[arg-type]


def test_a_configuration_with_an_inactive_or_missing_parameter_is_invalid() -> None:
    assert not SPACE.contains({"lr": 1e-3, "layers": 2, "encoder": "frozen", "scale": 0.1})
    assert not SPACE.contains({"lr": 1e-3, "layers": 2, "encoder": "top"})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([Parameter("a", "float", 2, 1)], "low <= high"),
        ([Parameter("a", "float", 0, 1, log=True)], "above 0"),
        ([Parameter("a", "categorical")], "no choices"),
        ([Parameter("a", "int", 0, 1), Parameter("a", "int", 0, 1)], "twice"),
        ([Parameter("a", "int", 0, 1, active_when=("b", (1,)))], "'b'"),
    ],
)
def test_an_impossible_space_is_refused_by_name(parameters: list[Parameter], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Space(tuple(parameters))


def runs(n: int = 24) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    return [{**SPACE.sample(1, rng)[0], "seed": i, "out": f"runs/{i}", "epochs": 10, "batch": [64, 128][i % 2]}
            for i in range(n)]  # fmt: skip


def test_an_inferred_space_has_the_ranges_kinds_and_conditions_of_the_runs() -> None:
    past = runs()
    found = infer_space(past)
    by_name = {p.name: p for p in found.parameters}
    assert set(by_name) == {"lr", "layers", "encoder", "scale", "flag", "batch"}
    assert by_name["lr"].log
    rates = [r["lr"] for r in past]
    assert 0.99 * min(rates) < by_name["lr"].low <= min(rates)
    assert max(rates) <= by_name["lr"].high < 1.01 * max(rates)
    assert (by_name["layers"].kind, by_name["batch"].kind, by_name["flag"].kind) == (
        "int",
        "categorical",
        "categorical",
    )
    assert by_name["batch"].choices == (64, 128)
    assert by_name["scale"].active_when == ("encoder", ("full", "top"))
    assert by_name["flag"].active_when == ("encoder", ("full",))
    assert found.fixed == {"epochs": 10}


def test_a_base_with_hyperparameters_of_its_own_does_not_disturb_the_inference() -> None:
    assert infer_space([{"stage": "base", "base_lr": 0.1, "seed": 0}, *runs()]) == infer_space(runs())


def test_nothing_to_search_says_where_to_declare_it() -> None:
    with pytest.raises(UsageError, match=r"over 2 runs, .*\[space.NAME\]"):
        infer_space([{"lr": 1.0}, {"lr": 1.0}])
    with pytest.raises(UsageError, match="varies over 1 run, so"):
        infer_space([{"lr": 1.0}])
    with pytest.raises(UsageError, match="no run is known, so"):
        infer_space([])


def test_a_condition_below_a_conditional_category_is_found() -> None:
    runs = []
    for i in range(24):
        run: dict[str, object] = {"lr": 1e-3 * (i + 1), "optimizer": ("sgd", "adam")[i % 2]}
        if run["optimizer"] == "sgd":
            run["schedule"] = ("step", "none")[i // 2 % 2]
            if run["schedule"] == "step":
                run["every"] = i + 1
        runs.append(run)
    space = infer_space(runs)
    conditions = {p.name: p.active_when for p in space.parameters}
    assert conditions["schedule"] == ("optimizer", ("sgd",))
    assert conditions["every"] == ("schedule", ("step",))
    assert all(space.contains(run) for run in runs)
    assert [p.name for p in space.active({"optimizer": "adam", "schedule": "step"})] == ["lr", "optimizer"]


def test_a_space_comes_back_from_json_as_it_was() -> None:
    import json

    space = Space(SPACE.parameters, {"epochs": 10, "name": "a"})
    assert Space.from_json(json.loads(json.dumps(space.as_json()))) == space


@given(seeds)
def test_spread_configurations_are_valid_and_go_on_where_they_stopped(seed: int) -> None:
    eight = SPACE.low_discrepancy_sample(8, seed)
    assert all(SPACE.contains(config) for config in eight)
    assert SPACE.low_discrepancy_sample(5, seed, first=3) == eight[3:]


def test_spread_configurations_take_each_choice_and_half_of_each_range() -> None:
    for seed in range(10):
        eight = SPACE.low_discrepancy_sample(8, seed)
        assert {c["encoder"] for c in eight} == {"frozen", "top", "full"}
        low = sum(float(c["lr"]) < 10**-2.5 for c in eight)
        assert low == 4


def test_neighbours_of_neighbours_stay_within_the_range_and_do_not_gather_at_its_edges() -> None:
    space, rng = Space((Parameter("x", "float", 0.0, 1.0),)), np.random.default_rng(0)
    seen = []
    for _ in range(200):
        config = {"x": 0.02}
        for _ in range(20):
            config = space.perturb(config, rng, 0.15)
        seen.append(float(config["x"]))
    assert min(seen) >= 0.0
    assert max(seen) <= 1.0
    assert sum(x in (0.0, 1.0) for x in seen) <= 2, "clipped, a fifth of them would be at an edge"
    far = [float(space.perturb({"x": 0.5}, rng, 5.0)["x"]) for _ in range(100)]
    assert 0.0 <= min(far) <= max(far) <= 1.0


def test_a_whole_number_that_no_float_holds_is_no_number_to_search_in():
    assert not is_number(10**400)
    assert is_number(10**30)
    assert not is_number(True)
