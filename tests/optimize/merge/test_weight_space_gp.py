from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from epsopt.optimize.merge.weight_space_gp import MergeCandidate, WeightSpace, choose_merge, on_way
from epsopt.optimize.objectives import Objective
from epsopt.optimize.pareto import hypervolume

Floats = NDArray[np.float64]
OBJECTIVES = (Objective("kept", maximize=True), Objective("learned", maximize=True))
REFERENCE = np.array([0.0, 0.0])


class Toy:
    """A network of two blocks whose base has norm 1 in each: the body must not move far, the head must move a lot.

    Runs moved the body by a hundredth, and the head by a tenth, of which half is in the right direction.
    """

    def __init__(self, runs: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.right = [np.eye(6)[0], np.eye(6)[1]]
        self.differences = [self._moved(rng) for _ in range(runs)]

    def _moved(self, rng: np.random.Generator) -> list[Floats]:
        noise = [rng.normal(size=6) for _ in range(2)]
        return [0.01 * (self.right[0] + 0.2 * noise[0]), 0.1 * (self.right[1] + 0.2 * noise[1])]

    @property
    def space(self) -> WeightSpace:
        blocks = [np.stack([d[b] for d in self.differences]) for b in range(2)]
        return WeightSpace(np.stack([rows @ rows.T for rows in blocks]), np.ones(2))

    def measure(self, body: Floats, head: Floats) -> Floats:
        kept = 1.0 / (1.0 + np.exp(30.0 * (np.linalg.norm(body) - 0.3)))
        return np.array([kept, np.tanh(5.0 * (body @ self.right[0]) + head @ self.right[1])])

    @property
    def values(self) -> Floats:
        return np.stack([self.measure(*d) for d in self.differences])

    def mix(self, merge: MergeCandidate, parts: NDArray[np.int64]) -> None:
        rows = [merge.coefficients[parts[b]] for b in range(2)]
        self.differences.append([
            np.sum([c * d[b] for c, d in zip(rows[b], self.differences, strict=True)], axis=0) for b in range(2)
        ])  # fmt: skip


def test_blocks_that_move_alike_are_one_part() -> None:
    moved = np.array([[0.01, 0.012, 0.3, 0.2, 0.0], [0.02, 0.01, 0.1, 0.3, 0.0]])
    space = WeightSpace(np.stack([np.outer(m, m) for m in moved.T]), np.ones(5))
    assert space.parts.tolist() == [0, 0, 1, 1, 0]
    assert space.by_part.shape == (2, 2, 2)


def test_a_network_that_moves_as_one_is_one_part() -> None:
    moved = np.array([[0.1, 0.12, 0.15], [0.2, 0.1, 0.12]])
    assert WeightSpace(np.stack([np.outer(m, m) for m in moved.T]), np.ones(3)).parts.tolist() == [0, 0, 0]


def test_distances_are_relative_to_the_base() -> None:
    space = WeightSpace(np.full((1, 1, 1), 9.0), np.array([6.0]))
    assert space.moved.item() == pytest.approx(0.5)
    assert space.by_part.item() == pytest.approx(0.25)


def test_there_is_nothing_to_mix_of_one_checkpoint_nor_where_nothing_moved() -> None:
    rng = np.random.default_rng(0)
    still = WeightSpace(np.zeros((2, 3, 3)), np.ones(2))
    assert choose_merge(still, np.ones((3, 2)), OBJECTIVES, rng=rng) is None
    toy = Toy(2)
    unmeasured = np.vstack([toy.values[:1], [[np.nan, np.nan]]])
    assert choose_merge(toy.space, unmeasured, OBJECTIVES, rng=rng) is None


def test_merges_find_what_no_run_reached() -> None:
    toy, rng = Toy(3), np.random.default_rng(1)
    before = hypervolume(toy.values, REFERENCE, [True, True])
    for _ in range(12):
        merge = choose_merge(toy.space, toy.values, OBJECTIVES, base=np.array([1.0, 0.0]), reference=REFERENCE, rng=rng)
        assert merge is not None
        assert merge.improvement >= 0.0
        assert (merge.low <= merge.predicted).all()
        assert (merge.predicted <= merge.high).all()
        toy.mix(merge, toy.space.parts)
    after = hypervolume(toy.values, REFERENCE, [True, True])
    assert before < 0.2
    assert after > 0.6


def test_the_same_seed_chooses_the_same_merge() -> None:
    toy = Toy(4)
    first, second = (choose_merge(toy.space, toy.values, OBJECTIVES, rng=np.random.default_rng(3)) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


def test_minimised_objectives_and_a_single_one_are_mixed_for_as_well() -> None:
    toy = Toy(4)
    for values, objectives in (
        (-toy.values, (Objective("a", maximize=False), Objective("b", maximize=False))),
        (toy.values[:, 1:], OBJECTIVES[1:]),
    ):
        merge = choose_merge(toy.space, values, objectives, rng=np.random.default_rng(0))
        assert merge is not None
        assert merge.predicted.shape == (len(objectives),)
        assert (merge.low <= merge.high).all()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.0, 0.4, 0.0]], (1, None, 0.4)),
        ([[0.3, 0.0, 0.7], [0.3, 0.0, 0.7]], (2, 0, 0.7)),
        ([[0.3, 0.0, 0.6]], None),  # between them and the base
        ([[0.2, 0.3, 0.5]], None),
        ([[0.0, 1.2, 0.0]], None),
        ([[-0.2, 1.2, 0.0]], None),
        ([[0.0, 0.4, 0.0], [0.0, 0.5, 0.0]], None),
        ([[0.0, 0.0, 0.0]], None),
    ],
)
def test_coefficients_say_which_way_a_merge_lies_on(
    rows: list[list[float]], expected: tuple[int, int | None, float] | None
) -> None:
    assert on_way(np.array(rows)) == expected


def test_of_the_kind_that_is_not_reliable_nothing_is_chosen() -> None:
    toy = Toy(4)
    for kind in ("between", "beyond"):
        for seed in range(3):
            merge = choose_merge(
                toy.space, toy.values, OBJECTIVES, base=np.array([1.0, 0.0]), reference=REFERENCE,
                reliability=lambda k, kind=kind: float(k == kind), rng=np.random.default_rng(seed),
            )  # fmt: skip
            assert merge is not None
            assert merge.kind == kind
            alike = bool((merge.coefficients == merge.coefficients[:1]).all())
            inside = merge.coefficients.min() >= 0.0 and merge.coefficients[0].sum() <= 1.0 + 1e-9
            assert (alike and inside) == (kind == "between")
