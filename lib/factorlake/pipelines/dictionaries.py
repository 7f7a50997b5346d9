"""Which users and items of a batch are new, and an index for each of those: appends to users and items."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.compat import keep
from factorlake.spark.ids import rank_new_ids
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from factorlake.types import SIDES


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
    the same indexes however it is partitioned. Rows are never removed, so the greatest index tells the first free
    one. Running it again, from a new look-up, finds nothing new.
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
            ranked = rank_new_ids(new[side], 0 if last is None else last + 1, n_new)
            rows = ranked.withColumn("run_id", F.lit(context.run_id))
            context.append(rows, paths[side], SCHEMAS[f"{side}s"])
    return {f"new_{side}s": found[side, "new"] for side in SIDES}
