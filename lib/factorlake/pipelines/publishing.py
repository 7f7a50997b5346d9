"""Publishing by content: what did not change keeps its row, each table changes in one commit."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.compat import keep, release
from factorlake.tables import delta_io
from factorlake.tables.schemas import TableSchema

STAMPS = ("model_version", "as_of")


@dataclass(frozen=True)
class Published:
    """What publishing one table did. ``changed`` counts new and changed keys, ``removed`` keys that are gone."""

    version: int
    changed: int
    unchanged: int
    removed: int


def publish_table(context: Context, new: DataFrame, path: str, schema: TableSchema, key: str) -> Published:
    """Make ``new`` the contents of the table at ``path`` in one commit.

    A key (a user, an item) whose rows are equal in all but model_version and as_of keeps the old rows. When no key
    changed and none is gone, nothing is written and the version stays.
    """
    spark = context.spark
    old = delta_io.read_or_empty(spark, path, schema)
    content = [field.name for field in schema.fields if field.name not in (*STAMPS, key)]

    def digests(frame: DataFrame, name: str) -> DataFrame:
        rows = F.sort_array(F.collect_list(F.struct(*content)))
        return frame.groupBy(key).agg(F.xxhash64(rows.cast("string")).alias(name))

    compared = digests(new, "new_digest").join(digests(old, "old_digest"), on=key, how="full_outer")
    fate = (
        F.when(F.col("new_digest").isNull(), "removed")
        .when(F.col("new_digest") == F.col("old_digest"), "unchanged")
        .otherwise("changed")
    )
    # Asked three times: how many keys have each fate, which rows stay, which come.
    fates = keep(compared.select(key, fate.alias("fate")))
    try:
        counts = {row["fate"]: row["count"] for row in fates.groupBy("fate").count().collect()}
        changed, unchanged, removed = (counts.get(name, 0) for name in ("changed", "unchanged", "removed"))
        if changed or removed or not delta_io.exists(spark, path):
            names = [field.name for field in schema.fields]
            kept = old.join(fates.where("fate = 'unchanged'").select(key), on=key, how="left_semi").select(names)
            fresh = new.join(fates.where("fate = 'changed'").select(key), on=key, how="left_semi").select(names)
            commit = context.overwrite(kept.unionByName(fresh), path, schema)
            return Published(commit.version, changed, unchanged, removed)
    finally:
        release(fates)
    return Published(delta_io.version(spark, path), changed, unchanged, removed)
