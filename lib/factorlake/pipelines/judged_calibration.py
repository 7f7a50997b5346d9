"""What a score is worth: the probability that an item listed with it is among the held-out ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.evaluation.calibration import Calibration, calibration_error, fit_calibration
from factorlake.evaluation.intervals import Interval, ratio_interval
from factorlake.kernels.arrays import distinct
from factorlake.pipelines.holdout import PAIR, chosen_by_hash
from factorlake.pipelines.judging import MODEL, Figures, Measured

MOST_LISTED = 1_000_000
"""Listed items that the map is found by, at most about: of more the users are chosen by hash."""


@dataclass(frozen=True)
class Calibrated:
    """The map found by all listed items, and how well maps found by one half of the users tell the other half."""

    calibration: Calibration
    n: int
    figures: Figures


def calibrate(lists: DataFrame, truth: DataFrame, k: int) -> Calibrated | None:
    """Fit the map from the scores of listed items and whether they hit.

    lists : user_id, item_id, score, source of one model; lists that popularity made are left out.
    truth : user_id, item_id.

    Returns None where the model made no list. The errors (``ece@k``, ``brier@k``) are of pairs that the map was not
    fitted to: users fall into two halves by hash, and each half is judged by the other's map. They are left out where a
    half is empty. Beside them stands the error of the scores taken for probabilities as they are, kept to [0, 1]
    (``ece_of_scores@k``).
    """
    own = lists.where(F.col("source") == MODEL).select(*PAIR, "score")
    n_users = own.select("user_id").distinct().count()
    chosen = chosen_by_hash(own, max(1, MOST_LISTED // k), n_users)
    hits = chosen.join(truth.select(*PAIR, F.lit(True).alias("hit")), on=PAIR, how="left")
    user = F.xxhash64(F.lit("calibration"), "user_id").alias("user")
    table = hits.select(
        user, F.col("score").cast("double").alias("score"), F.col("hit").isNotNull().alias("hit")
    ).toArrow()
    # One order, whatever the partitions.
    table = table.sort_by([(name, "ascending") for name in ("score", "hit", "user")])
    users, scores = table["user"].to_numpy(), table["score"].to_numpy()
    hit = table["hit"].to_numpy(zero_copy_only=False).astype(np.float64)
    if not len(scores):
        return None
    whole = fit_calibration(scores, hit)
    half = users & 1 == 1
    if half.all() or not half.any():
        return Calibrated(whole, len(scores), {})
    probabilities = np.empty(len(scores))
    for one in (half, ~half):
        probabilities[one] = fit_calibration(scores[~one], hit[~one]).apply(scores[one])
    owner = np.searchsorted(distinct(users), users)
    squares = np.bincount(owner, (probabilities - hit) ** 2)
    error, before = calibration_error(probabilities, hit), calibration_error(scores.clip(0.0, 1.0), hit)
    figures: Figures = {
        # A sum of absolute values over bins has no interval by user.
        Measured(MODEL, f"ece@{k}"): Interval(error, -np.inf, np.inf, len(squares)),
        Measured(MODEL, f"ece_of_scores@{k}"): Interval(before, -np.inf, np.inf, len(squares)),
        Measured(MODEL, f"brier@{k}"): ratio_interval(squares, np.bincount(owner)),
    }
    return Calibrated(whole, len(scores), figures)
