"""Errors of predicted ratings in frames: sums of each user, taken where the user's rows lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.evaluation.rating_error import UserErrors
from factorlake.spark.arrow_codes import sorted_codes
from factorlake.spark.ids import logical_block
from factorlake.spark.ranking import GROUPS

_SUMS = pa.schema(
    [
        ("block", pa.int32()),
        ("place", pa.int64()),
        ("squared", pa.float64()),
        ("absolute", pa.float64()),
        ("n", pa.int64()),
        ("n_asked", pa.int64()),
    ]
)


def rating_sums(ratings: DataFrame, n_groups: int = GROUPS) -> UserErrors:
    """Return the sums of each user's errors, users by (group, id).

    Parameters
    ----------
    ratings : user_id, item_id, predicted, rating (double); a null or NaN prediction is none.
    n_groups : a power of two; it changes the order of users and nothing else.

    The driver holds four numbers a user. A user's sums run over the items in their order, so that they are the same
    bits whatever the partitions.

    Raises
    ------
    DataRefusedError : inside Spark's own error: a null id or rating, or a pair that stands twice.
    """
    grouped = ratings.select(
        "user_id", "item_id", "predicted", "rating", logical_block(F.xxhash64("user_id"), n_groups).alias("block")
    ).groupBy("block")
    schema = "block int, place bigint, squared double, absolute double, n bigint, n_asked bigint"
    sums = grouped.applyInArrow(_add_up, schema).toArrow().sort_by([("block", "ascending"), ("place", "ascending")])
    return UserErrors(*(sums[name].to_numpy() for name in UserErrors._fields))


def _add_up(table: pa.Table) -> pa.Table:
    user, ids = sorted_codes(table["user_id"])
    item, _ = sorted_codes(table["item_id"])
    rating = table["rating"].to_numpy()
    predicted = table["predicted"].to_numpy()
    if (user < 0).any() or (item < 0).any() or not np.isfinite(rating).all():
        raise DataRefusedError("a user_id, item_id or rating is null or not finite: leave such rows out")
    order = np.lexsort((item, user))
    user, item = user[order], item[order]
    if ((user[1:] == user[:-1]) & (item[1:] == item[:-1])).any():
        raise DataRefusedError("a pair of user and item stands twice in the ratings or the predictions: keep each once")
    sums = UserErrors.of_rows(user, predicted[order], rating[order], len(ids))
    return pa.table(
        {"block": np.full(len(ids), table["block"][0].as_py(), np.int32), "place": np.arange(len(ids))}
        | sums._asdict(),
        schema=_SUMS,
    )
