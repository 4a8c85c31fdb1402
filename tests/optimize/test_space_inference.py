"""What a search space becomes of the values that real runs were launched with."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsopt.optimize.bookkeeping import why_left_out
from epsopt.optimize.objectives import Objective
from epsopt.optimize.space import Parameter, Space, Span
from epsopt.optimize.space_inference import beyond, diverged_runs, infer_space, left_out, seeds_of
from epsopt.zoo.errors import UsageError


def by_name(space: Space) -> dict[str, Parameter]:
    return {p.name: p for p in space.parameters}


def test_none_and_numbers_beside_text_are_choices_and_every_run_is_described() -> None:
    runs = [
        {"lr": 10.0 ** -(1 + i % 4), "dropout": [None, 0.1, 0.5][i % 3], "gamma": ["scale", "auto", 0.1][i // 2 % 3]}
        for i in range(12)
    ]
    space = infer_space(runs)
    assert by_name(space)["dropout"].choices == (None, 0.1, 0.5)
    assert set(by_name(space)["gamma"].choices) == {"scale", "auto", 0.1}
    assert all(space.accepts(r) for r in runs)
    rng = np.random.default_rng(0)
    drawn = space.sample(60, rng)
    assert {c["dropout"] for c in drawn} == {None, 0.1, 0.5}
    assert all(space.contains(c) for c in drawn)


def test_a_value_that_is_none_in_some_runs_alone_is_a_choice() -> None:
    space = infer_space([{"lr": 0.1 + i, "schedule": [None, "cosine"][i % 2]} for i in range(8)])
    assert by_name(space)["schedule"].choices == (None, "cosine")
    assert space.encode([{"lr": 0.1, "schedule": None}])[0, 1:].tolist() == [1.0, 0.0]


def test_true_and_one_and_one_point_zero_are_three_choices() -> None:
    runs = [{"warm": [True, 1, 1.0, "auto"][i % 4], "lr": i} for i in range(16)]
    space = infer_space(runs)
    assert len(by_name(space)["warm"].choices) == 4
    places = [by_name(space)["warm"].choice(v) for v in (True, 1, 1.0, "auto")]
    assert sorted(places) == [0, 1, 2, 3]
    assert len({space.encode([r]).tobytes() for r in runs[:4]}) == 4


def test_a_number_that_most_runs_lack_is_optional_and_all_runs_are_learned_from() -> None:
    rng = np.random.default_rng(1)
    runs = [{"lr": float(rng.uniform()), **({"clip": float(rng.uniform(0.1, 5))} if i % 3 == 0 else {})}
            for i in range(24)]  # fmt: skip
    space = infer_space(runs)
    assert by_name(space)["clip"].optional
    assert all(space.accepts(r) for r in runs)
    drawn = space.sample(100, np.random.default_rng(0))
    assert 10 < sum("clip" not in c for c in drawn) < 45
    assert all(space.contains(c) and space.encode([c]).shape == (1, space.width) for c in drawn)
    near = [space.perturb(drawn[0], np.random.default_rng(s)) for s in range(50)]
    assert sum(("clip" in c) == ("clip" in drawn[0]) for c in near) > 35, "a neighbour mostly keeps it, or its absence"


@pytest.mark.parametrize("choice", [[[8, 8], [16]], [{"depth": 2}, {"depth": 3}], [[["a", 1]], []]])
def test_lists_and_mappings_are_choices_and_come_back_as_what_they_were(choice: list[Any]) -> None:
    space = infer_space([{"lr": float(i), "hidden": choice[i % 2]} for i in range(8)])
    assert all(c["hidden"] in choice for c in space.sample(8, np.random.default_rng(0)))
    assert len({space.key({"lr": 1.0, "hidden": c}) for c in choice}) == 2
    assert Space.from_json(space.as_json()) == space


def test_a_list_and_its_text_in_a_catalogue_are_one_choice() -> None:
    runs = [{"lr": float(i), "hidden": [[8, 8], "[8, 8]", "[16]", [16]][i % 4]} for i in range(12)]
    space = infer_space(runs)
    assert sorted(by_name(space)["hidden"].choices) == [[8, 8], [16]]
    assert space.given(runs[1])["hidden"] == [8, 8]
    assert space.key({"lr": 1.0, "hidden": "[16]"}) == space.key({"lr": 1.0, "hidden": [16]})


def test_a_dot_and_a_slash_separate_the_parts_of_one_name() -> None:
    rates = [1e-3, 1e-2, 3e-2]
    both = [{"optim.lr": lr, "optim/lr": float(np.float32(lr))} for lr in rates]
    assert list(by_name(infer_space(both))) == ["optim.lr"]
    mixed = [{"optim.lr": 1e-3}, {"optim/lr": 1e-2}, {"optim.lr": 3e-2}]
    assert by_name(infer_space(mixed))["optim.lr"].high == 3e-2
    two = [{"a.b": i, "a/b": 10 - i} for i in range(4)]
    assert len(infer_space(two).parameters) == 2, "they differ: they are two"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.name", "adam"), ("model.name", "google/bert-base"), ("tokenizer", "org/tok"), ("lora_rank", 8),
        ("time_steps", 1_000), ("max_len", 1_700_000_000), ("num_nodes", 4), ("layer.node", 4), ("support", 3),
        ("model.version", "v2"), ("norm.group", 8), ("update", "full"), ("candidate", "2d"), ("dataset", "2024"),
        ("head.out", 128), ("postdate", 1), ("seeded_init", "kaiming"), ("id_embedding", True),
    ],
)  # fmt: skip
def test_choices_whose_names_sound_like_bookkeeping_are_searched(name: str, value: object) -> None:
    assert why_left_out(name, [value] * 4) is None


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("name", ["a", "b"], "which run it was"), ("wandb.name", ["a", "b"], "which run it was"),
        ("seed", [1, 2], "a seed"), ("train.randomSeed", [1, 2], "a seed"), ("trainer/seed_everything", [1], "a seed"),
        ("slurm_job_id", [1, 2], "which run it was"), ("SLURM_JOB_ID", [1], "which run it was"),
        ("data.fold", [0, 1], "which part of the data was held out"),
        ("master_port", [29500], "where it ran"), ("env.hostname", ["gpu1"], "where it ran"),
        ("startTime", [1.7e9], "when it ran"), ("stamp", ["2026-01-05 10:11:12"], "when it ran"),
        ("begin_ts", [1_700_000_000, 1_700_000_050], "when it ran"), ("tagged", ["20260105-101112"], "when it ran"),
        ("where", ["/data/a", "/data/b"], "a path"), ("source", ["s3://b/a"], "a path"), ("w", ["C:\\x"], "a path"),
        ("vocabulary", ["files/vocab.json"], "a path"), ("kept", ["runs/1", "runs/2", "runs/3"], "a path"),
        ("which", ["3f2504e0-4f89-11d3-9a0c-0305e82c3301"], "which run it was"),
        ("state", ["3f2504e", "4f8911d", "9a0c030"], "which run it was"),
        ("words", [f"text {i}" for i in range(30)], "a text of its own in nearly every run"),
    ],
)  # fmt: skip
def test_bookkeeping_is_left_out_by_its_name_or_by_what_its_values_are(name, values, reason) -> None:
    assert why_left_out(name, values) == reason


def test_what_varies_and_is_not_searched_is_named_with_its_reason() -> None:
    runs = [{"lr": float(i), "seed": i, "host": f"n{i}", "batch": 64, "job_id": 7} for i in range(6)]
    assert left_out(runs) == {"seed": "a seed", "host": "where it ran"}
    assert left_out(runs, ignore=["seed"]) == {"host": "where it ran"}


@pytest.mark.parametrize("low", [0.999, -3.0, 1e-9, 1e6, 0.0])
@pytest.mark.parametrize("width", [1e-3, 9.9e-4, 1.0, 1e4])
@pytest.mark.parametrize("log", [False, True])
def test_a_range_is_resolved_relative_to_itself(low: float, width: float, log: bool) -> None:
    if log and low <= 0:
        return
    parameter = Parameter("x", "float", low, low + width, log=log)
    values = [parameter.from_unit(i / 1000) for i in range(1001)]
    assert len(set(values)) == 1001
    assert max(abs(parameter.to_unit(v) - i / 1000) for i, v in enumerate(values)) < 2e-4


def test_a_narrow_range_keeps_its_ends() -> None:
    parameter = by_name(infer_space([{"ema": v} for v in (0.9901, 0.995, 0.99999, 0.993, 0.9987)]))["ema"]
    assert parameter.low == pytest.approx(0.9901, abs=2e-5)
    assert parameter.high == pytest.approx(0.99999, abs=2e-5)


def nested(rng: np.random.Generator) -> dict[str, Any]:
    """What a script with branches asks for."""
    layers = int(rng.integers(1, 6))
    run: dict[str, Any] = {"layers": layers, "lr": float(10 ** rng.uniform(-4, -1))}
    for i in range(2, layers + 1):
        run[f"units_{i}"] = int(rng.integers(8, 65))
    run["schedule"] = [None, "cosine", "step"][rng.integers(3)]
    if run["schedule"] is None:
        run["decay"] = float(rng.uniform())
    if run["schedule"] == "step":
        run["nested"] = bool(rng.integers(2))
        if run["nested"]:
            run["every"] = int(rng.integers(1, 30))
    run["dropout"] = float(rng.choice([0.0, rng.uniform(0.1, 0.6)]))
    if run["dropout"] > 0:
        run["kind"] = ["plain", "spatial"][rng.integers(2)]
    return run


def test_any_parent_switches_its_children_on_whole_numbers_none_truth_values_and_thresholds() -> None:
    rng = np.random.default_rng(0)
    runs = [nested(rng) for _ in range(40)]
    space = infer_space(runs)
    conditions = {p.name: p.active_when for p in space.parameters}
    assert [conditions[f"units_{i}"] for i in (2, 3, 4, 5)] == [("layers", (Span(low=i),)) for i in (2, 3, 4, 5)]
    assert conditions["decay"] == ("schedule", (None,))
    assert conditions["nested"] == ("schedule", ("step",))
    assert conditions["every"] == ("nested", (True,))
    parent, (span,) = conditions["kind"]
    assert parent == "dropout"
    assert 0.0 < span.low < 0.1
    assert all(space.accepts(r) for r in runs)
    for config in space.sample(50, rng):
        assert all((f"units_{i}" in config) == (config["layers"] >= i) for i in (2, 3, 4))
        assert ("decay" in config) == (config["schedule"] is None)
        assert ("every" in config) == (config.get("nested") is True)
        assert space.contains(config)
    assert Space.from_json(space.as_json()) == space


@given(st.integers(0, 2**32 - 1))
def test_a_number_that_has_nothing_to_do_with_it_is_no_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [{"lr": float(rng.uniform()), **({"extra": float(rng.uniform())} if i in (1, 4, 9) else {})}
            for i in range(12)]  # fmt: skip
    rates = sorted(range(12), key=lambda i: runs[i]["lr"])
    places = [rates.index(i) for i in (1, 4, 9)]
    by_itself = infer_space(runs)
    divided = max(places) - min(places) == 2
    assert divided or by_name(by_itself)["extra"].active_when is None


odd = st.sampled_from([
    None, True, False, 0, 1, -3, 1.0, 0.5, 1e300, -1e-300, 2**70, float("nan"), float("inf"), "", "1", "None", "[1]",
    "a/b", [], [1], [None, "a"], {}, {"a": 1}, [[1], {"b": None}], (1, 2),
])  # fmt: skip


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(["a", "b", "c.d", "c/d"], odd)), max_size=12))
def test_whatever_runs_say_makes_a_space_or_one_sentence(runs: list[dict[str, Any]]) -> None:
    left_out(runs)
    with contextlib.suppress(UsageError):  # nothing varies
        held_to_its_runs(infer_space(runs), runs)


def held_to_its_runs(space: Space, runs: list[dict[str, Any]]) -> None:
    for config in space.sample(3, np.random.default_rng(0)):
        assert space.contains(config)
        assert np.isfinite(space.encode([config])).all()
        assert space.contains(space.perturb(config, np.random.default_rng(1)))
    for run in runs:
        if space.accepts(run):
            space.key(run)
            assert np.isfinite(space.encode([run])).all()


def test_the_seeds_of_runs_are_known_by_name_where_they_are_numbers() -> None:
    runs = [{"lr": 0.1, "seed": i, "data.random_state": 3, "tf_seed": None, "split_seed": "a"} for i in range(3)]
    assert seeds_of(runs) == {"seed": None, "data.random_state": 3}


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"lr": v} for v in values]


@given(st.lists(st.floats(1e-12, 1e12) | st.floats(-2.0, 2.0), min_size=2, max_size=12, unique=True))
def test_every_run_lies_inside_the_space_that_is_inferred_from_it(values: list[float]) -> None:
    space = infer_space([{"x": v} for v in values])
    assert all(space.contains({"x": v}) for v in values)
    (parameter,) = space.parameters
    if parameter.kind == "float" and min(values) > 0 and max(values) < 1:
        assert 0 < parameter.low <= parameter.high < 1, "an end is not moved to a value that may be none"


def test_the_ends_of_a_range_are_rounded_outwards() -> None:
    (parameter,) = infer_space(rates(1.23456e-4, 3.2e-3, 0.0456789)).parameters
    assert (parameter.low, parameter.high) == (1.23e-4, 0.0457)


LOSS = (Objective("loss", maximize=False),)


def test_a_run_that_diverged_at_a_rate_far_from_all_others_does_not_widen_the_range() -> None:
    runs = rates(1e-4, 1e-3, 3e-3, 1e-2, 1000.0)
    ends: list[dict[str, float | None]] = [{"loss": v} for v in (0.5, 0.4, 0.3, 0.35)]
    for end in ({"loss": None}, {"loss": 1e12}):
        space = infer_space(runs, diverged=diverged_runs([*ends, end], LOSS))
        assert by_name(space)["lr"].high == 1e-2
        assert beyond(space, runs) == {"lr": [1000.0]}
    fine = infer_space(runs, diverged=diverged_runs([*ends, {"loss": 0.2}], LOSS))
    assert by_name(fine)["lr"].high == 1000.0, "it trained well there"


def test_a_run_that_diverged_near_the_others_lies_inside_the_space() -> None:
    runs = rates(1e-4, 1e-3, 3e-3, 1e-2, 2e-2)
    assert by_name(infer_space(runs, diverged=[4]))["lr"].high == 2e-2


def test_where_hardly_any_run_did_not_diverge_all_of_them_make_the_range() -> None:
    assert by_name(infer_space(rates(1e-4, 1e-3, 1.0, 10.0), diverged=[2, 3]))["lr"].high == 10.0


def test_a_value_that_another_run_trained_well_with_stays_in_the_range() -> None:
    runs = rates(1e-4, 1e-3, 3e-3, 1.0, 1.0)
    assert by_name(infer_space(runs, diverged=[3]))["lr"].high == 1.0


def test_a_run_outside_of_the_range_is_not_taken_for_one_at_its_end() -> None:
    space = Space((Parameter("lr", "float", 1e-4, 1e-2, log=True),))
    inside, beyond_it, far, below = space.encode(rates(1e-2, 1e-1, 1e9, 1e-30))[:, 0].tolist()
    assert (inside, beyond_it, far, below) == (1.0, pytest.approx(1.5), 2.0, -1.0)
    assert len({space.key(r) for r in rates(1e-2, 1e-1, 1e-30)}) == 3
    assert all(space.contains(space.perturb(r, np.random.default_rng(s))) for r in rates(1e9, 1e-30) for s in range(20))
