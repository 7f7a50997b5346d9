"""Scores of pairs by item neighbours against dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factorlake.kernels.neighbour_scores import neighbour_scores
from factorlake.kernels.packing import CompressedRows

N_ITEMS = 12
# Sums of fewer than twenty float64 terms, rounded once to float32.
ROUNDING = 2.0**-23


def rows_of(rng: np.random.Generator, n_rows: int, *, most: int = 8) -> CompressedRows:
    rows = [np.sort(rng.choice(N_ITEMS, rng.integers(0, most), replace=False)) for _ in range(n_rows)]
    ptr = np.cumsum([0, *(len(row) for row in rows)])
    values = rng.normal(size=ptr[-1]).astype(np.float32)
    return CompressedRows(ptr, np.concatenate(rows).astype(np.int32), values)


@pytest.mark.parametrize("ones", [False, True])
def test_scores_are_sums_over_rated_neighbours_of_positive_weight(ones: bool) -> None:
    rng = np.random.default_rng(4)
    known, asked, near = rows_of(rng, 30), rows_of(rng, 30), rows_of(rng, N_ITEMS)
    if ones:
        known = known._replace(values=None)
    found = neighbour_scores(known, asked, near)
    n_none = 0
    for user in range(30):
        own = slice(known.row_ptr[user], known.row_ptr[user + 1])
        values = np.ones(len(known.neighbours)) if known.values is None else known.values
        rated = dict(zip(known.neighbours[own].tolist(), values[own].tolist(), strict=True))
        for at in range(asked.row_ptr[user], asked.row_ptr[user + 1]):
            item = asked.neighbours[at]
            places = range(near.row_ptr[item], near.row_ptr[item + 1])
            assert near.values is not None
            terms = [
                float(near.values[place]) * rated[int(near.neighbours[place])]
                for place in places
                if int(near.neighbours[place]) in rated and near.values[place] > 0
            ]
            if terms:
                size = sum(abs(term) for term in terms)
                assert abs(float(found[at]) - math.fsum(terms)) <= ROUNDING * size
            else:
                assert math.isnan(found[at])
                n_none += 1
    assert 0 < n_none < len(found)


def test_nobody_asks_for_nothing() -> None:
    none = CompressedRows(np.zeros(1, np.int64), np.empty(0, np.int32), None)
    near = rows_of(np.random.default_rng(1), N_ITEMS)
    assert len(neighbour_scores(none, none, near)) == 0
