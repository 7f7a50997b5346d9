"""Metrics of anyone's recommendations and predicted ratings, from frames, without any table of factorlake.

    from factorlake.metrics import ranking_table, rating_table, compare_rankings
    table = ranking_table(recommendations, held_out, k=10)

A frame is a pandas, Arrow, Polars or Spark one; of anything else that hands itself out as an Arrow stream too. Spark
frames are judged where they lie. docs/evaluation.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.intervals import Interval
from factorlake.evaluation.rating_error import errors_from_sums
from factorlake.metrics import in_memory
from factorlake.metrics.frames import is_spark
from factorlake.metrics.results import ALL, Intervals, in_order, table

__all__ = ["compare_rankings", "ranking_table", "rating_table"]


def ranking_table(
    recommendations: Any,
    held_out: Any,
    k: int = 10,
    known: Any = None,
    slices: Any = None,
    *,
    name: str = "recommendations",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return every ranking metric at k of some lists, with confidence intervals over users.

    Parameters
    ----------
    recommendations : user_id, item_id and rank (1, 2, 3 ... for each user) or score (greatest first, ties by item id,
        ascending). Lists longer than k are cut.
    held_out : user_id, item_id: what users chose later, each pair once. Users without a list count as 0; users without
        held-out pairs are not judged, whatever is listed for them.
    k : places that are judged.
    known : user_id, item_id: what users had before, repeated or not. Such pairs are taken out of the lists, which close
        up, and of the held-out pairs. With it there are novelty, popularity lift and coverage as well, and users who
        are held out but not known are told apart, as the slice "cold users".
    slices : "activity" (ten groups by number of known items; needs ``known``), or a frame of user_id and columns of
        labels, or a frame of item_id and columns of labels: then the held-out pairs of such items alone are asked for,
        so that the slice "category=books" tells how well books are found. Ids without a label are in no slice.
    name : what the column ``name`` says.
    level : coverage of the intervals.

    Returns
    -------
    pandas frame: name, metric, value, lower, upper, n (users), slice ("all", "cold users", "segment=gold" ...). Without
    ``known`` "all" are all users with held-out pairs, with it those of them who are known; so are the users of other
    slices. coverage@k has no interval (NaN): it is no mean over users. Slices without users have no rows.

    Raises
    ------
    ConfigError : k below 1, a level out of range, something that is no frame, "activity" without ``known``.
    DataRefusedError : a column is missing, ids are null or of unlike types, a pair stands twice, ranks are not 1, 2,
        3 ..., a score is not finite, or nobody has a held-out pair.
    """
    return table(_ranked({name: recommendations}, held_out, k, known, slices, level))


def compare_rankings(
    recommendations: Mapping[str, Any],
    held_out: Any,
    k: int = 10,
    known: Any = None,
    slices: Any = None,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return the metrics of several lists on the same held-out pairs, and how each differs from the first.

    Parameters
    ----------
    recommendations : name → frame, the one that others are compared with first. The rest is as in `ranking_table`.

    Returns
    -------
    The rows of `ranking_table` for each name, and for each but the first rows named "NAME - FIRST": the mean difference
    of each user's figures, with the interval of that (paired by user). A difference whose interval leaves out 0 is more
    than chance. Novelty and popularity lift compare users to whom both list something.

    Raises
    ------
    ConfigError, DataRefusedError : as `ranking_table`; no names.
    """
    if not recommendations:
        raise ConfigError("there is nothing to compare: give a name and a frame of recommendations")
    return table(_ranked(recommendations, held_out, k, known, slices, level))


def rating_table(predicted: Any, actual: Any, *, name: str = "predicted", level: float = 0.95) -> pd.DataFrame:
    """Return RMSE and MAE of predicted ratings, with confidence intervals over users.

    Parameters
    ----------
    predicted : user_id, item_id and prediction (or predicted). NaN or null is no prediction, as in Spark's ALS.
    actual : user_id, item_id and rating (or value): the held-out ratings, each pair once.
    name : what the column ``name`` says.
    level : coverage of the intervals.

    Returns
    -------
    pandas frame: name, metric, value, lower, upper, n (users). rmse and mae are over the ratings that have a
    prediction; the row ``predicted`` tells their share of all, which has no interval (NaN). A model that predicts only
    what is easy errs less: compare models with equal shares.

    Raises
    ------
    ConfigError : something that is no frame, or a level out of range.
    DataRefusedError : a column is missing, ids are null or of unlike types, a pair stands twice, a rating is not
        finite, or no rating has a prediction.
    """
    if is_spark(predicted) or is_spark(actual):
        from factorlake.metrics import in_spark

        sums = in_spark.user_errors(predicted, actual)
    else:
        sums = in_memory.user_errors(predicted, actual)
    has = sums.n > 0
    if not has.any():
        raise DataRefusedError("no actual rating has a prediction: the pairs of user and item do not meet")
    errors = errors_from_sums(sums.squared[has], sums.absolute[has], sums.n[has], level)
    share = float(sums.n.sum() / sums.n_asked.sum())
    errors["predicted"] = Interval(share, np.nan, np.nan, len(has))
    rows = table({(name, ALL, metric): interval for metric, interval in errors.items()})
    return rows.drop(columns="slice")


def _ranked(
    recommendations: Mapping[str, Any], held_out: Any, k: int, known: Any, slices: Any, level: float
) -> Intervals:
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}")
    if isinstance(slices, str) and (slices != "activity" or known is None):
        raise ConfigError(f"slices {slices!r}: give a frame of labels, or 'activity' together with known")
    frames = [*recommendations.values(), held_out, known, *([] if isinstance(slices, str) else [slices])]
    judge = in_memory.judge
    if any(is_spark(frame) for frame in frames):
        # Without Spark frames pyspark need not be there.
        from factorlake.metrics import in_spark

        judge = in_spark.judge
    return in_order(judge(recommendations, held_out, k, known, slices, level), list(recommendations), k)
