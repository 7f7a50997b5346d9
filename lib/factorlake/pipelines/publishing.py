"""Publishing by content: what did not change keeps its row, each table changes in one commit, and a row of
publications says which versions belong together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.compat import keep, release
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS, TableSchema

# What each published table is changed by, in the order in which they are changed.
KEYS = {"item_factors": "item_id", "user_factors": "user_id", "recommendations": "user_id"}
# Beside the published tables a publication names the version of the candidate's lists that it was made of.
LISTS = "lists"
STAMPS = ("model_version", "as_of")


@dataclass(frozen=True)
class Published:
    """What publishing one table did. ``changed`` counts new and changed keys, ``removed`` keys that are gone."""

    version: int
    changed: int
    unchanged: int
    removed: int

    def counts(self, table: str) -> dict[str, int]:
        """Return the counts as the result line has them."""
        return {f"{table}_{fate}": getattr(self, fate) for fate in ("changed", "unchanged", "removed")}


def publish_table(
    context: Context, new: DataFrame, path: str, schema: TableSchema, key: str, stamps: Collection[str] = STAMPS
) -> Published:
    """Make ``new`` the contents of the table at ``path`` in one commit.

    A key (a user, an item) whose rows are equal in all but the ``stamps`` keeps the old rows. When no key changed and
    none is gone, nothing is written and the version stays.
    """
    spark = context.spark
    old = delta_io.read_or_empty(spark, path, schema)
    content = [field.name for field in schema.fields if field.name not in (*stamps, key)]

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


def stands(context: Context, publication: Row) -> bool:
    """Whether the slot's tables are at the versions of a publication: a run that was killed while it published another
    has moved some of them on."""
    lake, slot, versions = context.lake, context.settings.publish.slot, dict(publication["versions"])
    return all(delta_io.version(context.spark, lake.published(name, slot)) == versions[name] for name in KEYS)


def record_publication(context: Context, publication: dict[str, Any]) -> None:
    """Append what makes the tables' new versions one set; written after all of them."""
    path = context.lake.own("publications")
    said = {
        "slot": context.settings.publish.slot,
        "lease": context.lease(),
        "published_at": registry.next_moment(context.spark, path, "published_at"),
        "run_id": context.run_id,
    }
    context.append_rows([publication | said], path, SCHEMAS["publications"])


def record_published(context: Context, row: Row | None) -> None:
    """Say in models that a model is published, where its row does not yet: also after a run that was killed between
    the two registers. One that has expired stays so: what is live does not need its candidate."""
    if row is not None and row["state"] not in ("published", registry.EXPIRED):
        context.record_model({**row.asDict(), "state": "published"})
