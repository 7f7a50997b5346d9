"""Initial factors drawn from hashes of ids."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.initial import initial_factors

RECORDED = [
    "-0x1.785fa80000000p-4",
    "-0x1.2dbb7a0000000p-6",
    "-0x1.1dabc20000000p-4",
    "-0x1.829e220000000p-4",
    "0x1.53f6ba0000000p-6",
    "-0x1.5ce59e0000000p-4",
]


def test_initial_factors_follow_the_id_not_the_order_of_rows() -> None:
    hashes = hash_ids([f"user {n}" for n in range(1000)])
    order = np.random.default_rng(1).permutation(1000)
    one = initial_factors(hashes, 12, seed=7, scale=0.1)
    assert np.array_equal(initial_factors(hashes[order], 12, seed=7, scale=0.1), one[order])


def test_initial_factors_of_the_first_columns_do_not_depend_on_the_rank_but_for_the_scale() -> None:
    hashes = hash_ids(["a", "b", "c"])
    narrow = initial_factors(hashes, 4, seed=7, scale=2.0)
    wide = initial_factors(hashes, 16, seed=7, scale=4.0)
    assert np.array_equal(narrow, wide[:, :4])


def test_initial_factors_have_the_promised_spread() -> None:
    factors = initial_factors(hash_ids([str(n) for n in range(20_000)]), 16, seed=3, scale=0.1).astype(np.float64)
    # 320,000 uniform draws: their standard deviation is known to 0.08 %, their mean to 0.2 % of it; five
    # times that.
    assert np.std(factors) == pytest.approx(0.1 / 4, rel=4e-3)
    assert abs(np.mean(factors)) < 0.01 * 0.1 / 4
    assert np.abs(factors).max() <= np.sqrt(3) * 0.1 / 4
    correlation = np.corrcoef(factors, rowvar=False) - np.eye(16)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_another_seed_gives_other_factors() -> None:
    hashes = hash_ids(["a", "b"])
    assert not np.any(initial_factors(hashes, 8, 1, 0.1) == initial_factors(hashes, 8, 2, 0.1))


def test_no_rows_give_an_empty_matrix() -> None:
    assert initial_factors(np.zeros(0, np.int64), 5, 1, 0.1).shape == (0, 5)


def test_initial_factors_are_these_very_numbers_on_every_machine() -> None:
    # Recorded once; integer mixing and single IEEE operations cannot give anything else.
    factors = initial_factors(hash_ids(["Spark", "Delta"]), 3, seed=7, scale=0.1)
    assert [one.hex() for one in factors.astype(np.float64).ravel().tolist()] == RECORDED
