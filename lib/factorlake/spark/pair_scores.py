"""Scores of given pairs: where a block of users meets its pairs, no factor leaves the worker."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.spark.arrow_lists import matrix
from factorlake.spark.arrow_text import distinct_values
from factorlake.spark.ids import logical_block
from factorlake.spark.item_side import ItemSide

SCORE_SCHEMA = "user_id string, item_id string, score double"
# Pairs whose factors a task gathers at once.
PAIRS_AT_ONCE = 65_536


def score_pairs(users: DataFrame, pairs: DataFrame, items: ItemSide, n_blocks: int) -> DataFrame:
    """Return μ + b_u + b_i + x·y of each pair, summed in float64 (columns of SCORE_SCHEMA).

    Parameters
    ----------
    users : user_id, factor (array<float>), bias (float). One row a user.
    pairs : user_id, item_id. A user or item that the model does not know adds nothing to the score.
    items : the item side.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash; it does not change a score.
    """

    def score(left: pa.Table, right: pa.Table) -> pa.Table:
        return _score_block(left, right, items)

    block = logical_block(F.xxhash64("user_id"), n_blocks).alias("block")
    left = users.select("user_id", "factor", "bias", block)
    right = pairs.select("user_id", "item_id", block)
    return left.groupBy("block").cogroup(right.groupBy("block")).applyInArrow(score, SCORE_SCHEMA)


def _score_block(users: pa.Table, pairs: pa.Table, items: ItemSide) -> pa.Table:
    item_factors, item_biases = items.factors.load(), items.biases.load()
    factors = matrix(users["factor"], item_factors.shape[1])
    user_biases = users["bias"].to_numpy().astype(np.float64)
    user = pc.fill_null(pc.index_in(pairs["user_id"], value_set=users["user_id"].combine_chunks()), -1).to_numpy()
    named, code = distinct_values(pairs["item_id"])
    places = pc.fill_null(pc.index_in(named, value_set=items.once("ids", items.ids)), -1).to_numpy()
    # A null item is no item: −1 asks for the place after the last.
    item = np.append(places, np.int32(-1))[code]
    scores = np.full(len(user), float(items.mean))
    scores[user >= 0] += user_biases[user[user >= 0]]
    scores[item >= 0] += item_biases[item[item >= 0]]
    both = np.flatnonzero((user >= 0) & (item >= 0))
    for first in range(0, len(both), PAIRS_AT_ONCE):
        rows = both[first : first + PAIRS_AT_ONCE]
        products = factors[user[rows]].astype(np.float64) * item_factors[item[rows]]
        scores[rows] += products.sum(axis=1)
    return pa.table({"user_id": pairs["user_id"], "item_id": pairs["item_id"], "score": pa.array(scores)})
