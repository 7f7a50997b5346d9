"""Validate: raw_events to interactions and quarantine, batch by batch.

Reads raw_events and ingest_ledger; writes interactions, quarantine, users, items and validation_results. Each
batch is judged by its own records, decided upon (the decision and its figures are written first), and then
written: its records, the indexes of its new ids, and last that it is written; a run killed in between is finished
by the next. A refused batch waits for `factorlake validate --accept BATCH`,
or for other rules or limits, and holds up no later batch.
"""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.background import import_beside
from factorlake.errors import NOTHING_TO_DO, ConfigError, DataRefusedError, FactorlakeError
from factorlake.pipelines import batches as progress
from factorlake.pipelines import dictionaries
from factorlake.pipelines.batches import BatchStates, Decision
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.ingest_ledger import Ledger
from factorlake.pipelines.rebuild import check_rule_change, is_rebuild_due, rebuild, rules_of
from factorlake.quality.expectations import Finding, read_suite, run_suite
from factorlake.quality.gate import judge_batch
from factorlake.quality.metrics import BatchMetrics, check_accounting, measure
from factorlake.quality.rules import check_rules, judge_rows, reason_names
from factorlake.quality.verdicts import ACCEPTED, KEPT, QUARANTINED, with_verdicts
from factorlake.spark.compat import keep, release
from factorlake.tables import delta_io
from factorlake.tables.delta_io import Commit
from factorlake.tables.schemas import SCHEMAS
from factorlake.times import from_micros

log = logging.getLogger(__name__)

ACCOUNTED = ("rows", "accepted", "quarantined", "duplicates", "superseded", "replaced")


def run(context: Context, accept: str | None = None) -> JobResult:
    """Validate every batch that waits, or the refused batch ``accept`` whatever the gate says.

    Returns exit code 3 when a batch was refused (the others are in), 99 when none was waiting.

    Raises
    ------
    ConfigError : a rule, a time format or the suite is wrong; ``accept`` names no refused batch; the rules have changed
        and nobody has said what to do then.
    DataRefusedError : nothing was ingested yet; or a rebuild would refuse more than the gate allows.
    FactorlakeError : the row accounting of a batch does not close.
    """
    settings = context.settings
    check_rules(context.spark, settings.events, settings.validation)
    if settings.validation.expectations:
        read_suite(settings.validation.expectations, context.conf_dir)
    ingested = Ledger.read(context).batches()
    if not ingested:
        raise DataRefusedError("nothing was ingested yet: run `factorlake ingest` first")
    states = BatchStates.read(context)
    result = JobResult(counts=dict.fromkeys((*ACCOUNTED, "new_users", "new_items", "warnings"), 0))
    refusals: list[str] = []
    warnings = check_rule_change(context, states)
    waiting = _to_accept(accept, ingested, states) if accept else _waiting(context, ingested, states)
    if waiting and settings.validation.expectations:
        # What `run_suite` will need; an import that fails is told there.
        import_beside("great_expectations")

    def settle(some: list[str]) -> None:
        for batch in some:
            context.progress(f"validating batch {batch} ({ingested[batch]:,} rows)")
            decision = _settle(context, batch, ingested[batch], states, result, accepted=batch == accept)
            if not decision.passed:
                refusals.append(_refusal(batch, decision))
            warnings.extend(f"batch {batch}: {told}" for told in decision.detail.get("warnings", []))

    promised = [batch for batch in waiting if batch != accept and states.unfinished(batch) is not None]
    settle(promised)
    rebuilt = is_rebuild_due(context, states)
    if rebuilt:
        warnings.append(rebuild(context, states, ingested, result))
    settle(waiting[len(promised) :])
    result.details["batches"] = waiting
    result.details["refused"] = states.refused()
    result.details["warnings"] = warnings
    result.counts["warnings"] = len(warnings)
    if warnings:
        result.reason = f"done, with warnings: {'; '.join(warnings)}"
    if refusals:
        result.exit_code, result.reason = DataRefusedError.exit_code, " ".join(refusals)
    elif not waiting and not rebuilt:
        result.exit_code, result.reason = NOTHING_TO_DO, "no new batches"
        if states.refused():
            result.reason += f"; refused and waiting for --accept: {', '.join(states.refused())}"
    return result


def gate_hash(context: Context) -> str:
    """Return a hash of all settings a decision rests on; a refused batch is judged again when it changes."""
    gate = context.settings.validation.gate.model_dump_json()
    return hashlib.sha256((rules_of(context) + gate).encode()).hexdigest()[:16]


def _waiting(context: Context, ingested: dict[str, int], states: BatchStates) -> list[str]:
    settings = gate_hash(context)
    refused = {batch for batch in states.refused() if states.decisions[batch].detail.get("settings") == settings}
    waiting = [batch for batch in ingested if batch not in states.written and batch not in refused]
    return [*_half_done(ingested, states), *(batch for batch in waiting if states.unfinished(batch) is None)]


def _half_done(ingested: dict[str, int], states: BatchStates) -> list[str]:
    """Return the batches that a killed run had decided upon and not written. They come before all others: written now,
    another batch would take records that they were promised."""
    return [batch for batch in ingested if states.unfinished(batch) is not None]


def _to_accept(accept: str, ingested: dict[str, int], states: BatchStates) -> list[str]:
    if accept not in ingested or (accept not in states.refused() and states.unfinished(accept) is None):
        known = ", ".join(states.refused()) or "none"
        fault = "is no ingested batch" if accept not in ingested else "is not refused"
        raise ConfigError(f"--accept: {accept!r} {fault}; batches that wait for it: {known}")
    return [*(batch for batch in _half_done(ingested, states) if batch != accept), accept]


def _settle(
    context: Context, batch: str, n_input: int, states: BatchStates, result: JobResult, accepted: bool
) -> Decision:
    """Decide on one batch and, if it passes, write its records. Adds its figures to ``result``."""
    records = keep(records_with_verdicts(context, batch))
    ids = dictionaries.look_up(context, records.filter(F.col("verdict") == ACCEPTED))
    try:
        decision = states.unfinished(batch)
        written = _written_tables(context, batch) if decision is not None else set()
        if decision is not None and decision.rules != rules_of(context) and written:
            raise ConfigError(
                f"batch {batch} was half written under other rules ({decision.rules}): run validate "
                "once with the "
                "settings of that run (the runs table keeps them), then with the new ones"
            )
        if decision is None or decision.rules != rules_of(context):
            metrics = measure(records, reason_names(context.settings.validation), ids)
            decision = decide(context, batch, n_input, metrics, states, accepted)
        if decision.passed:
            write_records(context, batch, records, decision, result, written)
            new_ids = dictionaries.extend(context, ids)
            close_batch(context, batch, decision)
            states.written.append(batch)
            for name, count in ({name: decision.counts[name] for name in ACCOUNTED} | new_ids).items():
                result.counts[name] += count
    finally:
        for frame in (*ids.values(), records):
            release(frame)
    return decision


def records_with_verdicts(context: Context, batch: str) -> DataFrame:
    """Return the batch's records, each judged by the rules and against the events of all other batches.

    The tables that the batch is written to are pinned, so that the verdicts, once cached, outlive the writing.
    """
    settings = context.settings
    table = delta_io.read(context.spark, context.lake.shared("raw_events"))
    raw = delta_io.with_columns_of(table, SCHEMAS["raw_events"])
    interactions = _of_others(context, "interactions", batch)
    known = interactions.select("event_id").unionByName(_of_others(context, "quarantine", batch).select("event_id"))
    judged = judge_rows(raw.filter(F.col("batch") == batch), settings.events, settings.validation)
    return with_verdicts(judged, known, interactions, settings.events.event_key)


def decide(
    context: Context, batch: str, n_input: int, metrics: BatchMetrics, states: BatchStates, accepted: bool
) -> Decision:
    """Check the accounting, ask the gate, whose refusal a person may have overruled (``accepted``), and record the
    decision."""
    counts, state = metrics.counts, metrics.state
    check_accounting(batch, n_input, counts)
    verdict = judge_batch(state, states.history(context, batch), context.settings.validation.gate)
    decision = Decision(
        verdict.passed or accepted,
        {
            "reason": verdict.reason,
            "accepted_by_person": accepted,
            "rules_hash": rules_of(context),
            "settings": gate_hash(context),
            "top_reasons": metrics.top_reasons(),
            "warnings": verdict.warnings,
            "first_event": _iso(state.first_event),
            "last_event": _iso(state.last_event),
        },
        counts,
    )
    progress.record_decision(context, batch, metrics, decision, verdict.findings)
    states.decisions[batch] = decision
    states.states[batch] = state
    log.info("batch=%s passed=%s %s", batch, decision.passed, " ".join(f"{k}={v}" for k, v in counts.items()))
    for told in verdict.warnings:
        log.warning("batch=%s is out of line with the history: %s", batch, told)
    return decision


def write_records(
    context: Context,
    batch: str,
    records: DataFrame,
    decision: Decision,
    result: JobResult,
    written: set[str] | frozenset[str] = frozenset(),
) -> None:
    """Write the batch's records to quarantine, then to interactions, each in one commit, but to no table that
    a killed run had ``written``."""
    now, run_id, rules = F.lit(datetime.now(UTC)), F.lit(context.run_id), F.lit(decision.rules)
    commits: dict[str, Commit] = {}
    if "quarantine" not in written:
        refused = records.filter(F.col("verdict") == QUARANTINED).select(
            *("event_id", "batch", "file", "position", "raw", "reasons"),
            rules.alias("rules_hash"),
            now.alias("refused_at"),
            run_id.alias("run_id"),
        )
        path, app_id = context.lake.shared("quarantine"), _write_name(batch, decision, "quarantine")
        commits["quarantine"] = context.append(refused, path, SCHEMAS["quarantine"], app_id=app_id)
    if "interactions" not in written:
        app_id = _write_name(batch, decision, "interactions")
        commits["interactions"] = write_events(context, records, bool(decision.counts["replaced"]), app_id)
    for table, commit in commits.items():
        result.versions[table] = commit.version
        if commit.skipped:
            log.info("batch=%s was in %s already", batch, table)
    _check_written(context, batch, decision, commits)


def write_events(context: Context, records: DataFrame, replaces: bool, app_id: str | None = None) -> Commit:
    """Bring the accepted records into interactions in one commit.

    replaces : whether they supersede events that are in. Then old events go and new ones come in that commit, and those
        that stay keep their own arrival and run.
    app_id : name of the write, which is done once.
    """
    is_new = F.col("verdict") == ACCEPTED
    mine = {
        "arrival": F.lit(datetime.now(UTC)),
        "rules_hash": F.lit(rules_of(context)),
        "run_id": F.lit(context.run_id),
    }
    path, schema = context.lake.shared("interactions"), SCHEMAS["interactions"]
    if replaces:
        own = {name: F.when(is_new, value).otherwise(F.col(name)) for name, value in mine.items()}
        return context.overwrite(records.filter(F.col("verdict").isin(ACCEPTED, KEPT)).withColumns(own), path, schema)
    return context.append(records.filter(is_new).withColumns(mine), path, schema, app_id=app_id)


def close_batch(context: Context, batch: str, decision: Decision) -> None:
    """Run the suite on what the batch brought into interactions and record the batch as written."""
    rows = [
        {
            "rule": finding.rule,
            "kind": "expectation",
            "value": None if finding.broken is None else float(finding.broken),
            "success": finding.success,
            "detail": finding.detail,
        }
        for finding in _expect(context, batch, decision)
    ]
    rows.append({"rule": progress.WRITTEN, "kind": "gate", "value": 1.0, "success": True})
    progress.record(context, batch, rows)


def _expect(context: Context, batch: str, decision: Decision) -> list[Finding]:
    validation = context.settings.validation
    if not validation.expectations or not decision.counts["accepted"]:
        return []
    context.progress("running the Great Expectations suite")
    docs = os.path.join(context.lake.reports(), "data_docs") if validation.data_docs and context.lake.is_local else None
    findings = run_suite(
        _of(context, "interactions").filter(F.col("batch") == batch),
        read_suite(validation.expectations, context.conf_dir),
        docs,
    )
    for finding in findings:
        if not finding.success:
            log.warning("batch=%s expectation %s: %s", batch, finding.rule, finding.detail or "failed")
    return findings


def _write_name(batch: str, decision: Decision, table: str) -> str:
    # The rules are part of the name: a batch decided upon anew under other rules is another write.
    return f"validate:{batch}:{decision.rules}:{table}"


def _check_written(context: Context, batch: str, decision: Decision, commits: dict[str, Commit]) -> None:
    for table, name in (("interactions", "accepted"), ("quarantine", "quarantined")):
        n_written = _n_appended(context, table, decision, commits)
        if n_written is None:
            n_written = _of(context, table).filter(F.col("batch") == batch).count()
        if n_written != decision.counts[name]:
            raise FactorlakeError(
                f"{table} holds {n_written} rows of batch {batch}, but {decision.counts[name]} were {name}: "
                "its input changed while it was read; compare the batch's rows in raw_events and run "
                "validate again"
            )


def _n_appended(context: Context, table: str, decision: Decision, commits: dict[str, Commit]) -> int | None:
    """Rows that this run's append brought to the table; None where the table alone can tell what it holds of the
    batch: an earlier run wrote it, or rows of other batches were written with it."""
    rewritten = table == "interactions" and decision.counts["replaced"]
    if table not in commits or rewritten:
        return None
    return delta_io.rows_written(context.spark, context.lake.shared(table), commits[table])


def _written_tables(context: Context, batch: str) -> set[str]:
    return {
        table
        for table in ("interactions", "quarantine")
        if not _of(context, table).filter(F.col("batch") == batch).isEmpty()
    }


def _of(context: Context, table: str, *, pinned: bool = False) -> DataFrame:
    return delta_io.read_or_empty(context.spark, context.lake.shared(table), SCHEMAS[table], pinned=pinned)


def _of_others(context: Context, table: str, batch: str) -> DataFrame:
    return _of(context, table, pinned=True).filter(F.col("batch") != batch)


def _iso(micros: int | None) -> str | None:
    return None if micros is None else from_micros(micros).isoformat()


def _refusal(batch: str, decision: Decision) -> str:
    top = ", ".join(f"{reason} {count}" for reason, count in decision.detail["top_reasons"]) or "none"
    return (
        f"Batch {batch} is refused: {decision.detail['reason']}. Most frequent reasons: {top}. "
        "Nothing of it was "
        f"taken. Mend the log or the rules, or take it as it is by `factorlake validate --accept {batch}`."
    )
