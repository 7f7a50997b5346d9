"""Solve users' rows against a model's items: the same float64 systems as the last half step of training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.models.features import Vocabulary
from factorlake.models.fold_in import fold_in_rows, turned_items
from factorlake.models.half_step import Fixed
from factorlake.models.parameters import AlsParameters
from factorlake.models.prior import prior_of_texts
from factorlake.models.systems import UserSystem, user_system
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.features import FeaturePrior, with_silent_rows
from factorlake.spark.ids import logical_block
from factorlake.spark.item_side import ItemSide

FOLDED_SCHEMA = "user_id string, factor array<float>, bias float, norm float, n_observed bigint"
_ARROW_FOLDED = pa.schema(
    [
        ("user_id", pa.string()),
        ("factor", pa.list_(pa.float32())),
        ("bias", pa.float32()),
        ("norm", pa.float32()),
        ("n_observed", pa.int64()),
    ]
)


def fold_in(
    pairs: DataFrame,
    items: ItemSide,
    gram: NDArray[np.float64],
    parameters: AlsParameters,
    n_items: int,
    n_blocks: int,
    prior: FeaturePrior | None = None,
) -> DataFrame:
    """Return one row per user of ``pairs`` (columns of FOLDED_SCHEMA), and where it is asked for of ``prior``.

    Groups hold users with pairs alone, so their sizes follow from the pairs, however many others ``prior`` knows.

    Parameters
    ----------
    pairs : user_id, position (of the item), value. A null position is a pair whose item the model does not know: it
        gives the user a row but says nothing.
    items, gram, parameters, n_items : the model, as recorded with it.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash; it does not change a result.
    prior : of a model with features of users.
    """
    item_side = items

    def solve(table: pa.Table) -> pa.Table:
        with single_threaded_blas():
            return _solve_group(table, None, item_side, gram, parameters, n_items)

    block = logical_block(F.xxhash64("user_id"), n_blocks).alias("block")
    grouped = pairs.select("user_id", "position", "value", block).groupBy("block")
    if prior is None or prior.strength is None:
        return grouped.applyInArrow(solve, FOLDED_SCHEMA)
    vocabulary, weights, strength = prior.features.vocabulary, prior.weights, prior.strength

    def solve_beside(table: pa.Table, attributes: pa.Table) -> pa.Table:
        known = _Known(attributes, vocabulary, weights, strength)
        with single_threaded_blas():
            return _solve_group(table, known, item_side, gram, parameters, n_items)

    users = pairs.select(F.col("user_id").alias("id")).distinct()
    of_users = prior.features.among(users).texts.withColumnRenamed("id", "user_id")
    beside = of_users.select("user_id", "texts", block).groupBy("block")
    folded = grouped.cogroup(beside).applyInArrow(solve_beside, FOLDED_SCHEMA)
    return with_silent_rows(folded, users, prior, parameters.rank)


class _Known(NamedTuple):
    """Users of whom attributes are known."""

    table: pa.Table
    """(user_id, texts)."""
    vocabulary: Vocabulary
    weights: NDArray[np.float32]
    """(n_columns, width) A."""
    strength: NDArray[np.float64]
    """(width,) ρ."""

    def prior_of(self, ids: pa.Array) -> NDArray[np.float64]:
        """Return the prior row of each id, zeros where nothing is known."""
        known = self.table["user_id"].combine_chunks()
        place = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy()
        rows = np.zeros((len(ids), self.weights.shape[1]))
        texts = self.table["texts"].take(pa.array(place[place >= 0])).to_pylist()
        rows[place >= 0] = prior_of_texts(texts, self.vocabulary, self.weights)
        return rows


def _system(
    items: ItemSide, gram: NDArray[np.float64], parameters: AlsParameters, n_items: int
) -> tuple[UserSystem, Fixed]:
    biases = items.biases.load() if parameters.has_biases else None
    system = user_system(parameters, items.mean, gram, n_items)
    return system, turned_items(system, items.factors.load(), biases)


def _solve_group(
    table: pa.Table,
    beside: _Known | None,
    items: ItemSide,
    gram: NDArray[np.float64],
    parameters: AlsParameters,
    n_items: int,
) -> pa.Table:
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    ids, row = encoded.dictionary, encoded.indices.to_numpy()
    prior = None if beside is None else (beside.prior_of(ids), beside.strength)
    known = table["position"].is_valid().to_numpy()
    position = table["position"].fill_null(-1).to_numpy()[known].astype(np.int32)
    value = table["value"].to_numpy()[known].astype(np.float32)
    row = row[known]
    order = np.lexsort((position, row))
    row_ptr = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(ids)), out=row_ptr[1:])
    constant = bool(np.all(value == 1))
    # This turns all items, which takes longer than to solve the rows of a small group.
    system, turned = items.once("fold-in", lambda: _system(items, gram, parameters, n_items))
    folded = fold_in_rows(row_ptr, position[order], None if constant else value[order], system, turned, prior)
    factors = folded.factors
    flat = pa.array(factors.reshape(-1), pa.float32())
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * parameters.rank)
    biases = np.zeros(len(ids), np.float32) if folded.biases is None else folded.biases
    return pa.table(
        {
            "user_id": ids,
            "factor": pa.ListArray.from_arrays(offsets, flat),
            "bias": pa.array(biases, pa.float32()),
            "norm": pa.array(np.sqrt(np.sum(factors.astype(np.float64) ** 2, axis=1)).astype(np.float32)),
            "n_observed": pa.array(np.diff(row_ptr), pa.int64()),
        },
        schema=_ARROW_FOLDED,
    )
