"""Confidence intervals over users: of a mean, of a paired difference, of a ratio of sums.

Users are taken as independent draws; the events of one user are not. So every interval is over users, also
that of an error counted over ratings (a ratio of per-user sums).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from factorlake.errors import ConfigError, NumericalError


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval and the number of users behind it.

    With one user nothing is known of the spread: the ends are −∞ and +∞.
    """

    value: float
    lower: float
    upper: float
    n: int


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of one figure per user with its interval, mean ± t · s/√n.

    t is the quantile of Student's distribution with n − 1 degrees of freedom, which for many users is the
    normal one. The figures themselves need not be normal: their mean nearly is (central limit theorem); for a
    few dozen users with very skewed figures the interval covers somewhat less than `level`.

    Parameters
    ----------
    values : (n_users,), any real dtype; summed as float64.
    level : coverage, in (0, 1).

    Raises
    ------
    ConfigError : no values, not one-dimensional, or `level` out of range.
    NumericalError : a value is NaN or infinite; names the first.

    Source: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    array = _figures(values, "values")
    return _around(float(array.mean()), array - array.mean(), 1.0, level)


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of a − b with its interval, both figures being of the same users in the same order.

    Pairing takes out what makes a user easy or hard for both models, so that small differences show.

    Parameters
    ----------
    a, b : (n_users,) each.

    Raises
    ------
    ConfigError : lengths differ, no values, or `level` out of range.
    NumericalError : a value is NaN or infinite.
    """
    first, second = _figures(a, "a"), _figures(b, "b")
    if len(first) != len(second):
        raise ConfigError(f"paired figures need the same users: a has {len(first)}, b has {len(second)}")
    return mean_interval(first - second, level)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, level: float = 0.95) -> Interval:
    """Return Σ numerators / Σ denominators with its interval over users, by linearisation.

    With R the ratio, d_u = numerator_u − R · denominator_u and D the mean denominator, the standard error is
    s(d) / (D √n). This is how an error per rating gets an interval that knows that ratings come in users.

    Parameters
    ----------
    numerators, denominators : (n_users,) sums of each user; denominators are positive.

    Raises
    ------
    ConfigError : lengths differ, no values, a denominator that is not positive, or `level` out of range.
    NumericalError : a value is NaN or infinite.

    Source: Cochran, Sampling Techniques, 3rd edition 1977, section 6.3 (ratio estimates).
    """
    above, below = _figures(numerators, "numerators"), _figures(denominators, "denominators")
    if len(above) != len(below):
        raise ConfigError(f"a ratio needs the same users: {len(above)} numerators, {len(below)} denominators")
    if not (below > 0).all():
        raise ConfigError(f"denominator {int(np.argmin(below > 0))} is not positive: leave such users out")
    ratio = float(above.sum() / below.sum())
    return _around(ratio, above - ratio * below, float(below.mean()), level)


def interval_from_parts(counts: ArrayLike, totals: ArrayLike, squares: ArrayLike, level: float = 0.95) -> Interval:
    """Return `mean_interval` of figures that lie in parts, from three numbers of each part.

    The squares are taken around each part's own mean, so that nothing is lost where figures differ little:
    Σ (x − m)² = Σ_p squares_p + Σ_p n_p (m_p − m)². The result depends on how the figures are cut into parts, and on
    the parts' order, in its last bits only, since sums of float64 do.

    Parameters
    ----------
    counts : (n_parts,) figures in each part; a part without any adds nothing.
    totals : (n_parts,) their sums.
    squares : (n_parts,) their sums of squared differences from the part's mean.

    Raises
    ------
    ConfigError : no figure in any part, lengths that differ, or `level` out of range.
    NumericalError : a number is NaN or infinite.

    Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
    """
    numbers, sums, spread = _figures(counts, "counts"), _figures(totals, "totals"), _figures(squares, "squares")
    if not len(numbers) == len(sums) == len(spread):
        raise ConfigError(f"parts differ: {len(numbers)} counts, {len(sums)} totals, {len(spread)} squares")
    n = int(numbers.sum())
    if n < 1:
        raise ConfigError("counts: an interval needs one figure for each of at least one user, got none")
    filled = numbers > 0
    mean = float(sums[filled].sum()) / n
    between = numbers[filled] * (sums[filled] / numbers[filled] - mean) ** 2
    return _with_ends(mean, n, float(spread[filled].sum() + between.sum()), 1.0, level)


def _figures(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigError(
            f"{name}: an interval needs one figure for each of at least one user, got shape {array.shape}"
        )
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argmin(finite))
        raise NumericalError(f"{name}: figure {first} is {array[first]}, which has no mean")
    return array


def _around(value: float, deviations: NDArray[np.float64], scale: float, level: float) -> Interval:
    return _with_ends(value, len(deviations), float(np.dot(deviations, deviations)), scale, level)


def _with_ends(value: float, n: int, squares: float, scale: float, level: float) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}")
    if n == 1:
        return Interval(value, -np.inf, np.inf, 1)
    error = float(np.sqrt(squares / (n - 1) / n)) / scale
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * error
    return Interval(value, value - half, value + half, n)
