"""Top-k lists against a full sort, with ties, masks and lists longer than what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.top_k import ITEM_TILE, SPARE, USER_GROUP, USERS_PER_TASK, similar_items, top_k
from factorlake.kernels.top_k_numpy import top_k_numpy


def scene(n_users: int, n_items: int, rank: int, seed: int, whole: bool = False) -> dict[str, Any]:
    """Random factors, seen items, biases and a mask. Whole numbers make many exact ties."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (rng.integers(-2, 3, shape) if whole else rng.standard_normal(shape)).astype(np.float32)

    seen = [np.sort(rng.choice(n_items, rng.integers(0, n_items // 2 + 1), replace=False)) for _ in range(n_users)]
    return {
        "user_factors": draw(n_users, rank),
        "item_factors": draw(n_items, rank),
        "seen_ptr": np.cumsum([0] + [len(one) for one in seen]),
        "seen_items": np.concatenate([*seen, np.zeros(0)]).astype(np.int32),
        "tie_rank": rng.permutation(n_items),
        "user_bias": draw(n_users),
        "item_bias": draw(n_items),
        "allowed": rng.random(n_items) < 0.8,
    }


def assert_same_lists(arguments: dict[str, Any], k: int) -> None:
    items, scores = top_k(**arguments, k=k)
    wanted_items, wanted_scores = top_k_numpy(**arguments, k=k)
    assert np.array_equal(items, wanted_items)
    assert np.array_equal(scores, wanted_scores)


@given(
    n_users=st.integers(0, 6),
    n_items=st.integers(1, 70),
    rank=st.integers(1, 5),
    k=st.integers(1, 80),
    seed=st.integers(0, 2**16),
    whole=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_lists_equal_a_full_sort_bit_for_bit(
    n_users: int, n_items: int, rank: int, k: int, seed: int, whole: bool
) -> None:
    assert_same_lists(scene(n_users, n_items, rank, seed, whole), k)


@pytest.mark.parametrize("whole", [False, True], ids=["random scores", "ties everywhere"])
def test_lists_over_several_tiles_equal_a_full_sort(whole: bool) -> None:
    assert_same_lists(scene(USER_GROUP + 20, ITEM_TILE + 600, 6, seed=1, whole=whole), 10)


def test_a_user_without_factors_gets_the_first_items_by_tie_rank() -> None:
    arguments = scene(3, 500, 4, seed=2) | {"user_bias": None, "item_bias": None, "allowed": None}
    arguments["user_factors"][:] = 0
    arguments["seen_ptr"], arguments["seen_items"] = np.zeros(4, np.int64), np.zeros(0, np.int32)
    items, scores = top_k(**arguments, k=5)
    assert np.array_equal(items, np.tile(np.argsort(arguments["tie_rank"])[:5], (3, 1)))
    assert not scores.any()


def test_near_ties_at_the_last_place_are_told_apart_by_their_exact_scores() -> None:
    # More items than there is room for candidates, whose scores differ by less than sgemm can tell.
    rng = np.random.default_rng(3)
    n_items, rank, k = 5 * SPARE, 64, 4
    items = np.tile(rng.standard_normal(rank), (n_items, 1))
    items += rng.standard_normal((n_items, rank)) * 1e-7
    arguments = scene(40, n_items, rank, seed=4) | {"item_factors": items.astype(np.float32)}
    assert_same_lists(arguments | {"user_bias": None, "item_bias": None}, k)


def test_lists_do_not_depend_on_how_users_are_grouped() -> None:
    arguments = scene(50, 900, 16, seed=5)
    together = top_k(**arguments, k=10)
    for first, last in ((0, 1), (1, 18), (18, 50)):
        start, stop = arguments["seen_ptr"][first], arguments["seen_ptr"][last]
        part = arguments | {
            "user_factors": arguments["user_factors"][first:last],
            "user_bias": arguments["user_bias"][first:last],
            "seen_ptr": arguments["seen_ptr"][first : last + 1] - start,
            "seen_items": arguments["seen_items"][start:stop],
        }
        items, scores = top_k(**part, k=10)
        assert np.array_equal(items, together[0][first:last])
        assert np.array_equal(scores, together[1][first:last])


def test_lists_do_not_depend_on_the_number_of_threads() -> None:
    arguments = scene(USERS_PER_TASK + 300, 40, 4, seed=8)
    one, three = top_k(**arguments, k=5), top_k(**arguments, k=5, threads=3)
    assert np.array_equal(one[0], three[0])
    assert np.array_equal(one[1], three[1])


@given(seed=st.integers(0, 2**16), spread=st.floats(0.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_items_that_are_never_multiplied_belong_to_no_list(seed: int, spread: float) -> None:
    # Norms of every spread, from all alike to e^9 apart: users stop at any tile, some at the first.
    arguments = scene(30, 3 * ITEM_TILE, 3, seed)
    norms = np.exp(spread * np.random.default_rng(seed).standard_normal(3 * ITEM_TILE))
    arguments["item_factors"] = (arguments["item_factors"] * norms[:, None]).astype(np.float32)
    assert_same_lists(arguments, 10)
    assert_same_lists(arguments | {"user_bias": None, "item_bias": None, "allowed": None}, 10)


def test_seen_items_may_come_in_any_order_and_more_than_once() -> None:
    arguments = scene(20, 300, 5, seed=9)
    rng = np.random.default_rng(9)
    rows = np.split(arguments["seen_items"], arguments["seen_ptr"][1:-1])
    untidy = [rng.permutation(np.concatenate([row, row[:3]])) for row in rows]
    items, scores = top_k(
        **arguments
        | {
            "seen_ptr": np.cumsum([0] + [len(row) for row in untidy]),
            "seen_items": np.concatenate(untidy).astype(np.int32),
        },
        k=10,
    )
    wanted_items, wanted_scores = top_k_numpy(**arguments, k=10)
    assert np.array_equal(items, wanted_items)
    assert np.array_equal(scores, wanted_scores)


def test_similar_items_are_those_at_the_smallest_angle() -> None:
    factors = np.array([[2, 0], [3, 3], [0, 5], [0, 0], [-1, 0], [0, 0.5]], np.float32)
    ties = np.array([0, 1, 2, 3, 4, 5])
    items, cosines = similar_items(factors, 3, ties)
    half = float(np.sqrt(0.5))
    assert items.tolist() == [[1, 2, 5], [0, 2, 5], [5, 1, 0], [-1, -1, -1], [2, 5, 1], [2, 1, 0]]
    # One rounding of each factor and one of the sum.
    assert np.allclose(cosines[:3], np.array([[half, 0, 0], [half, half, half], [1, half, 0]]), atol=2**-22)
    assert np.isneginf(cosines[3]).all()
    some, _ = similar_items(factors, 1, ties, rows=np.array([5, 0]), allowed=ties != 2)
    assert some.tolist() == [[1], [1]]


@given(n_items=st.integers(1, 60), rank=st.integers(1, 6), n=st.integers(1, 70), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_similar_items_agree_with_cosines_in_float64(n_items: int, rank: int, n: int, seed: int) -> None:
    factors = scene(1, n_items, rank, seed)["item_factors"]
    _, cosines = similar_items(factors, n, np.arange(n_items))
    long = factors.astype(np.float64)
    units = long / np.linalg.norm(long, axis=1, keepdims=True)
    whole = units @ units.T
    np.fill_diagonal(whole, -np.inf)
    wanted = -np.sort(-whole, axis=1)[:, :n]
    # The factors are rounded to float32 before they are multiplied, the sum once more.
    assert np.allclose(cosines[:, : wanted.shape[1]][:, : n_items - 1], wanted[:, : n_items - 1], atol=2**-21)
    assert np.isneginf(cosines[:, n_items - 1 :]).all()


@pytest.mark.parametrize("side", ["user", "item"])
def test_factors_that_are_not_finite_are_refused_by_row(side: str) -> None:
    arguments = scene(4, 6, 3, seed=10)
    arguments[f"{side}_factors"][2, 1] = np.nan
    with pytest.raises(NumericalError, match=f"{side} row 2"):
        top_k(**arguments, k=1)


def test_places_without_an_item_are_padded() -> None:
    arguments = scene(2, 6, 3, seed=6) | {"allowed": np.array([False, True, False, False, True, False])}
    arguments["seen_ptr"], arguments["seen_items"] = np.array([0, 1, 3]), np.array([1, 1, 4], np.int32)
    items, scores = top_k(**arguments, k=3)
    assert items.tolist() == [[4, -1, -1], [-1, -1, -1]]
    assert np.isneginf(scores[:, 1:]).all()


def test_a_list_without_places_and_shapes_that_do_not_fit_are_refused() -> None:
    arguments = scene(2, 6, 3, seed=7)
    with pytest.raises(ConfigError, match="at least 1"):
        top_k(**arguments, k=0)
    with pytest.raises(ConfigError, match="do not fit"):
        top_k(**arguments | {"user_factors": np.zeros((2, 4))}, k=1)
