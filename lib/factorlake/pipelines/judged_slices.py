"""Labels of users and held-out items that figures are told apart by: segment, activity, category."""

from __future__ import annotations

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from factorlake.evaluation.slices import deciles_of_counts
from factorlake.pipelines.context import Context
from factorlake.pipelines.judging import Part

MOST_SLICES = 50
"""Of more segments or categories those with the most held-out pairs are told."""
SEGMENT, ACTIVITY, CATEGORY = "segment", "activity", "category"


def user_labels(context: Context, part: Part) -> tuple[DataFrame, list[str]]:
    """Return (user_id, and a text column a kind of slice) of a part's users, and those columns.

    Activity: the decile of a user's number of known pairs, users with equal numbers together (1: the fewest). Segments
    come from user_attributes.
    """
    users = part.users().join(part.known.groupBy("user_id").agg(F.count(F.lit(1)).alias("n_known")), on="user_id")
    counts = sorted(
        (row["n_known"], row["n"]) for row in users.groupBy("n_known").agg(F.count("*").alias("n")).collect()
    )
    labelled = users.select("user_id", _activity(counts).alias(ACTIVITY))
    segments = _labels(context, "user", SEGMENT, part.truth)
    if segments is None:
        return labelled, [ACTIVITY]
    return labelled.join(segments, on="user_id", how="left"), [ACTIVITY, SEGMENT]


def item_labels(context: Context, part: Part) -> DataFrame | None:
    """Return (item_id, category) of items with one; None where no held-out item has any."""
    return _labels(context, "item", CATEGORY, part.truth)


def _activity(counts: list[tuple[int, int]]) -> Column:
    """Return the decile of a user's n_known, from (n_known, users with it), ascending."""
    deciles = deciles_of_counts(np.array([n for _, n in counts]))
    # The greatest n_known of each decile but the last.
    ends = [known for (known, _), own, after in zip(counts, deciles, deciles[1:], strict=False) if own != after]
    starts = [int(own) for own, after in zip(deciles, [*deciles[1:], 0], strict=True) if own != after]
    decile = F.lit(starts[-1])
    for end, label in reversed(list(zip(ends, starts, strict=False))):
        decile = F.when(F.col("n_known") <= end, F.lit(label)).otherwise(decile)
    return F.concat(F.lit(f"{ACTIVITY}="), decile.cast("string"))


def _labels(context: Context, side: str, column: str, truth: DataFrame) -> DataFrame | None:
    """Return (user_id or item_id, column=value) of the most frequent values among held-out pairs."""
    attributes, _ = context.read_known(f"{side}_attributes")
    told = attributes.where(F.col(column).isNotNull()).select(F.col("id").alias(f"{side}_id"), column)
    frequent = truth.join(told, on=f"{side}_id").groupBy(column).count().orderBy(F.desc("count"), column)
    values = [row[column] for row in frequent.limit(MOST_SLICES).collect()]
    if not values:
        return None
    label = F.concat(F.lit(f"{column}="), F.col(column))
    return told.where(F.col(column).isin(values)).select(f"{side}_id", label.alias(column))
