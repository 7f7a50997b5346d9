"""Give each new user and item id of a batch an index: reads interactions, appends to users and items."""

from __future__ import annotations

from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.ids import rank_new_ids
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS


def extend(context: Context, batch: str) -> dict[str, int]:
    """Append the ids of a batch's interactions that the dictionaries do not hold; return how many came to each.

    A new id's index is the first index never given plus its rank by bytes among the batch's new ones, so a batch gets
    the same indexes however it is partitioned. Rows are never removed, so the greatest index tells the first free
    one. Running it again finds nothing new.
    """
    added = {}
    interactions = delta_io.read(context.spark, context.lake.shared("interactions")).filter(F.col("batch") == batch)
    for side in ("user", "item"):
        table = f"{side}s"
        path = context.lake.shared(table)
        known = delta_io.read_or_empty(context.spark, path, SCHEMAS[table]).select("id", "index")
        ids = interactions.select(F.col(f"{side}_id").alias("id")).distinct()
        counts = ids.join(known, on="id", how="full_outer").agg(
            F.count_if(F.col("index").isNull()).alias("new"), F.coalesce(F.max("index"), F.lit(-1)).alias("last")
        )
        found = counts.collect()[0]
        added[f"new_{table}"] = found["new"]
        if found["new"] or not delta_io.exists(context.spark, path):
            new = ids.join(known, on="id", how="left_anti")
            ranked = rank_new_ids(new, found["last"] + 1, found["new"]).withColumn("run_id", F.lit(context.run_id))
            delta_io.append(context.spark, ranked, path, SCHEMAS[table], run_id=context.run_id)
    return added
