"""Replay: records in quarantine that the rules of now accept move to interactions, each exactly once.

Reads quarantine and raw_events; writes interactions, users, items, validation_results and last quarantine, so that a
record never is in neither. A run that was killed before finds its records in interactions and takes them out of
quarantine.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, DataRefusedError
from factorlake.pipelines import batches as progress
from factorlake.pipelines import dictionaries, validate
from factorlake.pipelines.batches import BatchStates
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.rebuild import check_rule_change, is_rebuild_due
from factorlake.quality.rules import check_rules, judge_rows
from factorlake.quality.states import BatchState
from factorlake.quality.verdicts import ACCEPTED, KEPT, QUARANTINED, REPLACED, with_verdicts
from factorlake.spark.compat import keep, release
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS


def run(context: Context) -> JobResult:
    """Judge every record in quarantine by the rules of now, and move those that they accept.

    What stays keeps its row. Returns exit code 99 when nothing moves.

    Raises
    ------
    ConfigError : a rule or a time format is wrong; the rules have changed and nobody has said what to do then.
    DataRefusedError : there is no quarantine yet; a batch is half written, or a rebuild is due: `validate` comes first.
    """
    settings, spark = context.settings, context.spark
    check_rules(spark, settings.events, settings.validation)
    if not delta_io.exists(spark, context.lake.shared("quarantine")):
        raise DataRefusedError("nothing was validated yet: run `factorlake validate` first")
    states = BatchStates.read(context)
    half_done = [batch for batch in states.decisions if states.unfinished(batch) is not None]
    if half_done or is_rebuild_due(context, states):
        due = f"batch {half_done[0]} is half written" if half_done else "a rebuild is due, which judges quarantine too"
        raise DataRefusedError(f"{due}: run `factorlake validate` first")
    warnings = check_rule_change(context, states)
    quarantine, interactions = (_pinned(context, table) for table in ("quarantine", "interactions"))
    records = keep(_judged_anew(context, quarantine, interactions))
    leaving = records.filter(~F.col("verdict").isin(QUARANTINED, KEPT, REPLACED))
    try:
        n_leaving = leaving.count()
        if not n_leaving:
            reason = f"none of the {quarantine.count()} records in quarantine is accepted by the rules of now"
            return JobResult(NOTHING_TO_DO, reason, details={"warnings": warnings})
        context.progress(f"{n_leaving:,} records leave quarantine")
        result = JobResult(reason=f"{n_leaving} records left quarantine", details={"warnings": warnings})
        if not records.filter(F.col("verdict") == ACCEPTED).isEmpty():
            replaces = not records.filter(F.col("verdict") == REPLACED).isEmpty()
            result.versions["interactions"] = validate.write_events(context, records, replaces).version
        landed = _landed(context, leaving)
        ids = dictionaries.look_up(context, landed)
        try:
            new_ids = dictionaries.extend(context, ids)
        finally:
            for frame in ids.values():
                release(frame)
        staying = quarantine.join(leaving.select("event_id"), "event_id", "left_anti")
        _recount(context, states, landed, staying, leaving)
        commit = context.overwrite(staying, context.lake.shared("quarantine"), SCHEMAS["quarantine"])
        result.versions["quarantine"] = commit.version
        n_landed = landed.count()
        result.counts |= {"accepted": n_landed, "superseded": n_leaving - n_landed, **new_ids}
        return result
    finally:
        release(records)


def _pinned(context: Context, table: str) -> DataFrame:
    return delta_io.read_or_empty(context.spark, context.lake.shared(table), SCHEMAS[table], pinned=True)


def _judged_anew(context: Context, quarantine: DataFrame, interactions: DataFrame) -> DataFrame:
    """Return the records in quarantine with their verdicts; those that an earlier run moved are duplicates."""
    settings = context.settings
    raw = delta_io.read_or_empty(context.spark, context.lake.shared("raw_events"), SCHEMAS["raw_events"])
    places = quarantine.select("batch", "file", "position")
    judged = judge_rows(
        raw.join(places, ["batch", "file", "position"], "left_semi"), settings.events, settings.validation
    )
    return with_verdicts(judged, interactions.select("event_id"), interactions, settings.events.event_key)


def _landed(context: Context, leaving: DataFrame) -> DataFrame:
    """Return the rows of interactions that came from the records, in this run or an earlier one that was cut off."""
    interactions = delta_io.read_or_empty(context.spark, context.lake.shared("interactions"), SCHEMAS["interactions"])
    return interactions.join(leaving.select("event_id"), "event_id", "left_semi")


def _recount(context: Context, states: BatchStates, landed: DataFrame, staying: DataFrame, leaving: DataFrame) -> None:
    """Record what the batches are without the records that leave. A batch that an earlier run has counted anew, and
    whose records it then did not come to take out, is left alone."""
    n_landed, n_leaving, n_staying = (
        {row["batch"]: row["count"] for row in frame.groupBy("batch").count().collect()}
        for frame in (landed, leaving, staying)
    )
    reasons: dict[str, dict[str, int]] = {batch: {} for batch in n_leaving}
    for row in staying.select("batch", F.explode("reasons").alias("name")).groupBy("batch", "name").count().collect():
        reasons.setdefault(row["batch"], {})[row["name"]] = row["count"]
    counts, recounted = {}, {}
    for batch, n_moved in n_leaving.items():
        before, stay = states.decisions[batch].counts, n_staying.get(batch, 0)
        if before["quarantined"] == stay:
            continue
        new = n_landed.get(batch, 0)
        moved = {
            "accepted": before["accepted"] + new,
            "superseded": before["superseded"] + n_moved - new,
            "quarantined": stay,
            # Without the records of users who were forgotten since.
            "rows": before["rows"] - (before["quarantined"] - stay - n_moved),
        }
        counts[batch] = before | moved
        recounted[batch] = BatchState(counts[batch], reasons[batch])
    if recounted:
        progress.record_recount(context, counts, recounted)
