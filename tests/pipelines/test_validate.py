"""Validate: every row accounted for, whatever order batches come in and wherever a run is killed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, FactorlakeError
from factorlake.pipelines import dictionaries, ingest, validate
from factorlake.pipelines.batches import BatchStates
from factorlake.pipelines.context import Context
from factorlake.pipelines.jobs import execute
from factorlake.quality.expectations import DID_NOT_RUN, read_suite, run_suite
from factorlake.quality.metrics import check_accounting, measure
from factorlake.quality.verdicts import with_verdicts
from factorlake.tables import delta_io
from tests.pipelines.lakes import contents, context_at, events, write_csv

spark_only = pytest.mark.spark


def results(context: Context, kind: str) -> dict[str, tuple]:
    frame = delta_io.read(context.spark, context.lake.shared("validation_results")).filter(F.col("kind") == kind)
    return {row["rule"]: (row["value"], row["success"]) for row in frame.collect()}


def indexes(context: Context, table: str) -> list[tuple]:
    frame = delta_io.read(context.spark, context.lake.shared(table)).select("id", "index")
    return sorted(tuple(row) for row in frame.collect())


@spark_only
def test_batch_is_accounted_for_row_by_row(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    bad = ["u9,i9,five,2024-01-01T00:00:00Z", ",i9,NaN,2024-01-01T00:00:00Z", "cut"]
    write_csv(tmp_path / "log" / "a.csv", *events(1, 2, 3), *bad)
    write_csv(tmp_path / "log" / "b.csv", *events(3, 4), *bad[:1])
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "- {type: expect_column_values_to_not_be_null, column: user_id}\n"
        "- {type: expect_column_values_to_be_between, column: value, max_value: 3}\n"
        "- {type: expect_column_values_to_not_be_null, column: not_there}\n"
    )
    context = context_at(spark, lake_root, tmp_path / "log", validate={"expectations": str(suite)})
    ingest.run(context)
    result = validate.run(context)
    assert result.exit_code == 0
    assert {name: result.counts[name] for name in validate.ACCOUNTED} == {
        "rows": 9, "accepted": 4, "quarantined": 3, "duplicates": 2, "superseded": 0, "replaced": 0
    }  # fmt: skip
    accepted = [(row[0], row[3]) for row in contents(context, "interactions")]
    assert accepted == [("u1", "1.0"), ("u2", "2.0"), ("u3", "3.0"), ("u4", "4.0")]
    quarantine = delta_io.read(spark, context.lake.shared("quarantine")).collect()
    assert {row["raw"]: row["reasons"] for row in quarantine} == {
        bad[0]: ["value_not_a_number"],
        bad[1]: ["missing_user_id", "value_not_finite"],
        bad[2]: ["broken_record"],
    }
    # Of two copies the one in the first file stays.
    assert {row["file"].rsplit("/", 1)[-1] for row in quarantine} == {"a.csv"}
    assert results(context, "expectation") == {
        "expect_column_values_to_not_be_null(user_id)": (0.0, True),
        "expect_column_values_to_be_between(value)": (1.0, False),
        "expect_column_values_to_not_be_null(not_there)": (None, None),
    }
    assert results(context, "share")["quarantined_share"][0] == pytest.approx(3 / 7, rel=1e-12)  # one division
    again = validate.run(context)
    assert (again.exit_code, again.reason) == (99, "no new batches")


@spark_only
def test_refused_batch_waits_holds_up_nothing_and_can_be_accepted(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source = tmp_path / "log"
    context = context_at(spark, lake_root, source)
    with pytest.raises(DataRefusedError, match="factorlake ingest"):
        validate.run(context)
    write_csv(source / "a.csv", *events(1), ",i,1,x", ",j,1,x", ",k,1,x")
    ingest.run(context)
    refused = validate.run(context)
    (batch,) = refused.details["refused"]
    assert refused.exit_code == 3
    for part in (batch, "3 of 4 rows (75.0%)", "missing_user_id 3", f"validate --accept {batch}"):
        assert part in refused.reason
    assert contents(context, "interactions") == contents(context, "quarantine") == []

    write_csv(source / "b.csv", *events(1, 2))
    ingest.run(context)
    assert validate.run(context).counts["accepted"] == 2
    waiting = validate.run(context)
    assert waiting.exit_code == 99 and batch in waiting.reason
    with pytest.raises(ConfigError, match=batch):
        validate.run(context, accept="no-such-batch")

    accepted = validate.run(context, accept=batch)
    assert accepted.exit_code == 0
    # The event that came again with the later batch is a copy now, whichever was first.
    assert (accepted.counts["quarantined"], accepted.counts["duplicates"]) == (3, 1)
    with pytest.raises(ConfigError, match="is not refused"):
        validate.run(context, accept=batch)


@spark_only
def test_refused_batch_is_judged_again_under_other_limits(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1), ",i,1,x", ",j,1,x")
    strict = context_at(spark, lake_root, tmp_path / "log")
    ingest.run(strict)
    assert validate.run(strict).exit_code == 3
    lenient = context_at(spark, lake_root, tmp_path / "log", validate={"gate": {"max_quarantined_share": 0.7}})
    assert validate.run(lenient).exit_code == 0


@spark_only
@pytest.mark.parametrize("killed_after", ["decision", "quarantine", "interactions", "new_ids"])
def test_run_killed_between_its_writes_is_finished_by_the_next(
    spark: SparkSession, lake_root: str, tmp_path: Path, killed_after: str
) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1, 2), ",i,1,x")
    context = context_at(spark, lake_root, tmp_path / "log")
    (batch,) = ingest.run(context).details["batches"]
    records = validate.records_with_verdicts(context, batch)
    ids = dictionaries.look_up(context, records.filter(F.col("verdict") == "accepted"))
    metrics = measure(records, ["missing_user_id"], ids)
    decision = validate.decide(context, batch, 3, metrics, BatchStates(), accepted=False)
    if killed_after == "new_ids":
        validate.write_records(context, batch, records, decision, validate.JobResult())
        assert dictionaries.extend(context, ids) == {"new_users": 2, "new_items": 2}
    elif killed_after != "decision":
        spared = {"quarantine"} if killed_after == "interactions" else {"interactions"}
        with pytest.raises(FactorlakeError, match="holds 0 rows"):
            validate.write_records(context, batch, records, decision, validate.JobResult(), spared)
        other = context_at(spark, lake_root, tmp_path / "log", events={"columns": {"value": "value"}, "types": ["x"]})
        with pytest.raises(ConfigError, match="half written under other rules"):
            validate.run(other)

    result = validate.run(context)
    assert result.exit_code == 0
    assert (result.counts["accepted"], result.counts["quarantined"]) == (2, 1)
    assert len(contents(context, "interactions")) == 2
    assert len(contents(context, "quarantine")) == 1
    assert indexes(context, "users") == [("u1", 0), ("u2", 1)]
    assert indexes(context, "items") == [("i1", 0), ("i2", 1)]
    assert validate.run(context).exit_code == 99
    # One row for each figure of the batch, however often the run was tried.
    table = delta_io.read(spark, context.lake.shared("validation_results"))
    assert table.groupBy("batch", "kind", "rule").count().where("count > 1").collect() == []


@spark_only
def test_a_write_of_other_rows_than_were_counted_is_told(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1, 2))
    context = context_at(spark, lake_root, tmp_path / "log")
    (batch,) = ingest.run(context).details["batches"]
    records = validate.records_with_verdicts(context, batch)
    metrics = measure(records, [], dictionaries.look_up(context, records.filter(F.col("verdict") == "accepted")))
    decision = validate.decide(context, batch, 2, metrics, BatchStates(), accepted=False)
    lost = records.filter(F.col("user_id") == "u1")
    with pytest.raises(FactorlakeError, match=r"interactions holds 1 rows of batch .*, but 2 were accepted"):
        validate.write_records(context, batch, lost, decision, validate.JobResult())


@spark_only
def test_a_batch_that_was_decided_upon_is_written_before_another_takes_its_records(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    strict = context_at(spark, lake_root, tmp_path / "log", validate={"gate": {"max_quarantined_share": 0.1}})
    write_csv(tmp_path / "log" / "first.csv", *events(1, 2), ",i,1,x")
    ingest.run(strict)
    assert validate.run(strict).exit_code == 3
    (refused,) = validate.run(strict).details["refused"]
    # The mended file holds the same events; the run that took it was killed after its decision.
    write_csv(tmp_path / "log" / "mended.csv", *events(1, 2, 3))
    (mended,) = ingest.run(strict).details["batches"]
    records = validate.records_with_verdicts(strict, mended)
    ids = dictionaries.look_up(strict, records.filter(F.col("verdict") == "accepted"))
    metrics = measure(records, ["missing_user_id"], ids)
    decision = validate.decide(strict, mended, 3, metrics, BatchStates.read(strict), accepted=False)
    assert decision.passed
    result = validate.run(strict, accept=refused)
    assert result.exit_code == 0
    assert result.details["batches"] == [mended, refused]
    assert (result.counts["accepted"], result.counts["duplicates"]) == (3, 2)
    assert len(contents(strict, "interactions")) == 3


@spark_only
def test_a_batch_numbers_its_new_ids_by_bytes_after_all_ids_known_before(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    context = context_at(spark, lake_root, tmp_path / "log")
    new_users = []
    for name, numbers in (("a", (2, 5)), ("b", (9, 5, 1)), ("c", (5, 9))):
        write_csv(tmp_path / "log" / f"{name}.csv", *events(*numbers, user=f"{name}-" if name == "c" else "u"))
        ingest.run(context)
        new_users.append(validate.run(context).counts["new_users"])
    assert new_users == [2, 2, 2]
    assert indexes(context, "users") == [("c-5", 4), ("c-9", 5), ("u1", 2), ("u2", 0), ("u5", 1), ("u9", 3)]
    # The last batch has new users alone.
    assert indexes(context, "items") == [("i1", 2), ("i2", 0), ("i5", 1), ("i9", 3)]


@spark_only
def test_event_key_keeps_the_same_survivors_in_whatever_order_batches_come(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    days = {
        "a.csv": [
            "u,i,1,2024-01-01T00:00:01Z",
            "v,i,1,2024-01-01T00:00:09Z",
            "w,i,five,2024-01-01T00:00:01Z",
        ],
        "b.csv": [
            "u,i,2,2024-01-01T00:00:05Z",
            "v,i,2,2024-01-01T00:00:02Z",
            "u,i,1,2024-01-01T00:00:01Z",
            "u,i,4,2024-01-01T00:00:03Z",
        ],
    }
    found = []
    for number, order in enumerate(permutations(days)):
        source = tmp_path / f"log{number}"
        context = context_at(
            spark,
            f"{lake_root}{number}",
            source,
            events={"columns": {"value": "value"}, "event_key": ["user_id", "item_id"]},
        )
        totals = dict.fromkeys(validate.ACCOUNTED, 0)
        for name in order:
            write_csv(source / name, *days[name])
            ingest.run(context)
            counts = validate.run(context).counts
            totals = {count: total + counts[count] for count, total in totals.items()}
        kept = contents(context, "interactions")
        assert [(row[0], row[3]) for row in kept] == [("u", "2.0"), ("v", "1.0")]
        assert totals["accepted"] - totals["replaced"] == len(kept)
        assert totals["rows"] == sum(totals[name] for name in ("accepted", "quarantined", "duplicates", "superseded"))
        found.append((kept, contents(context, "quarantine")))
    assert all(each == found[0] for each in found)


@spark_only
@pytest.mark.parametrize("event_key", [[], ["user_id", "item_id"]])
def test_verdicts_agree_with_a_slow_oracle(spark: SparkSession, event_key: list[str]) -> None:
    # Ids collide on purpose: few events, users and times, so that copies and equal keys abound.
    rows = [
        (
            f"e{n % 7}",
            f"u{n % 7 % 3}",
            *("i", "t", 1.0),
            datetime(2024, 1, 1 + n % 7 % 2, tzinfo=UTC),
            f"f{n * 5 % 4}",
            n,
            ["bad"] if n % 7 == 6 else [],
        )
        for n in range(25)
    ]
    schema = (
        "event_id string, user_id string, item_id string, event_type string, value double, "
        "event_time timestamp, "
        "file string, position bigint, reasons array<string>"
    )
    judged = spark.createDataFrame(rows, schema).withColumns({"batch": F.lit("b"), "raw": F.lit("r")})
    known = spark.createDataFrame([("e1",), ("e1",), ("zz",)], "event_id string")
    earlier = (
        judged.filter("event_id = 'e2'")
        .limit(1)
        .withColumns(
            {
                "event_id": F.lit("zz"),
                "batch": F.lit("a"),
                "arrival": F.lit(None).cast("timestamp"),
                "rules_hash": F.lit("h"),
                "run_id": F.lit("r"),
            }
        )
    )
    survivors: dict[str, tuple] = {}
    for row in sorted(rows, key=lambda row: (row[6], row[7])):
        survivors.setdefault(row[0], row)
    fresh = [row for event, row in survivors.items() if event != "e1"]
    accepted = [row for row in fresh if not row[8]]
    expected = {"duplicate": len(rows) - len(fresh), "quarantined": sum(bool(row[8]) for row in fresh)}
    if event_key:
        (old,) = earlier.collect()
        contenders: dict[tuple, list[tuple]] = {(row[1], row[2]): [] for row in accepted}
        for row in accepted:
            contenders[row[1], row[2]].append((row[5].replace(tzinfo=None), row[0]))
        contenders[old["user_id"], old["item_id"]].append((old["event_time"], "zz"))
        winners = {max(entries)[1] for entries in contenders.values()}
        expected |= {
            "accepted": len(winners - {"zz"}),
            "superseded": len(accepted) - len(winners - {"zz"}),
            "kept" if "zz" in winners else "replaced": 1,
        }
    else:
        expected["accepted"] = len(accepted)
    found = with_verdicts(judged, known, earlier, event_key).groupBy("verdict").count().collect()
    assert {row["verdict"]: row["count"] for row in found} == {name: n for name, n in expected.items() if n}


def test_accounting_that_does_not_close_is_an_error() -> None:
    counts = {"accepted": 3, "quarantined": 1, "duplicates": 1, "superseded": 0}
    check_accounting("b", 5, counts)
    with pytest.raises(FactorlakeError, match="6 rows came in, 3 accepted"):
        check_accounting("b", 6, counts)


@pytest.mark.parametrize("text", ["{}", "- 5", "- {column: a}", "]["])
def test_suite_that_is_no_list_of_expectations_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="suite"):
        read_suite(str(path), str(tmp_path))


def test_suite_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expectations"):
        read_suite("nowhere", str(tmp_path))


@spark_only
def test_great_expectations_that_fails_is_a_finding(spark: SparkSession) -> None:
    (finding,) = run_suite(spark.range(1), [{"type": "expect_the_unheard_of"}])
    assert (finding.rule, finding.success) == (DID_NOT_RUN, None)
    assert "did not run" in json.dumps(finding.detail)


@spark_only
def test_times_are_the_same_in_a_session_that_was_started_in_another_zone(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv", "u,i,1,2024-07-01 12:00:00", "u,j,1,2024-07-01T12:00:00+02:00")
    told = {"columns": {"value": "value"}, "zone": "Europe/London"}
    settings = context_at(spark, lake_root, tmp_path / "a.csv", events=told).settings
    before = spark.conf.get("spark.sql.session.timeZone") or "UTC"
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        for verb in ("ingest", "validate"):
            line = execute(verb, settings, conf_dir="conf", open_session=lambda: spark, progress=lambda _: None)
            assert line["exit_code"] == 0, line["reason"]
        assert spark.conf.get("spark.sql.session.timeZone") == "America/New_York"
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)
    rows = delta_io.read(spark, f"{lake_root}/interactions").select("item_id", F.unix_micros("event_time")).collect()
    # Summer time in London is an hour ahead of UTC.
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)
    micros = {
        item: int((noon - timedelta(hours=ahead)).timestamp()) * 1_000_000 for item, ahead in (("i", 1), ("j", 2))
    }
    assert {row[0]: row[1] for row in rows} == micros
