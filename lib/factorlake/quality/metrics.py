"""The figures of one batch, from one pass over its records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import FactorlakeError
from factorlake.quality.verdicts import ACCEPTED, DUPLICATE, QUARANTINED, REPLACED, SUPERSEDED
from factorlake.times import from_micros

MAPPED = ("user_id", "item_id", "event_type", "value", "event_time")
COUNTS = ("rows", "accepted", "quarantined", "duplicates", "superseded", "replaced", "users", "items")


@dataclass(frozen=True)
class BatchMetrics:
    """Counts and shares of one batch.

    ``counts`` has `COUNTS` (replaced: accepted events of earlier batches that this one supersedes; users,
    items: approximate, of accepted events). ``reasons``: records in quarantine by reason; a record counts for
    each of its reasons. ``null_shares``: of all but duplicates, by mapped column.
    """

    counts: dict[str, int]
    reasons: dict[str, int]
    null_shares: dict[str, float]
    first_event: datetime | None
    last_event: datetime | None

    @property
    def quarantined_share(self) -> float:
        """Share of refused records among all but duplicates; 0 when there are only duplicates."""
        judged = self.counts["rows"] - self.counts["duplicates"]
        return self.counts["quarantined"] / judged if judged else 0.0

    def top_reasons(self, n: int = 3) -> list[tuple[str, int]]:
        """The most frequent reasons, most frequent first, ties by name."""
        found = [(reason, count) for reason, count in self.reasons.items() if count]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:n]


def measure(records: DataFrame, reasons: list[str]) -> BatchMetrics:
    """Return the figures of a frame with verdicts, in one aggregation. A frame without rows gives zeros."""
    verdict = F.col("verdict")
    of_batch = verdict.isin(ACCEPTED, QUARANTINED, DUPLICATE, SUPERSEDED)
    judged = verdict.isin(ACCEPTED, QUARANTINED, SUPERSEDED)
    accepted = verdict == ACCEPTED
    refused = verdict == QUARANTINED
    row = records.agg(
        F.count_if(of_batch).alias("rows"),
        F.count_if(accepted).alias("accepted"),
        F.count_if(refused).alias("quarantined"),
        F.count_if(verdict == DUPLICATE).alias("duplicates"),
        F.count_if(verdict == SUPERSEDED).alias("superseded"),
        F.count_if(verdict == REPLACED).alias("replaced"),
        F.approx_count_distinct(F.when(accepted, F.col("user_id"))).alias("users"),
        F.approx_count_distinct(F.when(accepted, F.col("item_id"))).alias("items"),
        # As whole microseconds, since Python's datetime cannot hold every time that Spark can.
        F.unix_micros(F.min(F.when(accepted, F.col("event_time")))).alias("first_event"),
        F.unix_micros(F.max(F.when(accepted, F.col("event_time")))).alias("last_event"),
        *(F.count_if(judged & F.col(name).isNull()).alias(f"null_{name}") for name in MAPPED),
        *(F.count_if(refused & F.array_contains("reasons", name)).alias(f"reason_{name}") for name in reasons),
    ).first()
    if row is None:
        raise FactorlakeError("an aggregation without groups gave no row")
    n_judged = row["rows"] - row["duplicates"]
    return BatchMetrics(
        counts={name: row[name] for name in COUNTS},
        reasons={name: row[f"reason_{name}"] for name in reasons},
        null_shares={name: row[f"null_{name}"] / n_judged if n_judged else 0.0 for name in MAPPED},
        first_event=None if row["first_event"] is None else from_micros(row["first_event"]),
        last_event=None if row["last_event"] is None else from_micros(row["last_event"]),
    )


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
