"""How far validation has come with each batch, as validation_results tells it.

A batch has up to three kinds of gate rows: `gate` (the decision; a batch that was refused and accepted later
has two), and `written` once its records are in interactions and quarantine. A batch that passed but is not
written was killed halfway. The decision, the batch's figures, its state and what the history says of it are one commit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.quality.anomalies import Finding
from factorlake.quality.metrics import COUNTS, BatchMetrics
from factorlake.quality.states import BatchState
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS

GATE, WRITTEN, SHARE, STATE = "gate", "written", "quarantined_share", "state"
REBUILD, BEGUN, DONE = "rebuild", "begun", "done"
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
    """Decisions by batch, the batches that are written, in that order, and the states that were read or measured."""

    decisions: dict[str, Decision] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    states: dict[str, BatchState] = field(default_factory=dict)
    rebuilding: bool = False
    """Whether interactions were being derived again by a run that was cut off."""

    @staticmethod
    def read(context: Context) -> BatchStates:
        frame = delta_io.read_or_empty(context.spark, context.lake.shared(TABLE), SCHEMAS[TABLE])
        wanted = F.col("kind").isin("gate", REBUILD) | ((F.col("kind") == "count") & F.col("rule").isin(*COUNTS))
        rows = frame.filter(wanted).select(
            "batch", "rule", "kind", "value", "success", "detail", F.unix_micros("recorded_at").alias("us")
        )
        found = BatchStates()
        # A decision and its counts are written together: at one time, the decision first.
        for row in sorted(rows.collect(), key=lambda row: (row["us"], row["rule"] != GATE)):
            if row["kind"] == REBUILD:
                found.rebuilding = row["rule"] == BEGUN
            elif row["kind"] == "gate" and row["rule"] == WRITTEN:
                if row["batch"] not in found.written:
                    found.written.append(row["batch"])
            elif row["kind"] == "gate":
                found.decisions[row["batch"]] = Decision(bool(row["success"]), json.loads(row["detail"] or "{}"))
            elif row["batch"] in found.decisions:
                found.decisions[row["batch"]].counts[row["rule"]] = int(row["value"])
        return found

    def history(self, context: Context, batch: str) -> list[BatchState]:
        """States of the other batches that went in, oldest first: the last `history_window`, none where they are fewer
        than the gate compares with. Of a batch that was validated before states were kept, its counts alone."""
        gate = context.settings.validation.gate
        others = [other for other in self.written if other != batch][-gate.history_window :]
        if not gate.history or len(others) < gate.history_runs:
            return []
        missing = [other for other in others if other not in self.states]
        if missing:
            frame = delta_io.read_or_empty(context.spark, context.lake.shared(TABLE), SCHEMAS[TABLE])
            kept = frame.filter((F.col("kind") == STATE) & F.col("batch").isin(missing))
            for row in kept.orderBy("recorded_at").select("batch", "detail").collect():
                self.states[row["batch"]] = BatchState.from_json(row["detail"])
            for other in missing:
                self.states.setdefault(other, BatchState(self.decisions[other].counts))
        return [self.states[other] for other in others]

    def refused(self) -> list[str]:
        """Batches that were refused and not accepted since, by name."""
        return sorted(batch for batch, decision in self.decisions.items() if not decision.passed)

    def unfinished(self, batch: str) -> Decision | None:
        """The decision on a batch that passed but whose records are not known to be written."""
        decision = self.decisions.get(batch)
        return decision if decision is not None and decision.passed and batch not in self.written else None


def record_decision(
    context: Context, batch: str, metrics: BatchMetrics, decision: Decision, findings: Sequence[Finding]
) -> None:
    """Append a batch's figures, its state, what the history says of it and the decision on it, in one commit."""
    rows = [_gate_row(decision)]
    rows += _figure_rows(metrics.counts, metrics.state)
    rows += [
        {"rule": f"null_share_{name}", "kind": "share", "value": share} for name, share in metrics.null_shares.items()
    ]
    rows.append(_state_row(metrics.state))
    rows += [
        {
            "rule": found.name,
            "kind": "history",
            "value": found.value,
            "success": found.passed,
            "detail": json.dumps(
                {
                    "action": found.action,
                    "limit": found.limit,
                    "median": found.median,
                    "n_history": found.n_history,
                    "sentence": found.sentence(),
                },
                sort_keys=True,
            ),
        }
        for found in findings
    ]
    record(context, batch, rows)


def record_rebuilt(context: Context, decisions: dict[str, Decision], states: dict[str, BatchState]) -> None:
    """Append what every batch is now that all were judged anew, and that it is done, in one commit.

    Of the states the counts are kept alone: what else was known of a batch was known under other rules.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for batch, state in states.items():
        decision = decisions[batch]
        rows[batch] = [_gate_row(decision), *_figure_rows(decision.counts, state), _state_row(state)]
    rows[REBUILD] = [{"rule": DONE, "kind": REBUILD}]
    _append(context, rows)


def record_recount(context: Context, counts: dict[str, dict[str, int]], states: dict[str, BatchState]) -> None:
    """Append the figures of batches from whose quarantine records have moved, in one commit."""
    _append(context, {batch: _figure_rows(counts[batch], state) for batch, state in states.items()})


def record(context: Context, batch: str, rows: list[dict[str, Any]]) -> None:
    """Append rows of one batch to validation_results."""
    _append(context, {batch: rows})


def _append(context: Context, rows: dict[str, list[dict[str, Any]]]) -> None:
    path = context.lake.shared(TABLE)
    said = {"recorded_at": registry.next_moment(context.spark, path), "run_id": context.run_id}
    complete = [{**row, "batch": batch, **said} for batch, some in rows.items() for row in some]
    context.append_rows(complete, path, SCHEMAS[TABLE])


def _gate_row(decision: Decision) -> dict[str, Any]:
    detail = json.dumps(decision.detail, sort_keys=True)
    return {
        "rule": GATE,
        "kind": "gate",
        "value": float(decision.passed),
        "success": decision.passed,
        "detail": detail,
    }


def _figure_rows(counts: Mapping[str, int], state: BatchState) -> list[dict[str, Any]]:
    told = [*counts.items(), *state.reasons.items()]
    rows: list[dict[str, Any]] = [{"rule": name, "kind": "count", "value": float(count)} for name, count in told]
    return [*rows, {"rule": SHARE, "kind": "share", "value": state.quarantined_share}]


def _state_row(state: BatchState) -> dict[str, Any]:
    return {"rule": STATE, "kind": STATE, "detail": state.to_json()}
