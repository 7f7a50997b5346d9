"""Compressed rows beside a plain sort of the same triples."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.kernels.packing import compress_rows, repeated_pair, transpose_rows


@pytest.mark.parametrize("with_values", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_rows_equal_a_plain_sort_both_ways(seed: int, threads: int, with_values: bool) -> None:
    rng = np.random.default_rng(seed)
    n_rows, n_neighbours, n_obs = 60, 25, [0, 1, 40, 500, 1200][seed]
    pairs = rng.choice(n_rows * n_neighbours, n_obs, replace=False)
    rows, neighbours = pairs // n_neighbours, pairs % n_neighbours
    values = rng.normal(size=n_obs).astype(np.float32) if with_values else None
    by_row = compress_rows(rows, neighbours, values, n_rows, n_neighbours, threads)
    for found, first, second, n in (
        (by_row, rows, neighbours, n_rows),
        (transpose_rows(by_row, n_neighbours, threads), neighbours, rows, n_neighbours),
    ):
        order = np.lexsort((second, first))
        assert np.array_equal(np.diff(found.row_ptr), np.bincount(first, minlength=n))
        assert np.array_equal(found.neighbours, second[order])
        if values is None:
            assert found.values is None
        else:
            assert found.values is not None and np.array_equal(found.values, values[order])
    assert repeated_pair(by_row) is None


def test_a_pair_that_occurs_twice_is_named() -> None:
    found = compress_rows(np.array([2, 0, 2, 2]), np.array([1, 1, 0, 1]), np.array([3, 1, 4, 5], np.float32), 3, 2)
    assert repeated_pair(found) == (1, 2, 1)
    # The order of the input stays within a pair.
    assert found.values is not None and found.values.tolist() == [1, 4, 3, 5]
