"""Features of users and items from frames of attributes, and the rows of ids that only their features tell of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.models.features import Vocabulary
from factorlake.models.prior import prior_rows
from factorlake.spark.arrow_lists import matrix

OWN_COLUMNS = ("category", "segment")
"""Attributes that have a column of their own; others are keys of ``features``."""
FACTOR_ROWS = "id string, factor array<float>, bias float, norm float, n_observed bigint"


@dataclass(frozen=True)
class SideFeatures:
    """One side's features: the columns, and the rows of all ids that have attributes."""

    vocabulary: Vocabulary
    rows: DataFrame
    """id, factor (array<float>): the row of each id, 1 or 0 in each column."""


@dataclass(frozen=True)
class FeaturePrior:
    """Where ids lie before anything is known of them but their features."""

    weights: NDArray[np.float32]
    """(n_columns, width) A."""
    strength: NDArray[np.float64] | None
    """(width,) ρ of users; None of items, which are not solved again."""
    rows: DataFrame
    """id, factor (array<float>) as ``SideFeatures.rows``."""
    answers_silent: bool
    """Whether ids without a pair get a row too."""


def attribute_texts(attributes: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return (id, texts array<string>): the named attributes of each id, null where it has none."""
    return attributes.select("id", F.array(*(_text(name) for name in names)).alias("texts"))


def learn_vocabulary(texts: DataFrame, names: Sequence[str], separator: str, max_values: int, bins: int) -> Vocabulary:
    """Return the columns of attributes.

    An attribute whose texts are all numbers, and more than twice ``bins`` different ones, is cut into ranges that hold
    as many ids each, as far as its numbers differ. Of any other the ``max_values`` most frequent values are kept, of
    equally frequent ones the first by text. One pass each; the order of rows has no say.

    Raises
    ------
    DataRefusedError : no id has a value of an attribute.
    """
    told = texts.select(F.posexplode("texts").alias("place", "text")).where(F.col("text").isNotNull())
    number = F.expr("try_cast(text as double)")
    number = F.when(~F.isnan(number) & (F.abs(number) < F.lit(float("inf"))), number)
    at = [float(cut) / bins for cut in range(1, bins)]
    sizes = (
        told.withColumn("number", number)
        .groupBy("place")
        .agg(
            F.count("text").alias("n"),
            F.count("number").alias("n_numbers"),
            F.countDistinct("number").alias("n_distinct"),
            F.percentile("number", F.array(*(F.lit(cut) for cut in at))).alias("edges"),
        )
    )
    found = {row["place"]: row for row in sizes.collect()}
    missing = [name for place, name in enumerate(names) if place not in found]
    if missing:
        raise DataRefusedError(
            f"no id has the attribute {missing[0]!r} that train.features names: attributes are category, segment and "
            "what `attributes` wrote into the column features"
        )
    numbers = {
        place: tuple(sorted(set(row["edges"])))
        for place, row in found.items()
        if row["n_numbers"] == row["n"] and row["n_distinct"] > 2 * bins
    }
    parted = told.where(~F.col("place").isin(list(numbers))) if numbers else told
    if separator:
        # Between \\Q and \\E nothing is a pattern.
        quoted = "\\Q" + separator.replace("\\E", "\\E\\\\E\\Q") + "\\E"
        parted = parted.select("place", F.explode(F.split("text", quoted)).alias("text"))
    values = parted.select("place", F.trim("text").alias("value")).where(F.col("value") != "")
    counted = values.groupBy("place", "value").count()
    rank = F.row_number().over(Window.partitionBy("place").orderBy(F.col("count").desc(), "value"))
    kept = counted.withColumn("rank", rank).where(F.col("rank") <= max_values).orderBy("place", "rank").collect()
    by_place: dict[int, list[str]] = {}
    for row in kept:
        by_place.setdefault(row["place"], []).append(row["value"])
    places = range(len(names))
    return Vocabulary(
        tuple(names),
        tuple(tuple(by_place.get(place, ())) for place in places),
        tuple(numbers.get(place, ()) for place in places),
        separator,
    )


def feature_rows(texts: DataFrame, vocabulary: Vocabulary) -> DataFrame:
    """Return (id, factor array<float>): the row of each id of (id, texts)."""

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = vocabulary.rows(batch["texts"].to_pylist())
            yield pa.RecordBatch.from_arrays([batch["id"], _lists(rows)], names=["id", "factor"])

    return texts.mapInArrow(encode, "id string, factor array<float>")


def with_silent_items(items: DataFrame, prior: FeaturePrior, rank: int) -> DataFrame:
    """Return item factors (columns of FACTOR_ROWS) with those of items that only their features tell of beside them."""
    if not prior.answers_silent:
        return items
    weights = prior.weights

    def place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = prior_rows(matrix(batch["factor"], len(weights)), weights).astype(np.float32)
            factors = np.ascontiguousarray(rows[:, :rank])
            bias = rows[:, rank] if rows.shape[1] > rank else np.zeros(len(rows), np.float32)
            norm = np.sqrt(np.sum(factors.astype(np.float64) ** 2, axis=1)).astype(np.float32)
            yield pa.RecordBatch.from_arrays(
                [batch["id"], _lists(factors), pa.array(bias), pa.array(norm), pa.array(np.zeros(len(rows), np.int64))],
                names=["id", "factor", "bias", "norm", "n_observed"],
            )

    silent = prior.rows.join(items.select("id"), on="id", how="left_anti")
    return items.unionByName(silent.mapInArrow(place, FACTOR_ROWS))


def _text(name: str) -> Column:
    text = F.col(name) if name in OWN_COLUMNS else F.try_element_at("features", F.lit(name))
    return text.cast("string")


def _lists(rows: NDArray[np.float32]) -> pa.ListArray:
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float32()))
