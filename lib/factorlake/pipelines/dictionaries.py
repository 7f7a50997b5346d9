"""Give each new user and item id of a batch an index: reads interactions, appends to users and items."""

from __future__ import annotations

from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.ids import rank_new_ids
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from factorlake.types import SIDES


def extend(context: Context, batch: str) -> dict[str, int]:
    """Append the ids of a batch's interactions that the dictionaries do not hold; return how many came to each.

    A new id's index is the first index never given plus its rank by bytes among the batch's new ones, so a batch gets
    the same indexes however it is partitioned. Rows are never removed, so the greatest index tells the first free
    one. Running it again finds nothing new.
    """
    interactions = delta_io.read(context.spark, context.lake.shared("interactions")).filter(F.col("batch") == batch)
    paths = {side: context.lake.shared(f"{side}s") for side in SIDES}
    known = {
        side: delta_io.read_or_empty(context.spark, paths[side], SCHEMAS[f"{side}s"]).select("id", "index")
        for side in SIDES
    }
    ids = {side: interactions.select(F.col(f"{side}_id").alias("id")).distinct() for side in SIDES}
    users, items = (
        ids[side]
        .join(known[side], on="id", how="full_outer")
        .agg(F.count_if(F.col("index").isNull()).alias("new"), F.coalesce(F.max("index"), F.lit(-1)).alias("last"))
        .withColumn("side", F.lit(side))
        for side in SIDES
    )
    found = {row["side"]: row for row in users.unionByName(items).collect()}
    for side in SIDES:
        n_new, last = found[side]["new"], found[side]["last"]
        if n_new or not delta_io.exists(context.spark, paths[side]):
            new = ids[side].join(known[side], on="id", how="left_anti")
            ranked = rank_new_ids(new, last + 1, n_new).withColumn("run_id", F.lit(context.run_id))
            context.lease()
            delta_io.append(context.spark, ranked, paths[side], SCHEMAS[f"{side}s"], run_id=context.run_id)
    return {f"new_{side}s": found[side]["new"] for side in SIDES}
