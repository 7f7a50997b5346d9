"""Intervals against scipy, by simulation, and the errors that use them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.intervals import interval_from_parts, mean_interval, paired_interval, ratio_interval
from factorlake.evaluation.rating_error import UserErrors, errors_from_sums, rating_errors

# Two float64 evaluations of the same short formula.
ROUNDING = 1e-10


@pytest.mark.parametrize("n", [2, 5, 400])
def test_mean_interval_equals_scipys_t_interval(n: int) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    ours = mean_interval(values, 0.9)
    low, high = stats.t.interval(0.9, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (ours.lower, ours.upper) == pytest.approx((low, high), rel=ROUNDING)
    assert (ours.value, ours.n) == (values.mean(), n)


def test_paired_interval_equals_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(50)
    b = a + 0.1 * rng.standard_normal(50)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    ours = paired_interval(a, b)
    assert (ours.lower, ours.upper) == pytest.approx((theirs.low, theirs.high), rel=ROUNDING)


def test_pairing_shows_a_difference_that_separate_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.random(200)
    a, b = hardness + 0.01, hardness
    assert mean_interval(a).lower < mean_interval(b).upper
    assert paired_interval(a, b).lower > 0


def test_mean_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    # A skewed figure in [0, 1] such as NDCG: true mean 1/5.
    samples = rng.beta(1, 4, size=(4000, 100))
    inside = sum(one.lower <= 0.2 <= one.upper for one in map(mean_interval, samples))
    # 4,000 trials at 95 % have a standard deviation of 0.35 %; the skew costs a few tenths of a per cent.
    assert inside / 4000 == pytest.approx(0.95, abs=0.015)


def test_ratio_interval_covers_the_true_ratio_with_uneven_users() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(2000):
        counts = rng.integers(1, 40, 300)
        # Each user has a level of error of their own, so ratings of one user are not independent.
        level = rng.exponential(size=300)
        squared = counts * level
        estimate = ratio_interval(squared, counts)
        inside += estimate.lower <= 1.0 <= estimate.upper
    # Standard deviation of 2,000 trials: 0.5 %; linearisation covers slightly less than it says.
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_ratio_interval_of_equal_denominators_is_the_mean_interval() -> None:
    values = np.random.default_rng(6).random(30)
    ratio, mean = ratio_interval(3 * values, np.full(30, 3)), mean_interval(values)
    assert (ratio.value, ratio.lower, ratio.upper) == pytest.approx((mean.value, mean.lower, mean.upper), rel=ROUNDING)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_an_interval_from_parts_is_that_of_all_figures(shift: float) -> None:
    rng = np.random.default_rng(8)
    values = shift + rng.exponential(size=500)
    parts = np.split(values, [3, 3, 4, 90, 400])
    sums = [float(part.sum()) for part in parts]
    squares = [float(((part - part.mean()) ** 2).sum()) if len(part) else 0.0 for part in parts]
    joined, whole = interval_from_parts([len(part) for part in parts], sums, squares), mean_interval(values)
    # Far from 0 a mean has an error of its size times 2⁻⁵³ for each addition, and so have deviations from it.
    close = pytest.approx((whole.value, whole.lower, whole.upper), rel=ROUNDING)
    assert (joined.value, joined.lower, joined.upper) == close
    assert joined.n == 500


def test_equal_figures_in_parts_have_no_width() -> None:
    same = interval_from_parts([3, 2], [3 * 0.25, 2 * 0.25], [0.0, 0.0])
    assert (same.lower, same.upper, same.n) == (0.25, 0.25, 5)


def test_parts_without_a_figure_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one user"):
        interval_from_parts([0, 0], [0.0, 0.0], [0.0, 0.0])
    with pytest.raises(ConfigError, match="parts differ"):
        interval_from_parts([1, 1], [0.0, 0.0], [0.0])


def test_sums_of_users_leave_out_what_was_not_predicted() -> None:
    sums = UserErrors.of_rows(np.array([0, 0, 2]), np.array([3.0, math.nan, 5.0]), np.array([4.0, 4.0, 2.0]), 3)
    assert [column.tolist() for column in sums] == [[1.0, 0.0, 9.0], [1.0, 0.0, 3.0], [1, 0, 1], [2, 0, 1]]


def test_one_user_says_nothing_of_the_spread() -> None:
    alone = mean_interval([0.3])
    assert (alone.value, alone.lower, alone.upper, alone.n) == (0.3, -math.inf, math.inf, 1)


def test_equal_figures_have_an_interval_without_width() -> None:
    same = mean_interval([0.5, 0.5, 0.5])
    assert (same.lower, same.upper) == (0.5, 0.5)


def test_no_figures_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one user"):
        mean_interval([])


def test_a_figure_that_is_not_a_number_is_refused_by_its_place() -> None:
    with pytest.raises(NumericalError, match="figure 1 is nan"):
        mean_interval([0.1, math.nan])


def test_figures_of_different_users_are_not_paired() -> None:
    with pytest.raises(ConfigError, match="a has 2, b has 3"):
        paired_interval([1, 2], [1, 2, 3])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="level"):
        mean_interval([1.0, 2.0], level)


def test_a_user_without_ratings_has_no_ratio() -> None:
    with pytest.raises(ConfigError, match="denominator 1"):
        ratio_interval([1.0, 0.0], [2.0, 0.0])


def test_rating_errors_worked_by_hand() -> None:
    errors = rating_errors(np.array([0, 0, 3]), np.array([3.0, 4.0, 2.0]), np.array([4.0, 4.0, 4.0]))
    assert errors["rmse"].value == pytest.approx(math.sqrt((1 + 0 + 4) / 3), rel=ROUNDING)
    assert errors["mae"].value == pytest.approx((1 + 0 + 2) / 3, rel=ROUNDING)
    assert errors["rmse"].n == 2


def test_rating_errors_do_not_depend_on_the_order_of_ratings() -> None:
    rng = np.random.default_rng(7)
    users, predicted, actual = rng.integers(0, 20, 300), rng.random(300), rng.random(300)
    order = rng.permutation(300)
    first, second = (
        rating_errors(users, predicted, actual),
        rating_errors(users[order], predicted[order], actual[order]),
    )
    for name in ("rmse", "mae"):
        # Sums of 300 terms in another order.
        assert first[name].lower == pytest.approx(second[name].lower, rel=ROUNDING)
        assert first[name].upper == pytest.approx(second[name].upper, rel=ROUNDING)


def test_the_lower_end_of_rmse_is_never_below_zero() -> None:
    errors = errors_from_sums(np.array([100.0, 0.0]), np.array([10.0, 0.0]), np.array([1, 1]))
    assert errors["rmse"].lower == 0.0


def test_a_prediction_that_is_not_finite_is_refused_by_its_place() -> None:
    with pytest.raises(NumericalError, match="rating 1: predicted inf"):
        rating_errors(np.array([0, 0]), np.array([1.0, math.inf]), np.array([1.0, 1.0]))
