"""Rules that have changed since events went in: refuse, keep what is in, or derive it again.

A rebuild judges all records of the batches that are in by the rules of now, as if those had held from the start:
interactions and quarantine are replaced in one commit each, ids keep their indexes, events that stay their arrival.
It is noted before the first of them and after the last, so one that was cut off is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.pipelines import batches as progress
from factorlake.pipelines import dictionaries
from factorlake.pipelines.batches import BatchStates, Decision
from factorlake.pipelines.context import Context, JobResult
from factorlake.quality.metrics import COUNTS, VERDICTS, check_accounting
from factorlake.quality.rules import judge_rows, rules_hash
from factorlake.quality.states import BatchState
from factorlake.quality.verdicts import ACCEPTED, QUARANTINED, with_verdicts
from factorlake.spark.compat import keep, release
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

log = logging.getLogger(__name__)

TURN = "turn"


def rules_of(context: Context) -> str:
    """Return the hash of the rules that the settings hold."""
    return rules_hash(context.settings.events, context.settings.validation)


def check_rule_change(context: Context, states: BatchStates) -> list[str]:
    """Return what a person should know where the last batch that is in was judged by other rules than those of now.

    Raises ConfigError where nobody has said what to do then, or where a rebuild was cut off and is not to go on.
    """
    rules, policy = rules_of(context), context.settings.validation.on_rule_change
    if policy == "rebuild":
        return []
    if states.rebuilding:
        raise ConfigError(
            "a rebuild of interactions was cut off, and its tables may not fit together: let it be finished by "
            "`validate.on_rule_change: rebuild`"
        )
    last = states.written[-1] if states.written else None
    if last is None or states.decisions[last].rules == rules:
        return []
    changed = (
        f"`events` or `validate.rules` have changed since batch {last} went in "
        f"(rules {states.decisions[last].rules}, now {rules})"
    )
    if policy is None:
        raise ConfigError(
            f"{changed}: set `validate.on_rule_change` to keep (what is in stays, new batches are judged by the new "
            "rules) or to rebuild (interactions and quarantine are derived again from raw_events)"
        )
    return [f"{changed}; what is in stays as it was judged"]


def is_rebuild_due(context: Context, states: BatchStates) -> bool:
    """Whether the settings ask for a rebuild and there is one to do, or to finish."""
    if context.settings.validation.on_rule_change != "rebuild":
        return False
    rules = rules_of(context)
    return states.rebuilding or any(states.decisions[batch].rules != rules for batch in states.written)


def rebuild(context: Context, states: BatchStates, ingested: Mapping[str, int], result: JobResult) -> str:
    """Derive interactions and quarantine again from the records of all batches that are in; return what has changed in
    a sentence. The figures come into ``result``.

    ingested : how many records the ledger knows of each batch.

    Raises
    ------
    DataRefusedError : the rules of now refuse a larger share of the records than the gate allows. Nothing was touched.
    """
    context.progress(f"deriving interactions again from {len(states.written)} batches")
    records = keep(_judged_anew(context, states.written))
    accepted = records.filter(F.col("verdict") == ACCEPTED)
    ids = dictionaries.look_up(context, accepted)
    try:
        found = _counted(records, states.written)
        decisions = _decided_anew(context, states, ingested, found)
        change = _difference(context, accepted)
        _allow(context, states, found, change)
        progress.record(context, progress.REBUILD, [{"rule": progress.BEGUN, "kind": progress.REBUILD}])
        _swap(context, accepted, "interactions", "arrival", result)
        _swap(context, records.filter(F.col("verdict") == QUARANTINED), "quarantine", "refused_at", result)
        for name, count in dictionaries.extend(context, ids).items():
            result.counts[name] += count
        progress.record_rebuilt(context, decisions, found)
    finally:
        for frame in (*ids.values(), records):
            release(frame)
    states.decisions |= decisions
    states.states |= found
    states.rebuilding = False
    result.counts |= {f"rebuild_{name}": count for name, count in change.items()}
    told = f"interactions were derived again under rules {rules_of(context)}: {_told(change)}"
    log.info(told)
    return told


def _counted(records: DataFrame, batches: list[str]) -> dict[str, BatchState]:
    """Return counts and reasons of each batch, from ``verdict`` and ``reasons`` of its records."""
    refused = records.filter(F.col("verdict") == QUARANTINED)
    names = records.select("batch", F.col("verdict").alias("name"), F.lit(False).alias("is_reason")).unionByName(
        refused.select("batch", F.explode("reasons").alias("name"), F.lit(True).alias("is_reason"))
    )
    rows = names.groupBy("batch", "name", "is_reason").agg(F.count("*").alias("n"))
    verdicts: dict[str, dict[str, int]] = {}
    reasons: dict[str, dict[str, int]] = {}
    for row in rows.collect():
        (reasons if row["is_reason"] else verdicts).setdefault(row["batch"], {})[row["name"]] = row["n"]
    return {
        batch: BatchState(
            {"rows": sum(n.values())} | {name: n.get(verdict, 0) for name, verdict in VERDICTS.items()},
            reasons.get(batch, {}),
        )
        for batch, n in ((batch, verdicts.get(batch, {})) for batch in batches)
    }


def _judged_anew(context: Context, written: list[str]) -> DataFrame:
    settings = context.settings
    turns = context.spark.createDataFrame(
        list(zip(written, range(len(written)), strict=True)), f"batch string, {TURN} int"
    )
    raw = delta_io.read_or_empty(context.spark, context.lake.shared("raw_events"), SCHEMAS["raw_events"])
    judged = judge_rows(raw.join(F.broadcast(turns), "batch"), settings.events, settings.validation)
    none = context.spark.createDataFrame([], SCHEMAS["interactions"].fields)
    return with_verdicts(judged, none, none, settings.events.event_key, first=(TURN, "file", "position"))


def _decided_anew(
    context: Context, states: BatchStates, ingested: Mapping[str, int], found: Mapping[str, BatchState]
) -> dict[str, Decision]:
    decisions = {}
    for batch, state in found.items():
        before = states.decisions[batch]
        check_accounting(batch, ingested[batch], dict(state.counts))
        top = sorted(state.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
        detail = {**before.detail, "rules_hash": rules_of(context), "top_reasons": top}
        # How many users and items a batch had is told of it as it came; it decides nothing.
        counts = {name: state.counts.get(name, before.counts.get(name, 0)) for name in COUNTS}
        decisions[batch] = replace(before, detail=detail, counts=counts)
    return decisions


def _difference(context: Context, accepted: DataFrame) -> dict[str, int]:
    before = delta_io.read_or_empty(context.spark, context.lake.shared("interactions"), SCHEMAS["interactions"])
    was, now = F.col("was").isNotNull(), F.col("now").isNotNull()
    both = before.select("event_id", F.lit(1).alias("was")).join(
        accepted.select("event_id", F.lit(1).alias("now")), "event_id", "full"
    )
    kinds = {"stay": was & now, "enter": ~was & now, "leave": was & ~now}
    row = both.agg(*(F.count_if(which).alias(name) for name, which in kinds.items())).first()
    assert row is not None
    return dict(row.asDict())


def _allow(context: Context, states: BatchStates, found: Mapping[str, BatchState], change: Mapping[str, int]) -> None:
    """Raise DataRefusedError where the rules of now refuse more than the gate allows, and more than refused before."""
    limit = context.settings.validation.gate.max_quarantined_share
    now = sum(found.values(), BatchState())
    before = sum((BatchState(states.decisions[batch].counts) for batch in found), BatchState())
    if now.quarantined_share > max(limit, before.quarantined_share):
        raise DataRefusedError(
            f"the rules of now refuse {now.counts['quarantined']} of {now.judged} records that are in "
            f"({now.quarantined_share:.1%}), more than `validate.gate.max_quarantined_share` ({limit:.1%}); of the "
            f"events, {_told(change)}. Nothing was changed. Mend the rules, or raise that limit for the rebuild"
        )


def _told(change: Mapping[str, int]) -> str:
    return f"{change['stay']} stay, {change['enter']} come in, {change['leave']} go"


def _swap(context: Context, records: DataFrame, table: str, since: str, result: JobResult) -> None:
    """Replace a shared table's rows by what its records are by the rules of now, in one commit.

    since : column that says when a row came in; a row that stays keeps it.
    """
    path, schema = context.lake.shared(table), SCHEMAS[table]
    said = {
        since: F.coalesce(since, F.lit(datetime.now(UTC))),
        "rules_hash": F.lit(rules_of(context)),
        "run_id": F.lit(context.run_id),
    }
    before = delta_io.read_or_empty(context.spark, path, schema, pinned=True).select("event_id", since)
    rows = records.select(*(field.name for field in schema.fields if field.name not in said))
    rows = rows.join(before, "event_id", "left").withColumns(said)
    result.versions[table] = context.overwrite(rows, path, schema).version
