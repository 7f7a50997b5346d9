"""A Gaussian process over few trials, and where the next one promises most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr
from scipy.stats import qmc

from factorlake.errors import ConfigError

LENGTHS = (0.2, 0.35, 0.6, 1.0)
"""Length scales tried, in units of the cube; the likeliest is taken."""
NOISES = (1e-4, 1e-2, 1e-1)
"""Variances of noise tried, in units of the values' own variance."""
DRAWN, NEAR, BEST = 1024, 256, 3
"""Points looked at: spread over the cube, and around each of the best trials."""
NEARBY = 0.08
"""Standard deviation of the latter, in units of the cube."""


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process with a Matérn 5/2 kernel, fitted to standardised values."""

    points: NDArray[np.float64]
    """(n, d) in the unit cube."""
    length: float
    factor: tuple[NDArray[np.float64], bool]
    weights: NDArray[np.float64]
    mean: float
    spread: float

    @classmethod
    def fit(cls, points: NDArray[np.float64], values: NDArray[np.float64]) -> Surrogate:
        """Fit to values at points; length scale and noise are the likeliest of a few.

        Parameters
        ----------
        points : (n, d) in the unit cube, n ≥ 1. values : (n,) finite.

        Raises
        ------
        ConfigError : no points, or shapes that do not fit.

        Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1 and section 5.4.
        """
        if len(points) == 0 or len(points) != len(values):
            raise ConfigError(f"a surrogate needs a value for each of at least one point: {len(points)}, {len(values)}")
        mean = float(np.mean(values))
        spread = float(np.std(values)) or 1.0
        standard = (values - mean) / spread
        best: tuple[float, Surrogate] | None = None
        for length in LENGTHS:
            for noise in NOISES:
                covariance = _matern(points, points, length) + noise * np.eye(len(points))
                factor = cho_factor(covariance, lower=True)
                weights = cho_solve(factor, standard)
                likelihood = -0.5 * standard @ weights - np.log(np.diag(factor[0])).sum()
                if best is None or likelihood > best[0]:
                    best = (float(likelihood), cls(points, length, factor, weights, mean, spread))
        assert best is not None
        return best[1]

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and standard deviation of the value (without noise) at points (m, d)."""
        across = _matern(points, self.points, self.length)
        means = self.mean + self.spread * (across @ self.weights)
        variance = 1.0 - np.einsum("mn,nm->m", across, cho_solve(self.factor, across.T))
        return means, self.spread * np.sqrt(np.maximum(variance, 1e-12))

    def expected_improvement(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return E[max(f − f*, 0)] at points, f* the greatest mean at the trials themselves.

        Source: Jones, Schonlau and Welch, Journal of Global Optimization 13, 1998.
        """
        best = self.predict(self.points)[0].max()
        means, deviations = self.predict(points)
        gain = (means - best) / deviations
        density = np.exp(-0.5 * gain**2) / math.sqrt(2 * math.pi)
        improvement: NDArray[np.float64] = deviations * (gain * ndtr(gain) + density)
        return improvement


def spread_points(n: int, n_dimensions: int, seed: int) -> NDArray[np.float64]:
    """Return n points that fill the unit cube evenly: a scrambled Halton sequence, (n, n_dimensions)."""
    points: NDArray[np.float64] = qmc.Halton(n_dimensions, scramble=True, rng=np.random.default_rng(seed)).random(n)
    return points


def most_promising(
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    free: int,
    fixed: NDArray[np.float64],
    seed: int,
    around: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float64]:
    """Return the point of the unit cube (free,) with the greatest expected improvement.

    Parameters
    ----------
    points : (n, free + len(fixed)) of the trials; values : (n,), greater is better.
    fixed : the last coordinates of the point that is looked for.
    seed : of the points looked at; the same gives the same.
    around, reach : it is looked for within ``reach`` of the point ``around`` (free,), coordinate by coordinate.
    """
    surrogate = Surrogate.fit(points, values)
    rng = np.random.default_rng(seed)
    low, high = np.maximum(around - reach, 0.0), np.minimum(around + reach, 1.0)
    leaders = points[np.argsort(-values, kind="stable")[:BEST], :free]
    near = np.concatenate([one + NEARBY * rng.standard_normal((NEAR, free)) for one in leaders])
    looked = np.clip(np.concatenate([low + (high - low) * spread_points(DRAWN, free, seed), near]), low, high)
    full = np.concatenate([looked, np.tile(fixed, (len(looked), 1))], axis=1)
    chosen: NDArray[np.float64] = looked[int(np.argmax(surrogate.expected_improvement(full)))]
    return chosen


def _matern(a: NDArray[np.float64], b: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    distance = np.sqrt(np.maximum(np.sum((a[:, None, :] - b[None, :, :]) ** 2, axis=2), 0.0)) * (math.sqrt(5) / length)
    kernel: NDArray[np.float64] = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return kernel
