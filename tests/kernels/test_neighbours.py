"""Cosine neighbours of sparse rows against a plain twin and scikit-learn, whatever the blocks and their order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics.pairwise import cosine_similarity

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.neighbours import (
    empty_lists,
    merge_lists,
    offer_cosines,
    offer_weighted,
    sorted_lists,
    sparse_rows,
    turned_rows,
)
from factorlake.kernels.neighbours_numpy import cosine_neighbours_numpy
from factorlake.kernels.packing import CompressedRows

Lists = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]
# A dot product in float64 and its rounding to float32.
ONE_ROUNDING = 2.0**-23


def compressed(ratings: NDArray[np.float32]) -> CompressedRows:
    """The cells that are not 0, in compressed rows; without values when all are 1."""
    rows = csr_matrix(ratings)
    rows.sort_indices()
    values = rows.data.astype(np.float32)
    ones = bool(np.all(values == 1))
    return CompressedRows(rows.indptr.astype(np.int64), rows.indices.astype(np.int32), None if ones else values)


def found(ratings: NDArray[np.float32], n: int, tie_rank: NDArray[np.int64], cuts: list[int], **rules: Any) -> Lists:
    """Lists of all rows, from blocks that end at ``cuts``; the blocks are met last to first."""
    ends = [0, *cuts, len(ratings)]
    spans = list(pairwise(ends))
    blocks = [sparse_rows(compressed(ratings[first:last]), first) for first, last in spans]
    turned = [
        turned_rows(rows, ratings.shape[1], tie_rank[first:last])
        for rows, (first, last) in zip(blocks, spans, strict=True)
    ]
    parts = []
    for rows in blocks:
        lists = empty_lists(len(rows.norms), n)
        for others in reversed(turned):
            offer_cosines(lists, rows, others, **rules)
        parts.append(sorted_lists(lists))
    entries, values, support = (np.concatenate(column) for column in zip(*parts, strict=True))
    return entries, values, support


def drawn(n_rows: int, n_others: int, density: float, seed: int, kind: str = "real") -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    shape = (n_rows, n_others)
    values = {
        "real": rng.standard_normal(shape),
        "stars": rng.integers(1, 6, shape),
        "signed": rng.integers(-2, 3, shape),
        "ones": np.ones(shape),
    }[kind]
    return np.where(rng.random(shape) < density, values, 0).astype(np.float32)


def assert_equal(one: Lists, other: Lists) -> None:
    for left, right in zip(one, other, strict=True):
        assert np.array_equal(left, right)


@given(
    n_rows=st.integers(1, 14),
    n_others=st.integers(1, 9),
    n=st.integers(1, 16),
    density=st.sampled_from([0.1, 0.5, 1.0]),
    kind=st.sampled_from(["real", "stars", "signed", "ones"]),
    min_support=st.integers(0, 3),
    positive_only=st.booleans(),
    shrinkage=st.sampled_from([0.0, 2.5]),
    seed=st.integers(0, 2**16),
    cuts=st.sets(st.integers(0, 14), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_lists_equal_the_plain_twin_bit_for_bit_whatever_the_blocks(
    n_rows: int, n_others: int, n: int, density: float, kind: str, min_support: int, positive_only: bool,
    shrinkage: float, seed: int, cuts: set[int],
) -> None:  # fmt: skip
    ratings = drawn(n_rows, n_others, density, seed, kind)
    tie_rank = np.random.default_rng(seed).permutation(n_rows)
    rules: dict[str, Any] = {"min_support": min_support, "positive_only": positive_only, "shrinkage": shrinkage}
    blocks = sorted(cut for cut in cuts if cut <= n_rows)
    assert_equal(found(ratings, n, tie_rank, blocks, **rules), cosine_neighbours_numpy(ratings, n, tie_rank, **rules))


@pytest.mark.parametrize("density", [0.004, 0.3], ids=["entries visited twice", "all rows looked at"])
def test_lists_over_many_rows_equal_the_plain_twin(density: float) -> None:
    ratings = drawn(700, 150, density, seed=1, kind="stars")
    tie_rank = np.random.default_rng(2).permutation(700)
    assert_equal(found(ratings, 9, tie_rank, [250, 251]), cosine_neighbours_numpy(ratings, 9, tie_rank))


@pytest.mark.parametrize("kind", ["real", "stars", "ones"])
def test_similarities_are_those_of_scikit_learn(kind: str) -> None:
    ratings = drawn(120, 80, 0.2, seed=3, kind=kind)
    entries, values, support = found(ratings, 119, np.arange(120), [50])
    wanted = cosine_similarity(ratings.astype(np.float64))
    row, rank = np.nonzero(entries >= 0)
    near = entries[row, rank]
    assert np.allclose(values[row, rank], wanted[row, near], rtol=0, atol=ONE_ROUNDING)
    told = (ratings != 0).astype(int)
    common = told @ told.T
    assert np.array_equal(support[row, rank], common[row, near])
    # Every other row with something in common is listed, and no row without.
    assert len(row) == np.sum(common > 0) - np.sum(told.any(axis=1))
    assert np.all(np.diff(np.where(entries >= 0, values, -2), axis=1) <= 0)


def test_three_rows_by_hand() -> None:
    # |a| = 5, |b| = 5, |c| = 13: cos(a, b) = 24/25, cos(a, c) = 15/65, cos(b, c) = 20/65; d shares nothing.
    ratings = np.array([[3, 4, 0, 0], [4, 3, 0, 0], [5, 0, 12, 0], [0, 0, 0, 1]], np.float32)
    entries, values, support = found(ratings, 2, np.arange(4), [])
    assert entries.tolist() == [[1, 2], [0, 2], [1, 0], [-1, -1]]
    wanted = np.array([[0.96, 15 / 65], [0.96, 20 / 65], [20 / 65, 15 / 65]], np.float32)
    assert np.array_equal(values[:3], wanted) and np.all(values[3] == -np.inf)
    assert support.tolist() == [[2, 1], [2, 1], [1, 1], [0, 0]]


def test_similarity_is_symmetric_to_the_last_bit() -> None:
    ratings = drawn(60, 40, 0.4, seed=4)
    entries, values, _ = found(ratings, 59, np.arange(60), [7, 30])
    similarity = np.full((60, 60), np.nan, np.float32)
    row, rank = np.nonzero(entries >= 0)
    similarity[row, entries[row, rank]] = values[row, rank]
    assert np.array_equal(similarity, similarity.T, equal_nan=True)
    assert np.sum(~np.isnan(similarity)) > 3000


def test_rows_may_be_stretched_by_powers_of_two() -> None:
    ratings = drawn(50, 30, 0.3, seed=5)
    stretched = ratings * np.exp2(np.random.default_rng(6).integers(-6, 7, 50)).astype(np.float32)[:, None]
    assert_equal(found(stretched, 8, np.arange(50), []), found(ratings, 8, np.arange(50), []))


def test_a_permutation_of_rows_permutes_the_lists() -> None:
    ratings, order = drawn(50, 30, 0.3, seed=7, kind="stars"), np.random.default_rng(8).permutation(50)
    entries, values, support = found(ratings, 8, np.arange(50), [20])
    # Row p of the permuted matrix is row order[p], and keeps its tie rank.
    moved, moved_values, moved_support = found(ratings[order], 8, order, [11, 12])
    assert np.array_equal(np.where(moved >= 0, order[moved], -1), entries[order])
    assert np.array_equal(moved_values, values[order]) and np.array_equal(moved_support, support[order])


def test_of_equally_near_rows_the_smaller_tie_rank_goes_first() -> None:
    ratings = np.outer([1, 2, 3, 0.5, 7], [3, 1, 4, 1, 5]).astype(np.float32)
    entries, values, _ = found(ratings, 2, np.array([4, 0, 3, 1, 2]), [1, 3])
    assert entries.tolist() == [[1, 3], [3, 4], [1, 3], [1, 4], [1, 3]]
    assert np.all(values == 1)


def test_orthogonal_rows_with_common_observations_are_neighbours_at_zero_unless_only_positive_ones_are() -> None:
    ratings = np.array([[1, 1], [1, -1], [-1, -1]], np.float32)
    entries, values, _ = found(ratings, 2, np.arange(3), [])
    assert entries.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert np.allclose(values, [[0, -1], [0, 0], [0, -1]], rtol=0, atol=ONE_ROUNDING)
    assert np.all(found(ratings, 2, np.arange(3), [], positive_only=True)[0] == -1)


def test_shrinkage_puts_well_supported_neighbours_first() -> None:
    ratings = np.array([[1, 1, 1, 1], [2, 0, 0, 0], [1, 1, 1, 0]], np.float32)
    # cos(0, 1) = 1/2 on one common observation, cos(0, 2) = 3/√12 on three.
    _, values, _ = found(ratings, 2, np.arange(3), [], shrinkage=3.0)
    assert np.allclose(values[0], [3 / np.sqrt(12) * 3 / 6, 0.5 * 1 / 4], rtol=0, atol=ONE_ROUNDING)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 3), (4, 0)])
def test_matrices_without_pairs_give_empty_lists(shape: tuple[int, int]) -> None:
    entries, values, support = found(np.ones(shape, np.float32), 3, np.arange(shape[0]), [])
    assert entries.shape == values.shape == support.shape == (shape[0], 3)
    assert np.all(entries == -1) and np.all(values == -np.inf) and not support.any()


def test_zero_rows_have_no_neighbours_and_are_nobodys_and_stored_zeros_are_missing() -> None:
    stored = CompressedRows(
        np.array([0, 2, 4, 5], np.int64), np.array([0, 1, 0, 1, 0], np.int32), np.array([2, 0, 1, 3, 0], np.float32)
    )
    rows = sparse_rows(stored)
    assert rows.row_ptr.tolist() == [0, 1, 3, 3]
    lists = empty_lists(3, 3)
    offer_cosines(lists, rows, turned_rows(rows, 2, np.arange(3)))
    entries, values, support = sorted_lists(lists)
    assert entries.tolist() == [[1, -1, -1], [0, -1, -1], [-1, -1, -1]]
    assert values[0, 0] == np.float32(1 / np.sqrt(10)) and support[0, 0] == 1


def test_the_largest_and_smallest_numbers_neither_overflow_nor_vanish() -> None:
    info = np.finfo(np.float32)
    ratings = np.array([[info.max, info.max], [info.tiny, info.tiny], [info.max, -info.tiny]], np.float32)
    _, values, _ = found(ratings, 2, np.arange(3), [])
    half = np.sqrt(0.5)
    assert np.allclose(values, np.array([[1, half], [1, half], [half, half]]), rtol=0, atol=ONE_ROUNDING)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused_with_its_row(value: float) -> None:
    ratings = CompressedRows(
        np.array([0, 1, 1, 3], np.int64), np.array([0, 0, 1], np.int32), np.array([1, 1, value], np.float32)
    )
    with pytest.raises(NumericalError, match="row 12"):
        sparse_rows(ratings, first_row=10)


def test_lists_of_no_length_and_ranks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        empty_lists(3, 0)
    with pytest.raises(ConfigError, match="3 rows, 2 tie ranks"):
        turned_rows(sparse_rows(compressed(np.ones((3, 2), np.float32))), 2, np.arange(2))


def test_merged_lists_are_the_best_of_all_candidates() -> None:
    rng = np.random.default_rng(9)
    entries = rng.permuted(np.tile(np.arange(40, dtype=np.int32), (5, 1)), axis=1)
    values = rng.integers(0, 6, (5, 40)).astype(np.float32)
    entries[:, 7] = -1
    lists = empty_lists(5, 6)
    for first in (20, 0):
        part = slice(first, first + 20)
        merge_lists(lists, entries[:, part], values[:, part], 3, 100 - entries[:, part].astype(np.int64))
    merged, merged_values, support = sorted_lists(lists)
    for row in range(5):
        left = np.flatnonzero(entries[row] >= 0)
        order = left[np.lexsort((-entries[row, left], -values[row, left]))][:6]
        assert np.array_equal(merged[row], entries[row, order])
        assert np.array_equal(merged_values[row], values[row, order])
    assert np.all(support == 3)


@pytest.mark.parametrize("weights_are_outer", [True, False])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("density", [0.02, 0.6], ids=["entries visited twice", "all entries looked at"])
def test_weighted_scores_equal_plain_sums(weights_are_outer: bool, mean: bool, density: float) -> None:
    # Whole numbers: every sum is exact, so no order matters.
    outer, inner = drawn(30, 25, density, 10, "stars"), drawn(25, 200, density, 11, "stars")
    known = drawn(30, 200, 0.2, 12, "ones")
    tie_rank = np.random.default_rng(13).permutation(200)
    lists = empty_lists(30, 7)
    offer_weighted(
        lists, compressed(outer), compressed(inner), compressed(known), tie_rank,
        weights_are_outer=weights_are_outer, mean=mean, min_support=2,
    )  # fmt: skip
    entries, values, support = sorted_lists(lists)
    o, i = outer.astype(np.float64), inner.astype(np.float64)
    weights = o @ (i != 0) if weights_are_outer else (o != 0) @ i
    terms = (o != 0).astype(int) @ (i != 0).astype(int)
    scores = (o @ i / np.maximum(weights, 1) if mean else o @ i).astype(np.float32)
    for row in range(30):
        left = np.flatnonzero((terms[row] >= 2) & (known[row] == 0))
        order = left[np.lexsort((tie_rank[left], -scores[row, left]))][:7]
        assert np.array_equal(entries[row, : len(order)], order) and np.all(entries[row, len(order) :] == -1)
        assert np.array_equal(values[row, : len(order)], scores[row, order])
        assert np.array_equal(support[row, : len(order)], terms[row, order])
