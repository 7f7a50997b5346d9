"""The map from score to probability against scikit-learn and planted odds; how far probabilities are off."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as their_log_loss

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.calibration import (
    MOST_KNOTS,
    Calibration,
    brier_score,
    calibration_error,
    clip_to_scale,
    fit_calibration,
    log_loss,
)

# Two float64 evaluations of the same means of at most some thousand hits.
ROUNDING = 1e-10


def planted(n: int, seed: int, slope: float = 2.0, offset: float = -1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, hits and the probabilities the hits were drawn with."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n)
    chances = expit(slope * scores + offset)
    return scores, rng.random(n) < chances, chances


def theirs(scores: np.ndarray, hits: np.ndarray) -> IsotonicRegression:
    return IsotonicRegression(out_of_bounds="clip").fit(scores, hits)


@pytest.mark.parametrize("decimals", [1, 6])
def test_isotonic_equals_scikit_learn_where_nothing_is_thinned(decimals: int) -> None:
    scores, hits, _ = planted(1500, 1)
    scores = scores.round(decimals)  # one decimal: many equal scores
    fitted = fit_calibration(scores, hits)
    assert len(fitted.scores) < MOST_KNOTS
    asked = np.linspace(-5, 5, 997)
    assert fitted.apply(asked) == pytest.approx(theirs(scores, hits).predict(asked), abs=ROUNDING)


def test_a_thinned_map_is_close_to_the_whole_one() -> None:
    rng = np.random.default_rng(2)
    scores = np.sort(rng.random(60_000))
    hits = rng.random(60_000) < scores
    whole = theirs(scores, hits)
    assert len(whole.X_thresholds_) > MOST_KNOTS
    fitted = fit_calibration(scores, hits)
    assert len(fitted.scores) <= MOST_KNOTS
    asked = np.linspace(-0.1, 1.1, 5_001)
    apart = np.arcsin(np.sqrt(fitted.apply(asked))) - np.arcsin(np.sqrt(whole.predict(asked).clip(0, 1)))
    # The bound that the docstring gives, and rounding.
    assert np.abs(apart).max() <= math.pi / 98 + ROUNDING


def test_planted_odds_come_back() -> None:
    scores, hits, _ = planted(40_000, 3)
    fitted = fit_calibration(scores, hits)
    asked, _, chances = planted(5_000, 4)
    # Isotonic regression errs as n^(-1/3): some hundredths here.
    assert np.abs(fitted.apply(asked) - chances).mean() < 0.02
    fresh_scores, fresh_hits, _ = planted(40_000, 5)
    assert calibration_error(fitted.apply(fresh_scores), fresh_hits) < 0.015


def test_few_hits_give_the_logistic_curve_of_scikit_learn() -> None:
    scores, hits, _ = planted(400, 6, offset=-4.0)
    n_hits, n_misses = hits.sum(), (~hits).sum()
    assert 0 < n_hits < 50
    fitted = fit_calibration(scores, hits)
    target = np.where(hits, (n_hits + 1) / (n_hits + 2), 1 / (n_misses + 2))
    # A soft target is a hit with its weight and a miss with the rest.
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    knots = np.array(fitted.scores)
    # Their solver stops at a gradient of 1e-10 of the loss.
    assert fitted.apply(knots) == pytest.approx(model.predict_proba(knots[:, None])[:, 1], abs=1e-6)
    between = np.linspace(scores.min(), scores.max(), 1_999)
    # A step of the knots is at most 32/99 in log-odds: 1/8 · 0.323² · max|σ''| of 0.0963.
    assert np.abs(fitted.apply(between) - model.predict_proba(between[:, None])[:, 1]).max() < 0.0013


@pytest.mark.parametrize("hits", [np.zeros(30), np.ones(30)])
def test_one_outcome_gives_a_smoothed_share(hits: np.ndarray) -> None:
    fitted = fit_calibration(np.arange(30.0), hits)
    share = 31 / 32 if hits[0] else 1 / 32
    assert fitted.apply(np.array([-9.0, 15.0, 99.0])) == pytest.approx([share] * 3, abs=1e-6)


def test_a_score_that_goes_the_wrong_way_says_nothing() -> None:
    scores, hits, _ = planted(300, 7, slope=-2.0, offset=-3.0)
    fitted = fit_calibration(scores, hits)
    assert len(fitted.scores) == 1
    n_hits = int(hits.sum())
    smoothed = (n_hits * (n_hits + 1) / (n_hits + 2) + (300 - n_hits) / (302 - n_hits)) / 300
    assert fitted.probabilities[0] == pytest.approx(smoothed, abs=ROUNDING)


def test_scores_that_part_hits_from_misses_stay_finite() -> None:
    fitted = fit_calibration(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    low, high = fitted.apply(np.array([0.0, 3.0]))
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize("n", [20, 400])
def test_equal_scores_give_their_share(n: int) -> None:
    hits = np.arange(n) % 4 == 0
    fitted = fit_calibration(np.full(n, 0.7), hits)
    smoothed = (n / 4 * (n / 4 + 1) / (n / 4 + 2) + 0.75 * n / (0.75 * n + 2)) / n
    assert fitted.apply(np.array([0.1])) == pytest.approx(0.25 if n == 400 else smoothed, abs=ROUNDING)


def test_the_map_never_falls_and_survives_json() -> None:
    for n, seed in ((60, 8), (500, 9), (30_000, 10)):
        scores, hits, _ = planted(n, seed)
        fitted = fit_calibration(scores, hits)
        asked = np.sort(np.concatenate([scores, np.linspace(-8, 8, 500)]))
        found = fitted.apply(asked)
        assert (np.diff(found) >= 0).all()
        assert found.min() >= 0
        assert found.max() <= 1
        assert len(fitted.scores) <= MOST_KNOTS
        assert Calibration.from_lists(*json.loads(json.dumps(fitted.to_lists()))) == fitted


def test_the_map_does_not_depend_on_the_order_of_pairs() -> None:
    for n in (100, 3_000):
        scores, hits, _ = planted(n, 11)
        order = np.random.default_rng(0).permutation(n)
        first, second = fit_calibration(scores, hits), fit_calibration(scores[order], hits[order])
        # Sums over pairs in another order, and Newton's steps from them.
        assert first.scores == pytest.approx(second.scores, abs=1e-9)
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-9)


def test_calibration_error_worked_by_hand() -> None:
    # Bins of two: {0.1, 0.2} with one hit of two, {0.6, 0.8} with two of two.
    found = calibration_error(np.array([0.8, 0.1, 0.6, 0.2]), np.array([1, 0, 1, 1]), bins=2)
    assert found == pytest.approx(0.5 * abs(0.15 - 0.5) + 0.5 * abs(0.7 - 1.0), abs=ROUNDING)


def test_equal_probabilities_share_a_bin() -> None:
    # Cut in the middle, the four would be off by 0.5 each way; together they are right.
    assert calibration_error(np.full(4, 0.5), np.array([0, 0, 1, 1]), bins=2) == 0.0


def test_brier_score_and_log_loss_equal_scikit_learn() -> None:
    _, hits, chances = planted(2_000, 12)
    assert brier_score(chances, hits) == pytest.approx(brier_score_loss(hits, chances), abs=ROUNDING)
    assert log_loss(chances, hits) == pytest.approx(their_log_loss(hits, chances), abs=ROUNDING)


def test_what_was_held_impossible_costs_much_but_not_all() -> None:
    assert log_loss(np.array([0.0, 1.0]), np.array([1, 1])) == pytest.approx(52 * math.log(2) / 2, abs=ROUNDING)


def test_ratings_move_to_the_ends_of_their_scale() -> None:
    assert clip_to_scale(np.array([0.2, 3.3, 7.0, math.inf]), 1, 5).tolist() == [1.0, 3.3, 5.0, 5.0]
    rng = np.random.default_rng(13)
    actual, predicted = rng.uniform(1, 5, 300), rng.normal(3, 3, 300)
    assert (np.abs(clip_to_scale(predicted, 1, 5) - actual) <= np.abs(predicted - actual)).all()


@pytest.mark.parametrize(("low", "high"), [(5, 1), (1, 1), (math.nan, 1), (0, math.inf)])
def test_a_scale_without_ends_in_order_is_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="scale"):
        clip_to_scale(np.array([1.0]), low, high)


def test_input_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one pair"):
        fit_calibration(np.empty(0), np.empty(0))
    with pytest.raises(ConfigError, match="0 or 1"):
        fit_calibration(np.array([0.5]), np.array([2]))
    with pytest.raises(NumericalError, match="scores: number 1 is nan"):
        fit_calibration(np.array([0.5, math.nan]), np.array([1, 0]))
    with pytest.raises(NumericalError, match="rating 1 is nan"):
        clip_to_scale(np.array([0.5, math.nan]), 0, 1)
    with pytest.raises(ConfigError, match=r"lie in \[0, 1\]"):
        brier_score(np.array([1.5]), np.array([1]))
    with pytest.raises(ConfigError, match="bins"):
        calibration_error(np.array([0.5]), np.array([1]), bins=0)


@pytest.mark.parametrize(
    ("scores", "probabilities", "message"),
    [
        ([], [], "one probability for each score"),
        ([1.0, 1.0], [0.1, 0.2], "ascend"),
        ([1.0, 2.0], [0.2, 0.1], "descend"),
        ([1.0], [1.5], "lie in"),
        ([math.nan], [0.5], "finite"),
    ],
)
def test_lists_that_are_no_map_are_refused(scores: list[float], probabilities: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration.from_lists(scores, probabilities)
