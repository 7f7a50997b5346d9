"""Which users and items of a batch are new, and an index for each of those: appends to users and items."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.compat import keep
from factorlake.spark.ids import rank_new_ids
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from factorlake.types import SIDES

FIRST_FREE = "factorlake.firstFreeIndex"
"""Property of a dictionary from which rows were deleted: the first index that was never given."""


def first_free_index(spark: SparkSession, path: str) -> int:
    """Return the first index that the dictionary at ``path`` never gave; 0 where there is none yet."""
    last = None
    if delta_io.exists(spark, path):
        last = delta_io.read(spark, path).agg(F.max("index")).collect()[0][0]
    return _first_free(last, delta_io.properties(spark, path))


def _first_free(last: int | None, properties: dict[str, str]) -> int:
    return max(0 if last is None else last + 1, int(properties.get(FIRST_FREE, "0")))


def look_up(context: Context, events: DataFrame) -> dict[str, DataFrame]:
    """Return for each side the different ids of a batch's accepted ``events``: `id`, its `events`, and whether the
    dictionary holds it (`known`). The frames are kept (`spark.compat.keep`): release them."""
    found: dict[str, DataFrame] = {}
    for side in SIDES:
        dictionary = delta_io.read_or_empty(context.spark, context.lake.shared(f"{side}s"), SCHEMAS[f"{side}s"])
        known = dictionary.select("id", F.lit(True).alias("known"))
        counted = events.groupBy(F.col(f"{side}_id").alias("id")).agg(F.count("*").alias("events"))
        joined = counted.join(known, on="id", how="left")
        found[side] = keep(joined.withColumn("known", F.coalesce("known", F.lit(False))))
    return found


def extend(context: Context, ids: dict[str, DataFrame]) -> dict[str, int]:
    """Append the ids that the dictionaries do not hold, of those that `look_up` returned; return how many came to each.

    A new id's index is the first index never given plus its rank by bytes among the batch's new ones, so a batch gets
    the same indexes however it is partitioned. The greatest index tells the first free one, and where `forget` has
    deleted rows the table's property. Running it again, from a new look-up, finds nothing new.
    """
    paths = {side: context.lake.shared(f"{side}s") for side in SIDES}
    dictionaries = {side: delta_io.read_or_empty(context.spark, paths[side], SCHEMAS[f"{side}s"]) for side in SIDES}
    new = {side: ids[side].filter(~F.col("known")).select("id") for side in SIDES}
    # One query for all four figures: on a small batch every query costs more than its rows.
    figures = [
        frame.withColumns({"side": F.lit(side), "figure": F.lit(figure)})
        for side in SIDES
        for figure, frame in (
            ("new", new[side].agg(F.count("*").alias("value"))),
            ("last", dictionaries[side].agg(F.max("index").alias("value"))),
        )
    ]
    found = {(row["side"], row["figure"]): row["value"] for row in reduce(DataFrame.unionByName, figures).collect()}
    for side in SIDES:
        n_new, last = found[side, "new"], found[side, "last"]
        if n_new or not delta_io.exists(context.spark, paths[side]):
            first = _first_free(last, delta_io.properties(context.spark, paths[side]))
            ranked = rank_new_ids(new[side], first, n_new)
            rows = ranked.withColumn("run_id", F.lit(context.run_id))
            context.append(rows, paths[side], SCHEMAS[f"{side}s"])
    return {f"new_{side}s": found[side, "new"] for side in SIDES}
