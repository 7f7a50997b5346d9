"""What becomes of each record of a batch: accepted, quarantined, a duplicate, or superseded."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

ACCEPTED, QUARANTINED, DUPLICATE, SUPERSEDED = "accepted", "quarantined", "duplicate", "superseded"
KEPT, REPLACED = "kept", "replaced"

EVENT = ("user_id", "item_id", "event_type", "value", "event_time", "event_id")
ORIGIN = ("arrival", "rules_hash", "run_id")


def with_verdicts(
    judged: DataFrame,
    known: DataFrame,
    earlier: DataFrame,
    event_key: list[str],
    first: Sequence[str] = ("file", "position"),
) -> DataFrame:
    """Return the records of one batch, or of some together, with their ``verdict``.

    Parameters
    ----------
    judged : the batch's rows of raw_events with the mapped columns and ``reasons``.
    known : ``event_id`` of every event of other batches that is accepted or in quarantine.
    earlier : accepted events of other batches. Read only with an ``event_key``; then its rows come out too,
        `KEPT` or `REPLACED`.
    event_key : mapped columns whose equal values (null equals null) mean one event; may be empty.
    first : columns of ``judged`` that order exact copies.

    Of exact copies the first one stays. Of accepted events with an equal key the
    one with the latest event_time (null is earliest), then the greatest event_id stays. Neither order depends
    on arrival. The raw text is kept only where quarantine needs it.
    """
    copies = Window.partitionBy("event_id").orderBy(*first)
    verdict = (
        F.when(F.col("known") | (F.col("copy") > 1), DUPLICATE)
        .when(F.size("reasons") > 0, QUARANTINED)
        .otherwise(ACCEPTED)
    )
    rows = (
        judged.select(
            *EVENT,
            "batch",
            *dict.fromkeys(("file", "position", *first)),
            "reasons",
            F.when(F.size("reasons") > 0, F.col("raw")).alias("raw"),
        )
        .withColumn("copy", F.row_number().over(copies))
        .join(known.select("event_id").distinct().withColumn("known", F.lit(True)), on="event_id", how="left")
        .withColumn("known", F.coalesce("known", F.lit(False)))
        .withColumn("verdict", verdict)
        .drop("copy", "known")
    )
    return _with_survivors(rows, earlier, event_key) if event_key else rows


def _with_survivors(rows: DataFrame, earlier: DataFrame, event_key: list[str]) -> DataFrame:
    old = earlier.select(*EVENT, "batch", *ORIGIN, F.lit(KEPT).alias("verdict"))
    contenders = rows.filter(F.col("verdict") == ACCEPTED).unionByName(old, allowMissingColumns=True)
    best_first = Window.partitionBy(*event_key).orderBy(F.col("event_time").desc_nulls_last(), F.col("event_id").desc())
    beaten = F.row_number().over(best_first) > 1
    judged = contenders.withColumn("beaten", beaten).withColumn(
        "verdict",
        F.when(F.col("beaten") & (F.col("verdict") == KEPT), REPLACED)
        .when(F.col("beaten"), SUPERSEDED)
        .otherwise(F.col("verdict")),
    )
    others = rows.filter(F.col("verdict") != ACCEPTED)
    return judged.drop("beaten").unionByName(others, allowMissingColumns=True)
