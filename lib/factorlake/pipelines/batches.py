"""How far validation has come with each batch, as validation_results tells it.

A batch has up to three kinds of gate rows: `gate` (the decision; a batch that was refused and accepted later
has two), and `written` once its records are in interactions and quarantine. A batch that passed but is not
written was killed halfway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.quality.metrics import COUNTS, BatchMetrics
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

GATE, WRITTEN, SHARE = "gate", "written", "quarantined_share"
TABLE = "validation_results"


@dataclass
class Decision:
    """The latest decision on one batch, and what was counted for it."""

    passed: bool
    detail: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def rules(self) -> str:
        return str(self.detail.get("rules_hash"))


@dataclass
class BatchStates:
    """Decisions by batch, the batches that are written, and the quarantined share of each of those."""

    decisions: dict[str, Decision]
    written: set[str]
    shares: dict[str, float]

    @staticmethod
    def read(context: Context) -> BatchStates:
        frame = delta_io.read_or_empty(context.spark, context.lake.shared(TABLE), SCHEMAS[TABLE])
        wanted = (F.col("kind") == "gate") | F.col("rule").isin(*COUNTS, SHARE)
        rows = frame.filter(wanted).select(
            "batch", "rule", "kind", "value", "success", "detail", F.unix_micros("recorded_at").alias("us")
        )
        states = BatchStates({}, set(), {})
        # A decision and its counts are written together: at one time, the decision first.
        for row in sorted(rows.collect(), key=lambda row: (row["us"], row["rule"] != GATE)):
            if row["kind"] == "gate" and row["rule"] == WRITTEN:
                states.written.add(row["batch"])
            elif row["kind"] == "gate":
                states.decisions[row["batch"]] = Decision(bool(row["success"]), json.loads(row["detail"] or "{}"))
            elif row["rule"] == SHARE:
                states.shares[row["batch"]] = row["value"]
            elif row["batch"] in states.decisions:
                states.decisions[row["batch"]].counts[row["rule"]] = int(row["value"])
        return states

    def history(self, batch: str) -> list[float]:
        """Quarantined shares of the other batches that went in."""
        return [share for other, share in self.shares.items() if other in self.written and other != batch]

    def refused(self) -> list[str]:
        """Batches that were refused and not accepted since, by name."""
        return sorted(batch for batch, decision in self.decisions.items() if not decision.passed)

    def unfinished(self, batch: str) -> Decision | None:
        """The decision on a batch that passed but whose records are not known to be written."""
        decision = self.decisions.get(batch)
        return decision if decision is not None and decision.passed and batch not in self.written else None


def record_decision(context: Context, batch: str, metrics: BatchMetrics, decision: Decision) -> None:
    """Append a batch's figures and the decision on it, in one commit."""
    rows: list[dict[str, Any]] = [
        {"rule": GATE, "kind": "gate", "value": float(decision.passed), "success": decision.passed}
    ]
    rows[0]["detail"] = json.dumps(decision.detail, sort_keys=True)
    rows += [{"rule": name, "kind": "count", "value": float(count)} for name, count in metrics.counts.items()]
    rows += [{"rule": name, "kind": "count", "value": float(count)} for name, count in metrics.reasons.items()]
    rows.append({"rule": SHARE, "kind": "share", "value": metrics.quarantined_share})
    rows += [
        {"rule": f"null_share_{name}", "kind": "share", "value": share} for name, share in metrics.null_shares.items()
    ]
    record(context, batch, rows)


def record(context: Context, batch: str, rows: list[dict[str, Any]]) -> int:
    """Append rows of one batch to validation_results; return the table's version."""
    now = datetime.now(UTC)
    complete = [{**row, "batch": batch, "recorded_at": now, "run_id": context.run_id} for row in rows]
    path = context.lake.shared(TABLE)
    return context.append_rows(complete, path, SCHEMAS[TABLE]).version
