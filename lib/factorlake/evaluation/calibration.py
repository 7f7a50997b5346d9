"""Scores that mean something: a monotone map from score to probability, and how far probabilities are off.

Also predicted ratings kept to their scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit, xlogy

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatVector

MOST_KNOTS = 100
# With fewer hits (or misses) than this isotonic steps follow single outcomes; two parameters do not.
LEAST_OF_EACH = 50
# Beyond this log-odds a probability is 0 or 1 to seven digits.
_FAR = 16.0
_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing piecewise linear map from score to the probability of a hit, constant beyond its ends.

    Two lists of equal length say all of it, at most 100 numbers each: ``scores`` strictly ascending, ``probabilities``
    in [0, 1] and not descending.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        x, p = np.array(self.scores, np.float64), np.array(self.probabilities, np.float64)
        if len(x) == 0 or len(x) != len(p):
            raise ConfigError(f"a calibration needs one probability for each score: got {len(p)} for {len(x)} scores")
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise ConfigError("scores of a calibration must be finite and ascend")
        if not ((p >= 0).all() and (p <= 1).all() and (np.diff(p) >= 0).all()):
            raise ConfigError("probabilities of a calibration must lie in [0, 1] and must not descend")

    @classmethod
    def from_lists(cls, scores: Sequence[float], probabilities: Sequence[float]) -> Calibration:
        """Return the map that `to_lists` told.

        Raises
        ------
        ConfigError : lists that are no such map.
        """
        return cls(tuple(map(float, scores)), tuple(map(float, probabilities)))

    def to_lists(self) -> tuple[list[float], list[float]]:
        """Return (scores, probabilities), for a table's columns or JSON; floats come back the same."""
        return list(self.scores), list(self.probabilities)

    def apply(self, scores: FloatVector) -> NDArray[np.float64]:
        """Return the probability of each score, in the shape of ``scores``. NaN stays NaN."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


def fit_calibration(scores: FloatVector, hits: NDArray[np.generic]) -> Calibration:
    """Return the map from score to the probability of a hit, from pairs that were listed and then held against what
    users chose.

    With at least 50 hits and 50 misses it is isotonic regression: the non-decreasing map with the least Σ (hit − p)²,
    linear between scores where it rises. Of more than 100 knots those are kept between which arcsin √p, whose standard
    error is the same for every p, rises in equal steps of at most π/98; no step that is larger loses either end.
    With fewer it is Platt's: p = 1/(1 + exp(−a s − b)) of maximum likelihood, hits counting as (n₊ + 1)/(n₊ + 2) and
    misses as 1/(n₋ + 2), at 100 scores; a < 0 counts as 0, the smoothed share of hits.

    Parameters
    ----------
    scores : (n,) scores of one model, in any unit.
    hits : (n,) 0 or 1, or booleans. Pairs should be those the map will be used on: of lists, not of random pairs.

    Raises
    ------
    ConfigError : no pairs, lengths that differ, or a hit that is neither 0 nor 1.
    NumericalError : a score is NaN or infinite; names the first.

    Sources: Zadrozny and Elkan, KDD 2002 (isotonic); Platt, Advances in Large Margin Classifiers 1999, fitted as Lin,
    Lin, Weng, Machine Learning 68, 2007.
    """
    x, y = _pairs(scores, hits, "scores")
    n_hits = int(y.sum())
    if min(n_hits, len(y) - n_hits) >= LEAST_OF_EACH:
        return _isotonic(x, y)
    return _platt(x, y)


def calibration_error(probabilities: FloatVector, hits: NDArray[np.generic], bins: int = 10) -> float:
    """Return the expected calibration error: Σ_b (n_b / n) |mean probability − share of hits| over bins b.

    Bins hold equal numbers of pairs, the pairs being sorted by probability and equal probabilities kept together in
    the bin of the first of them: bins of equal width would hold next to all pairs in one, as most probabilities of a
    hit are small.

    Parameters
    ----------
    probabilities, hits : (n,) each, at least one. bins : how many, at least 1.

    Raises
    ------
    ConfigError : no pairs, lengths that differ, a hit that is neither 0 nor 1, a probability outside [0, 1], bins < 1.

    Sources: Naeini, Cooper, Hauskrecht, AAAI 2015; equal numbers as in Nguyen and O'Connor, EMNLP 2015.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    p, y = _probabilities(probabilities, hits)
    order = np.lexsort((y, p))
    p, y = p[order], y[order]
    bin_of = np.searchsorted(p, p, side="left") * bins // len(p)
    # Both sums are over the same pairs, so their difference needs no counts: n_b cancels.
    gaps = np.bincount(bin_of, weights=p, minlength=bins) - np.bincount(bin_of, weights=y, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def brier_score(probabilities: FloatVector, hits: NDArray[np.generic]) -> float:
    """Return Σ (p − hit)² / n, the mean square error of probabilities.

    Raises
    ------
    ConfigError : as `calibration_error`.

    Source: Brier, Monthly Weather Review 78(1) 1950.
    """
    p, y = _probabilities(probabilities, hits)
    return float(np.mean((p - y) ** 2))


def log_loss(probabilities: FloatVector, hits: NDArray[np.generic]) -> float:
    """Return −Σ log(probability given to what happened) / n, in nats.

    A probability counts as at least 2⁻⁵² and at most 1 − 2⁻⁵²: what was held impossible and happened costs 36.

    Raises
    ------
    ConfigError : as `calibration_error`.
    """
    p, y = _probabilities(probabilities, hits)
    least = float(np.finfo(np.float64).eps)
    p = np.clip(p, least, 1 - least)
    return float(-np.mean(xlogy(y, p) + xlogy(1 - y, 1 - p)))


def clip_to_scale(predicted: FloatVector, low: float, high: float) -> NDArray[np.float64]:
    """Return predicted ratings moved to the nearest end of the scale where they lie outside it.

    No rating lies outside, so no error grows by it.

    Parameters
    ----------
    predicted : ratings, in any shape.
    low, high : ends of the scale.

    Raises
    ------
    ConfigError : ends that are not finite or not in order.
    NumericalError : a predicted rating is NaN; names the first. Infinite ones move to the end.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(f"a scale needs two finite ends in order, got {low} and {high}")
    values = np.asarray(predicted, dtype=np.float64)
    if np.isnan(values).any():
        raise NumericalError(f"predicted rating {int(np.argmax(np.isnan(values)))} is nan")
    return np.clip(values, low, high)


def _isotonic(x: NDArray[np.float64], y: NDArray[np.float64]) -> Calibration:
    distinct, code, weights = np.unique(x, return_inverse=True, return_counts=True)
    shares = np.bincount(code, weights=y) / weights
    fitted = isotonic_regression(shares, weights=weights).x.clip(0.0, 1.0)
    # Within a run of equal values only its two ends say anything.
    rises = np.append(True, fitted[1:] != fitted[:-1])
    kept = np.flatnonzero(rises | np.append(rises[1:], True))
    knots, values = distinct[kept], fitted[kept]
    if len(knots) > MOST_KNOTS:
        stable = np.arcsin(np.sqrt(values))
        levels = np.linspace(stable[0], stable[-1], MOST_KNOTS // 2)
        # Around each level the last knot up to it and the first beyond it.
        upto = np.searchsorted(stable, levels, side="right")
        kept = np.unique(np.clip(np.concatenate([upto - 1, upto, [0]]), 0, len(knots) - 1))
        knots, values = knots[kept], values[kept]
    return Calibration(tuple(knots.tolist()), tuple(values.tolist()))


def _platt(x: NDArray[np.float64], y: NDArray[np.float64]) -> Calibration:
    n_hits = float(y.sum())
    n_misses = len(y) - n_hits
    targets = np.where(y == 1, (n_hits + 1) / (n_hits + 2), 1 / (n_misses + 2))
    # A unit of the scores' own makes the two parameters of like size.
    centre, unit = float(x.mean()), float(x.std())
    share = float(targets.mean())
    if unit == 0 or not np.isfinite(unit):
        return Calibration((centre,), (share,))
    slope, offset = _logistic((x - centre) / unit, targets)
    if slope <= 0:
        return Calibration((centre,), (share,))
    low, high = np.clip(slope * (np.array([x.min(), x.max()]) - centre) / unit + offset, -_FAR, _FAR).tolist()
    odds = np.linspace(low, high, MOST_KNOTS)
    knots, at = np.unique(centre + unit * (odds - offset) / slope, return_index=True)
    return Calibration(tuple(knots.tolist()), tuple(expit(odds[at]).tolist()))


def _logistic(x: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Return (a, b) of the greatest Σ t log p + (1 − t) log(1 − p), p = 1/(1 + exp(−a x − b)), by Newton's method with
    halved steps; the function is concave."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    parameters = np.zeros(2)

    def loss(at: NDArray[np.float64]) -> float:
        odds = design @ at
        return float(np.sum(np.logaddexp(0.0, odds) - targets * odds))

    value = loss(parameters)
    for _ in range(_NEWTON_STEPS):
        p = expit(design @ parameters)
        gradient = design.T @ (targets - p)
        curvature = (design.T * (p * (1 - p))) @ design
        # A ridge far below the curvature of one pair keeps the system solvable where all probabilities are extreme.
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        while loss(parameters + step) > value and np.abs(step).max() > 1e-12:
            step /= 2
        if np.abs(step).max() <= 1e-12:
            break
        parameters = parameters + step
        value = loss(parameters)
    return float(parameters[0]), float(parameters[1])


def _pairs(
    figures: FloatVector, hits: NDArray[np.generic], told: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(figures, np.float64), np.asarray(hits, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise ConfigError(f"{told} {x.shape} and hits {y.shape} are not one of each for at least one pair")
    if not ((y == 0) | (y == 1)).all():
        raise ConfigError("a hit is 0 or 1")
    if not np.isfinite(x).all():
        first = int(np.argmin(np.isfinite(x)))
        raise NumericalError(f"{told}: number {first} is {x[first]}")
    return x, y


def _probabilities(
    probabilities: FloatVector, hits: NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = _pairs(probabilities, hits, "probabilities")
    if p.min() < 0 or p.max() > 1:
        raise ConfigError(f"probabilities lie in [0, 1], got {p.min():g} to {p.max():g}")
    return p, y
