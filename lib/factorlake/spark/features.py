"""Features of users and items from frames of attributes, and the rows of ids that only their features tell of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.models.features import Vocabulary
from factorlake.models.prior import prior_of_texts
from factorlake.texts import NUMBER, WHITE_SPACE

OWN_COLUMNS = ("category", "segment")
"""Attributes that have a column of their own; others are keys of ``features``."""
FACTOR_ROWS = "id string, factor array<float>, bias float, norm float, n_observed bigint"


@dataclass(frozen=True)
class SideFeatures:
    """One side's features: the columns, and the attributes of all ids that have any."""

    vocabulary: Vocabulary
    texts: DataFrame
    """(id, texts array<string>) of the vocabulary's attributes."""

    def among(self, ids: DataFrame) -> SideFeatures:
        """Return the features of the ids that a frame (id) names, before a row is made of the others."""
        return replace(self, texts=self.texts.join(ids, on="id", how="left_semi"))

    def without(self, ids: DataFrame) -> SideFeatures:
        """Return the features of the ids that a frame (id) does not name."""
        return replace(self, texts=self.texts.join(ids, on="id", how="left_anti"))

    def rows(self) -> DataFrame:
        """Return (id, factor array<float>): the row of each id, 1 or 0 in each column."""
        vocabulary = self.vocabulary

        def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                rows = vocabulary.rows(batch["texts"].to_pylist())
                yield pa.RecordBatch.from_arrays([batch["id"], _lists(rows)], names=["id", "factor"])

        return self.texts.mapInArrow(encode, "id string, factor array<float>")


@dataclass(frozen=True)
class FeaturePrior:
    """Where ids lie before anything is known of them but their features."""

    features: SideFeatures
    weights: NDArray[np.float32]
    """(n_columns, width) A."""
    strength: NDArray[np.float64] | None
    """(width,) ρ of users; None of items, which are not solved again."""
    answers_silent: bool
    """Whether ids without a pair get a row too."""


def attribute_texts(attributes: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return (id, texts array<string>): the named attributes of each id, null where it has none."""
    return attributes.select("id", F.array(*(_text(name) for name in names)).alias("texts"))


def texts_print(texts: DataFrame) -> str:
    """Return the number of ids and a hash of (id, texts), whatever their order."""
    # A hash of the texts themselves would pass over nulls, and not see a text that went from one attribute to another.
    row_hash = F.xxhash64("id", F.to_json("texts")).cast("decimal(38,0)")
    n_ids, content = texts.agg(F.count(F.lit(1)), F.coalesce(F.sum(row_hash), F.lit(0))).collect()[0]
    return f"{n_ids}:{content}"


def learn_vocabulary(
    texts: DataFrame,
    names: Sequence[str],
    separator: str,
    max_values: int,
    bins: int,
    categories: Collection[str] = (),
) -> Vocabulary:
    """Return the columns of attributes.

    An attribute whose texts are all numbers, and more than twice ``bins`` different ones, is cut into ranges that hold
    as many ids each, as far as its numbers differ, unless ``categories`` names it. Of any other the ``max_values`` most
    frequent values are kept, of equally frequent ones the first by text. One pass each; the order of rows has no say.

    Raises
    ------
    DataRefusedError : no id has a value of an attribute.
    """
    told = texts.select(F.posexplode("texts").alias("place", "text")).withColumn("text", _bare("text"))
    told = told.where(F.col("text") != "")
    number = F.when(F.col("text").rlike(rf"\A{NUMBER}\z"), F.col("text").try_cast("double"))
    number = F.when(F.abs(number) < F.lit(float("inf")), number)
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
        if row["n_numbers"] == row["n"] and row["n_distinct"] > 2 * bins and names[place] not in categories
    }
    parted = told.where(~F.col("place").isin(list(numbers))) if numbers else told
    if separator:
        # Between \\Q and \\E nothing is a pattern.
        quoted = "\\Q" + separator.replace("\\E", "\\E\\\\E\\Q") + "\\E"
        parted = parted.select("place", F.explode(F.split("text", quoted)).alias("text"))
    values = parted.select("place", _bare("text").alias("value")).where(F.col("value") != "")
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


def with_silent_rows(rows: DataFrame, known: DataFrame, prior: FeaturePrior, rank: int) -> DataFrame:
    """Return rows (an id, then the columns of FACTOR_ROWS) with those of ids beside them that only their features tell
    of, where ``prior`` answers for them; ``known`` names the ids (id) that are no such ones."""
    if not prior.answers_silent:
        return rows
    vocabulary, weights = prior.features.vocabulary, prior.weights

    def place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            own = prior_of_texts(batch["texts"].to_pylist(), vocabulary, weights).astype(np.float32)
            factors = np.ascontiguousarray(own[:, :rank])
            bias = own[:, rank] if own.shape[1] > rank else np.zeros(len(own), np.float32)
            norm = np.sqrt(np.sum(factors.astype(np.float64) ** 2, axis=1)).astype(np.float32)
            yield pa.RecordBatch.from_arrays(
                [batch["id"], _lists(factors), pa.array(bias), pa.array(norm), pa.array(np.zeros(len(own), np.int64))],
                names=["id", "factor", "bias", "norm", "n_observed"],
            )

    # By place: what the id is called in ``rows`` it is called in what comes out.
    return rows.union(prior.features.without(known).texts.mapInArrow(place, FACTOR_ROWS))


def _bare(column: str) -> Column:
    return F.btrim(F.col(column), F.lit(WHITE_SPACE))


def _text(name: str) -> Column:
    text = F.col(name) if name in OWN_COLUMNS else F.try_element_at("features", F.lit(name))
    return text.cast("string")


def _lists(rows: NDArray[np.float32]) -> pa.ListArray:
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float32()))
