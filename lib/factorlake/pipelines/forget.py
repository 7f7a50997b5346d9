"""Forget users: deletes what any table of the lake, of every recommender, holds of them, and what hangs on it.

Reads and writes every table that names users, ingest_ledger, models, publications and erasures. What is deleted stays
in earlier versions of the tables until the next `maintain` removes these; no publication from before can be rolled back
to.

Killed anywhere and run again it does what is left to do. So each table is deleted from by what later ones still tell:
the records of a user are known from raw_events, or from interactions; they go from quarantine first, from interactions
last.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from factorlake.errors import NOTHING_TO_DO, ConfigError
from factorlake.pipelines import ingest_ledger as ledger
from factorlake.pipelines.batches import BatchStates
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.dictionaries import FIRST_FREE, first_free_index
from factorlake.pipelines.ingest_ledger import Ledger
from factorlake.pipelines.pseudonyms import pseudonyms_of
from factorlake.pipelines.publishing import KEYS, LISTS, record_publication, stands
from factorlake.quality.mapping import map_events
from factorlake.spark.compat import keep, release, remove_folder
from factorlake.tables import delta_io, registry
from factorlake.tables.names import LEFT_BY_RUNS, Lake
from factorlake.tables.registry import ERASED, FORGET, STARTED
from factorlake.tables.schemas import SCHEMAS
from factorlake.texts import WHITE_SPACE

LOG_TABLES = ("quarantine", "raw_events", "interactions")
WORD = r"[\p{L}\p{N}]"


def run(context: Context, user: str | None = None, users_file: str | None = None) -> JobResult:
    """Delete everything that the lake holds of some users, told by their ids as the log has them; 99 where it holds
    nothing of them. Neither the result nor any table names them.

    user : one id. users_file : a text file in UTF-8 with an id in each line; empty lines are none.

    Raises ConfigError where no id is given, the file cannot be read, or an ingest, a validation or a publish was killed
    halfway: it would bring back what is forgotten here.
    """
    ids = read_ids(user, users_file)
    n_users = len({name.strip(WHITE_SPACE) for name in ids})
    pseudonyms = pseudonyms_of(context)
    if pseudonyms is not None:
        ids = {found for name in ids if (found := pseudonyms.of(name)) is not None}
    spark = context.spark
    lakes = [context.lake, *(Lake.at(context.lake.root, other) for other in context.lake.other_recommenders())]
    contexts = [replace(context, lake=lake) for lake in lakes]
    pending = registry.unfinished_erasures(spark, context.lake)
    _check_finished(contexts, pending)
    before = dict(pending[0]["versions"]) if pending else _versions_of_lists(contexts)
    _note(context, STARTED, n_users, versions=before)
    users = keep(spark.createDataFrame([(name,) for name in sorted(ids)], "id string"))
    try:
        for one in contexts:
            _remove_working_storage(one)
        rows = _erase_log(context, users)
        for one in contexts:
            for table, n_rows in _erase_models(one, users).items():
                rows[table] = rows.get(table, 0) + n_rows
    finally:
        release(users)
    erased = bool(pending) or any(rows.values())
    if erased:
        for one in contexts:
            _move_on(one, before)
    _note(context, ERASED if erased else registry.NOTHING, n_users, rows=rows)
    counts = {"asked": n_users, **{table: n_rows for table, n_rows in rows.items() if n_rows}}
    if not erased:
        return JobResult(NOTHING_TO_DO, "the lake holds nothing of these users", counts=counts)
    return JobResult(
        reason=f"{sum(rows.values())} rows deleted; what earlier versions of the tables hold goes with `factorlake "
        "maintain`, once it is maintain.keep_days old",
        counts=counts,
    )


def read_ids(user: str | None, users_file: str | None) -> set[str]:
    """Return the ids that are asked for, each also without white space around it. ConfigError when there is none."""
    given = [] if user is None else [user]
    if users_file is not None:
        try:
            given += Path(users_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--users-file {users_file} cannot be read: {type(error).__name__}") from None
    found = {name for text in given for name in (text, text.strip(WHITE_SPACE)) if name.strip(WHITE_SPACE)}
    if not found:
        raise ConfigError("no user is named: give --user ID, or --users-file FILE with an id in each line")
    return found


def _check_finished(contexts: list[Context], pending: Collection[Row]) -> None:
    """Raise where a killed job has yet to be finished. A forgetting that was killed leaves publications that the tables
    have left behind, so with one ``pending`` they are not asked."""
    context = contexts[0]
    book = Ledger.read(context)
    states = BatchStates.read(context)
    half = [batch for batch in book.batches() if states.unfinished(batch) is not None]
    if book.unfinished() or half:
        verb = "ingest" if book.unfinished() else "validate"
        raise ConfigError(f"a killed run left a batch half done: run `factorlake {verb}` first, then forget")
    for one in [] if pending else contexts:
        for slot in registry.slots(one.spark, one.lake):
            in_slot = _in_slot(one, slot)
            live = registry.publications(one.spark, one.lake, slot)[0]
            if not stands(in_slot, live):
                raise ConfigError(
                    f"a killed run left slot {slot} of {one.lake.recommender} half published: run `factorlake publish` "
                    "or `factorlake rollback` first, then forget"
                )


def _in_slot(context: Context, slot: str) -> Context:
    publish = context.settings.publish.model_copy(update={"slot": slot})
    return replace(context, settings=context.settings.model_copy(update={"publish": publish}))


def _note(context: Context, state: str, n_users: int, **more: Any) -> None:
    row = {"run_id": context.run_id, "state": state, "users": n_users, "recorded_at": registry.now(), **more}
    context.append_rows([row], context.lake.shared("erasures"), SCHEMAS["erasures"])


def _versions_of_lists(contexts: list[Context]) -> dict[str, int]:
    return {
        f"{one.lake.recommender}/{version}": delta_io.version(one.spark, one.lake.candidate(version, LISTS))
        for one in contexts
        for version in _candidates(one)
    }


def _candidates(context: Context) -> list[str]:
    known = {row["model_version"] for row in registry.trained_models(context.spark, context.lake)}
    return sorted(known | set(context.lake.candidate_versions()))


def _decompositions_of_the_log(context: Context) -> list[str]:
    """Return the decompositions whose rows are users; what the rows of other inputs are is not known here."""
    rows = {version: registry.model(context.spark, context.lake, version) for version in context.lake.decompositions()}
    return [version for version, row in rows.items() if row is None or json.loads(row["settings"]).get("input") is None]


def _remove_working_storage(context: Context) -> None:
    """Remove what killed runs left: the lease says that none is at work."""
    lake = context.lake
    for version in _candidates(context):
        for name in LEFT_BY_RUNS:
            remove_folder(context.spark, f"{lake.candidate_folder(version)}/{name}")
    for version in lake.decompositions():
        remove_folder(context.spark, f"{lake.decomposition_folder(version)}/workspace")
    for search in lake.searches():
        remove_folder(context.spark, lake.search_folder(search))


def _erase_log(context: Context, users: DataFrame) -> dict[str, int]:
    """Delete from the tables that all recommenders share; return rows by table."""
    spark, lake = context.spark, context.lake
    events = keep(_events_of(context, users))
    try:
        _account(context, events)
        rows = {table: _erase(context, lake.shared(table), table, events) for table in LOG_TABLES}
    finally:
        release(events)
    noted = {FIRST_FREE: str(first_free_index(spark, lake.shared("users")))}
    rows["users"] = _erase(context, lake.shared("users"), "users", users, noted)
    rows["user_attributes"] = _erase(context, lake.shared("user_attributes"), "user_attributes", users)
    return rows


def _erase_models(context: Context, users: DataFrame) -> dict[str, int]:
    """Delete from every table of one recommender that names users; return rows by table."""
    lake, spark = context.lake, context.spark
    decompositions = _decompositions_of_the_log(context)
    found = lake.model_tables(registry.slots(spark, lake), _candidates(context), decompositions)
    rows: dict[str, int] = {}
    for name, path in found:
        schema = SCHEMAS[name]
        if schema.names_user is None:
            continue
        keys = users.select(F.col("id").alias(schema.names_user))
        if "side" in schema.fields.names:
            keys = keys.withColumn("side", F.lit("user"))
        rows[name] = rows.get(name, 0) + _erase(context, path, name, keys)
    return rows


def _erase(context: Context, path: str, table: str, keys: DataFrame, noted: dict[str, str] | None = None) -> int:
    n_rows = context.erase(path, SCHEMAS[table], keys, noted=noted)
    if n_rows:
        context.progress(f"{path.removeprefix(f'{context.lake.root}/')}: {n_rows} rows deleted")
    return n_rows


def _events_of(context: Context, users: DataFrame) -> DataFrame:
    """Return the event_id of every record of the users: those that name one in the column of users, and broken ones
    that hold such an id as a word of their text. Exact copies share their event_id and are of the same user."""
    spark, lake = context.spark, context.lake
    tables = {
        name: delta_io.read_or_empty(spark, lake.shared(name), SCHEMAS[name], pinned=True)
        for name in ("raw_events", "interactions")
    }
    mapped = map_events(tables["raw_events"], context.settings.events)
    named = mapped.select("event_id", F.explode(F.array("user_id", "user_id_text")).alias("id"))
    # Quoted for Java's patterns: no mark in an id has a meaning there.
    quoted = F.concat(F.lit(r"\Q"), F.replace("id", F.lit(r"\E"), F.lit(r"\E\\E\Q")), F.lit(r"\E"))
    words = users.select(F.concat(F.lit(f"(?<!{WORD})"), quoted, F.lit(f"(?!{WORD})")).alias("word"))
    torn = tables["raw_events"].where(F.col("defect").isNotNull() | F.col("fields").isNull())
    found = [
        named.join(users, on="id", how="left_semi"),
        torn.join(F.broadcast(words), on=F.expr("raw RLIKE word"), how="left_semi"),
        tables["interactions"].withColumnRenamed("user_id", "id").join(users, on="id", how="left_semi"),
    ]
    ids = [frame.select("event_id") for frame in found]
    return ids[0].unionByName(ids[1]).unionByName(ids[2]).distinct()


def _account(context: Context, events: DataFrame) -> None:
    """Record in the ledger how many records of each file stay, before the others go: by it batches are accounted
    for."""
    raw = delta_io.read_or_empty(context.spark, context.lake.shared("raw_events"), SCHEMAS["raw_events"], pinned=True)
    marked = raw.join(events.withColumn("goes", F.lit(True)), on="event_id", how="left")
    figures = marked.groupBy("batch", "file").agg(
        F.count_if(F.col("goes").isNull()).alias("stays"), F.count("goes").alias("goes")
    )
    stays: dict[str, dict[str, int]] = {}
    touched = set()
    for row in figures.collect():
        stays.setdefault(row["batch"], {})[row["file"]] = row["stays"]
        touched |= {row["batch"]} if row["goes"] else set()
    entries = []
    for batch, files in Ledger.read(context).ingested().items():
        for file, row in files.items() if batch in touched else []:
            # A row of a Delta source names the data file it came from; the ledger names the table.
            n_records = sum(stays[batch].values()) if len(files) == 1 else stays[batch].get(file, 0)
            if n_records != row["records"]:
                kept = {name: row[name] for name in ("size", "modified_us", "content_hash", "batch")}
                entries.append(ledger.entry(file, ledger.INGESTED, records=n_records, **kept))
    if entries:
        ledger.record(context, entries)


def _move_on(context: Context, before: dict[str, int]) -> None:
    """Let the models look at the log as it is now, and make what is live in each slot a publication of its own: it is
    the oldest that can be rolled back to."""
    spark, lake = context.spark, context.lake
    interactions = delta_io.version(spark, lake.shared("interactions"))
    for trained in reversed(registry.trained_models(spark, lake)):
        row = registry.model(spark, lake, trained["model_version"])
        if row is not None and row["interactions_version"] not in (None, interactions):
            context.record_model({**row.asDict(), "interactions_version": interactions})
    for slot in registry.slots(spark, lake):
        live = registry.publications(spark, lake, slot)[0]
        version, recorded = live["model_version"], dict(live["versions"])
        versions = {table: delta_io.version(spark, lake.published(table, slot)) for table in KEYS}
        if LISTS in recorded:
            known = before.get(f"{lake.recommender}/{version}")
            moved = known is not None and known == recorded[LISTS]
            versions[LISTS] = delta_io.version(spark, lake.candidate(version, LISTS)) if moved else recorded[LISTS]
        if live["kind"] != FORGET or recorded != versions:
            publication = {"model_version": version, "versions": versions, "as_of": live["as_of"], "kind": FORGET}
            record_publication(_in_slot(context, slot), publication)
