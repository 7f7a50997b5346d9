"""The state of one batch, from one pass over its records and one over its distinct ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import FactorlakeError
from factorlake.quality.states import (
    DAY,
    ID_BUCKETS,
    OFFSET,
    SMALLEST,
    STEPS,
    BatchState,
    IdCounts,
    Moments,
    merged,
)
from factorlake.quality.verdicts import ACCEPTED, DUPLICATE, QUARANTINED, REPLACED, SUPERSEDED

MAPPED = ("user_id", "item_id", "event_type", "value", "event_time")
VERDICTS = {
    "accepted": ACCEPTED,
    "quarantined": QUARANTINED,
    "duplicates": DUPLICATE,
    "superseded": SUPERSEDED,
    "replaced": REPLACED,
}
COUNTS = ("rows", *VERDICTS, "users", "items")
DAYS = "day"


@dataclass(frozen=True)
class BatchMetrics:
    """What a batch holds: its state, and how many different users and items its accepted events have, which is not
    the sum of its parts."""

    state: BatchState
    users: int
    items: int

    @property
    def counts(self) -> dict[str, int]:
        """`COUNTS` (replaced: accepted events of earlier batches that this one supersedes)."""
        return {**self.state.counts, "users": self.users, "items": self.items}

    @property
    def null_shares(self) -> dict[str, float]:
        """Share of the records, duplicates left out, that have no value in a mapped column."""
        judged = self.state.judged
        return {name: nulls / judged if judged else 0.0 for name, nulls in self.state.nulls.items()}

    def top_reasons(self, n: int = 3) -> list[tuple[str, int]]:
        """The most frequent reasons, most frequent first, ties by name."""
        found = [(reason, count) for reason, count in self.state.reasons.items() if count]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:n]


def measure(records: DataFrame, reasons: list[str], ids: dict[str, DataFrame]) -> BatchMetrics:
    """Return what a frame with verdicts holds. A frame without rows gives zeros.

    Parameters
    ----------
    records : the batch's records with `verdict` and `reasons`.
    reasons : every reason there can be.
    ids : for each side the different ids of accepted events: `id`, `events`, and whether it is `known`.
    """
    days, of_ids, distinct = _by_key(records, ids)
    state = replace(_by_value(records, reasons), days=days, ids=of_ids)
    return BatchMetrics(state, distinct["user"], distinct["item"])


def _by_value(records: DataFrame, reasons: list[str]) -> BatchState:
    """Return the state of the records but for days and ids. Each bucket of the sketch of values is a part of the batch
    with a state of its own; the batch is their sum."""
    verdict = F.col("verdict")
    judged = verdict.isin(ACCEPTED, QUARANTINED, SUPERSEDED)
    accepted = verdict == ACCEPTED
    value = F.when(accepted, F.col("value"))
    moment = F.when(accepted, F.col("event_time"))
    rows = (
        records.withColumn("bucket", bucket_column(value))
        .groupBy("bucket")
        .agg(
            *(F.count_if(verdict == kind).alias(name) for name, kind in VERDICTS.items()),
            *(F.count_if(judged & F.col(name).isNull()).alias(f"null_{name}") for name in MAPPED),
            *(
                F.count_if(F.array_contains("reasons", name) & (verdict == QUARANTINED)).alias(f"reason_{name}")
                for name in reasons
            ),
            F.avg(value).alias("mean"),
            (F.var_pop(value) * F.count(value)).alias("m2"),
            F.min(value).alias("min"),
            F.max(value).alias("max"),
            # As whole microseconds, since Python's datetime cannot hold every time that Spark can.
            F.unix_micros(F.min(moment)).alias("first_event"),
            F.unix_micros(F.max(moment)).alias("last_event"),
        )
        .collect()
    )
    return merged([_of_nothing(reasons), *(_of_bucket(row, reasons) for row in sorted(rows, key=_in_order))])


def _in_order(row: Row) -> tuple[bool, int]:
    return row["bucket"] is not None, row["bucket"] or 0


def _of_nothing(reasons: list[str]) -> BatchState:
    return BatchState(dict.fromkeys(("rows", *VERDICTS), 0), dict.fromkeys(reasons, 0), dict.fromkeys(MAPPED, 0))


def _of_bucket(row: Row, reasons: list[str]) -> BatchState:
    counts = {name: row[name] for name in VERDICTS}
    n = counts["accepted"] if row["bucket"] is not None else 0
    return BatchState(
        # What an earlier batch brought and this one supersedes is no row of this one.
        counts={"rows": sum(counts.values()) - counts["replaced"], **counts},
        reasons={name: row[f"reason_{name}"] for name in reasons},
        nulls={name: row[f"null_{name}"] for name in MAPPED},
        value=Moments(n, row["mean"], row["m2"], row["min"], row["max"]) if n else Moments(),
        values={row["bucket"]: n} if n else {},
        first_event=row["first_event"],
        last_event=row["last_event"],
    )


def bucket_column(value: Column) -> Column:
    """`states.bucket_of` as a column; null where there is no value."""
    size = F.abs(value)
    steps = F.floor(F.log2(size) * STEPS + 0.5).cast("int")
    return F.when(size < 2.0**SMALLEST, 0).otherwise(F.signum(value).cast("int") * (steps + OFFSET))


def day_column(moment: Column) -> Column:
    """Days since 1970, UTC, whatever the session's zone."""
    micros = F.unix_micros(moment)
    # A quotient of such numbers is not exact in a double, of whole days it is.
    return ((micros - F.pmod(micros, F.lit(DAY))) / F.lit(DAY)).cast("bigint")


def id_bucket(name: str) -> Column:
    """The bucket that an id is counted in."""
    return F.pmod(F.xxhash64(name), F.lit(ID_BUCKETS))


def _by_key(
    records: DataFrame, ids: dict[str, DataFrame]
) -> tuple[dict[int, int], dict[str, IdCounts], dict[str, int]]:
    """Count events by day, and by bucket of users and of items, in one query."""
    moments = records.filter((F.col("verdict") == ACCEPTED) & F.col("event_time").isNotNull())
    none = F.lit(0).cast("bigint")
    parts = [
        moments.groupBy(day_column(F.col("event_time")).alias("key")).agg(
            F.lit(DAYS).alias("part"), F.count("*").alias("events"), none.alias("new_events"), none.alias("ids")
        )
    ]
    for side, frame in ids.items():
        parts.append(
            frame.groupBy(id_bucket("id").alias("key")).agg(
                F.lit(side).alias("part"),
                F.sum("events").alias("events"),
                F.coalesce(F.sum(F.when(~F.col("known"), F.col("events"))), none).alias("new_events"),
                F.count("*").alias("ids"),
            )
        )
    days: dict[int, int] = {}
    of_ids, distinct = {side: IdCounts() for side in ids}, dict.fromkeys(ids, 0)
    for row in sorted(reduce(DataFrame.unionByName, parts).collect(), key=lambda row: row["key"]):
        if row["part"] == DAYS:
            days[row["key"]] = row["events"]
        else:
            of_ids[row["part"]] += IdCounts(row["new_events"], {row["key"]: row["events"]})
            distinct[row["part"]] += row["ids"]
    return days, of_ids, distinct


def check_accounting(batch: str, n_input: int, counts: dict[str, int]) -> None:
    """Raise FactorlakeError unless input = accepted + quarantined + duplicates + superseded."""
    parts = ("accepted", "quarantined", "duplicates", "superseded")
    total = sum(counts[name] for name in parts)
    if total != n_input:
        told = " + ".join(f"{counts[name]} {name}" for name in parts)
        raise FactorlakeError(
            f"row accounting of batch {batch} does not close: {n_input} rows came in, {told} = "
            f"{total} went out. "
            "Nothing was published from it; compare raw_events with ingest_ledger for this batch"
        )
