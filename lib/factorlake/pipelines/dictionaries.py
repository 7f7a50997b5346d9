"""Give each new user and item id an index: reads interactions, appends to users and items."""

from __future__ import annotations

from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.ids import rank_new_ids
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS


def extend(context: Context) -> dict[str, int]:
    """Append the ids of interactions that the dictionaries do not hold and return how many came to each.

    A new id's index is the first index never given plus its rank by bytes among the new ones, so a batch gets the
    same indexes however it is partitioned. Rows are never removed, so the greatest index tells the first free one.
    Running it again finds nothing new.
    """
    added = {}
    interactions = delta_io.read(context.spark, context.lake.shared("interactions"))
    for side in ("user", "item"):
        table = f"{side}s"
        path = context.lake.shared(table)
        known = delta_io.read_or_empty(context.spark, path, SCHEMAS[table])
        new = interactions.select(F.col(f"{side}_id").alias("id")).distinct().join(known, on="id", how="left_anti")
        first = known.agg(F.coalesce(F.max("index") + 1, F.lit(0))).collect()[0][0]
        ranked = rank_new_ids(new, first).withColumn("run_id", F.lit(context.run_id))
        added[f"new_{table}"] = ranked.count()
        if added[f"new_{table}"] or not delta_io.exists(context.spark, path):
            delta_io.append(context.spark, ranked, path, SCHEMAS[table], run_id=context.run_id)
    return added
