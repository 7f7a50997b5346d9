"""Top-k lists against a full sort, with ties, masks and lists longer than what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.top_k import ITEM_TILE, SPARE, USER_TILE, top_k
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
    assert_same_lists(scene(USER_TILE + 20, ITEM_TILE + 600, 6, seed=1, whole=whole), 10)


def test_a_user_without_factors_gets_the_first_items_by_tie_rank() -> None:
    arguments = scene(3, 500, 4, seed=2) | {"user_bias": None, "item_bias": None, "allowed": None}
    arguments["user_factors"][:] = 0
    arguments["seen_ptr"], arguments["seen_items"] = np.zeros(4, np.int64), np.zeros(0, np.int32)
    items, scores = top_k(**arguments, k=5)
    assert np.array_equal(items, np.tile(np.argsort(arguments["tie_rank"])[:5], (3, 1)))
    assert not scores.any()


def test_near_ties_at_the_last_place_are_told_apart_by_their_exact_scores() -> None:
    # More items than the heap holds, whose scores differ by less than sgemm can tell.
    rng = np.random.default_rng(3)
    n_items, rank, k = 20 * SPARE, 64, 4
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
