"""Baselines against worked examples, a slow second implementation and the solved normal equations."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.baselines import BiasBaseline, popularity_lists, popularity_order


def test_popularity_orders_by_count_and_ties_by_their_rank() -> None:
    assert popularity_order(np.array([2, 5, 2, 0])).tolist() == [1, 0, 2, 3]
    assert popularity_order(np.array([2, 5, 2, 0]), tie_rank=np.array([3, 0, 1, 2])).tolist() == [1, 2, 0, 3]


def test_popularity_lists_leave_out_what_each_user_has_seen() -> None:
    lists = popularity_lists(np.array([3, 1, 0, 2]), np.array([0, 2, 2, 6]), np.array([1, 3, 0, 1, 2, 3]), 2)
    assert lists.tolist() == [[0, 2], [3, 1], [-1, -1]]


def test_popularity_lists_equal_a_plain_python_filter() -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(30)
    seen = [list(rng.choice(30, size=rng.integers(0, 30), replace=False)) for _ in range(50)]
    ptr = np.cumsum([0, *map(len, seen)])
    lists = popularity_lists(order, ptr, np.array([item for row in seen for item in row]), 7)
    for row, known in zip(lists, seen, strict=True):
        expected = [item for item in order if item not in known][:7]
        assert row[row >= 0].tolist() == expected


def test_popularity_lists_refuse_a_length_of_zero() -> None:
    with pytest.raises(ConfigError, match="k must be"):
        popularity_lists(np.array([0]), np.array([0, 0]), np.empty(0, dtype=np.int64), 0)


def test_biases_reach_the_solution_of_the_normal_equations() -> None:
    rng = np.random.default_rng(2)
    users, items = rng.integers(0, 12, 200), rng.integers(0, 9, 200)
    ratings = rng.integers(1, 6, 200).astype(float)
    fitted = BiasBaseline.fit(users, items, ratings, 12, 9, user_damping=15, item_damping=10, sweeps=10)
    design = np.zeros((200, 21))
    design[np.arange(200), users] = 1
    design[np.arange(200), 12 + items] = 1
    damping = np.diag([15.0] * 12 + [10.0] * 9)
    exact = np.linalg.solve(design.T @ design + damping, design.T @ (ratings - ratings.mean()))
    # Each sweep shrinks the error by about n/(n + λ) on either side: here below 0.36, so by 4e-5 in ten.
    assert np.concatenate([fitted.user_bias, fitted.item_bias]) == pytest.approx(exact, abs=1e-4)


def test_a_pair_of_strangers_is_predicted_the_mean() -> None:
    fitted = BiasBaseline.fit(np.array([0, 0]), np.array([0, 1]), np.array([2.0, 4.0]), 2, 3)
    assert fitted.predict(np.array([-1]), np.array([-1])) == [3.0]
    assert fitted.predict(np.array([1]), np.array([2])) == [3.0]


def test_a_known_item_moves_the_prediction_by_its_damped_bias() -> None:
    fitted = BiasBaseline.fit(
        np.array([0, 1]), np.array([0, 1]), np.array([2.0, 4.0]), 2, 2, user_damping=1e9, item_damping=1.0
    )
    # μ = 3, residual ∓1, one rating each: ∓1 / (1 + 1). Users are damped away.
    assert fitted.predict(np.array([-1, -1]), np.array([0, 1])) == pytest.approx([2.5, 3.5], abs=1e-6)


@pytest.mark.parametrize(
    ("ratings", "damping", "error"),
    [([], 1.0, ConfigError), ([np.nan], 1.0, NumericalError), ([3.0], 0.0, ConfigError)],
)
def test_ratings_that_give_no_biases_are_refused(ratings: list[float], damping: float, error: type[Exception]) -> None:
    positions = np.zeros(len(ratings), dtype=np.int64)
    with pytest.raises(error):
        BiasBaseline.fit(positions, positions, np.array(ratings), 1, 1, user_damping=damping)
