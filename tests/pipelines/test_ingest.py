"""Ingest: every record once, whatever the files do and wherever a run is killed."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.pipelines import ingest
from factorlake.pipelines import ingest_ledger as ledger
from factorlake.pipelines.context import Context
from factorlake.pipelines.ingest import Plan
from factorlake.pipelines.ingest_ledger import Ledger
from factorlake.spark.delta_source import TableVersion, Taken, find_new_rows, read_new_rows
from factorlake.spark.files import list_files
from factorlake.spark.readers import inspect_files, read_records
from tests.pipelines.lakes import contents, context_at, events, outcomes, write_csv

pytestmark = pytest.mark.spark


def plan(context: Context) -> Plan:
    """The plan that a run would make of all files of the input now."""
    files, _ = list_files(context.spark, context.settings.require_input(), context.settings.ingest)
    return ingest.plan_files(context, inspect_files(context.spark, files), Ledger.read(context).known_hashes())


def test_files_of_all_formats_come_in_once(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    source = tmp_path / "log"
    write_csv(source / "a.csv", *events(1, 2), "broken line")
    (source / "deep [x]").mkdir()
    (source / "deep [x]" / "b%20 {1}.jsonl.gz").write_bytes(
        gzip.compress(b'{"user_id": "u3", "item_id": "i3", "value": 3, "event_time": "2024-01-01T00:00:03Z"}\n')
    )
    columns = {"user_id": ["u4"], "item_id": ["i4"], "value": [4.0], "event_time": ["2024-01-01"]}
    pq.write_table(pa.table(columns), source / "c.parquet")
    (source / "d.csv").write_bytes(b"")
    (source / "notes.txt").write_text("no log")
    (source / "_SUCCESS").write_text("")
    context = context_at(spark, lake_root, source)

    first = ingest.run(context)
    assert (first.exit_code, first.counts["records"], first.counts["broken"]) == (0, 5, 1)
    assert first.counts["left_aside"] == 1
    assert outcomes(context)["d.csv"] == ["empty"]
    before = contents(context, "raw_events")
    assert [row[2] for row in before if "c.parquet" in row[0]] == [
        '{"user_id":"u4","item_id":"i4","value":"4.0","event_time":"2024-01-01"}'
    ]

    second = ingest.run(context)
    assert (second.exit_code, second.reason) == (99, "no new files")
    assert contents(context, "raw_events") == before


def test_renamed_copy_is_not_read_again_and_a_grown_file_is(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source = tmp_path / "log"
    file = write_csv(source / "a.csv", *events(1, 2))
    context = context_at(spark, lake_root, source)
    ingest.run(context)
    shutil.copy(file, source / "copy.csv")
    renamed = ingest.run(context)
    assert renamed.exit_code == 99
    assert outcomes(context)["copy.csv"] == ["duplicate"]

    write_csv(file, *events(1, 2, 3))
    grown = ingest.run(context)
    assert grown.counts["records"] == 3
    assert len(contents(context, "raw_events")) == 5


@pytest.mark.parametrize("killed_after", ["plan", "records"])
def test_run_killed_between_its_writes_is_finished_by_the_next(
    spark: SparkSession, lake_root: str, tmp_path: Path, killed_after: str
) -> None:
    source = tmp_path / "log"
    write_csv(source / "a.csv", *events(1, 2))
    context = context_at(spark, lake_root, source)
    half = plan(context)
    ledger.record(context, half.entries)
    if killed_after == "records":
        ingest.write_records(context, half.batch, read_records(spark, half.files))
    write_csv(source / "b.csv", *events(3))

    result = ingest.run(context)
    assert result.exit_code == 0
    assert [row[2] for row in contents(context, "raw_events")] == [*events(1, 2), *events(3)]
    # The killed batch keeps its own files: the new one makes a batch of its own, as in a clean run.
    assert next(iter(Ledger.read(context).batches().items())) == (half.batch, 2)
    assert len(Ledger.read(context).batches()) == 2
    assert ingest.run(context).exit_code == 99


def test_planned_file_that_changed_before_the_next_run_is_read_as_it_is_now(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source = tmp_path / "log"
    write_csv(source / "a.csv", *events(1, 2))
    context = context_at(spark, lake_root, source)
    ledger.record(context, plan(context).entries)
    write_csv(source / "a.csv", *events(1, 2, 3))
    ingest.run(context)
    assert [row[2] for row in contents(context, "raw_events")] == events(1, 2, 3)
    assert ingest.run(context).exit_code == 99


def test_a_copy_is_taken_where_the_file_it_is_a_copy_of_went_before_it_was(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    write_csv(log / "a.csv", *events(1, 2))
    shutil.copy2(log / "a.csv", log / "b.csv")
    context = context_at(spark, lake_root, log)
    # Killed after the plan, which has a.csv as the one to read and b.csv as its copy.
    ledger.record(context, plan(context).entries)
    (log / "a.csv").unlink()
    assert ingest.run(context).counts["records"] == 2
    assert len(contents(context, "raw_events")) == 2
    assert ingest.run(context).exit_code == 99


def test_second_append_of_a_batch_is_skipped(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1))
    context = context_at(spark, lake_root, tmp_path / "log")
    half = plan(context)
    assert not ingest.write_records(context, half.batch, read_records(spark, half.files)).skipped
    assert ingest.write_records(context, half.batch, read_records(spark, half.files)).skipped
    assert len(contents(context, "raw_events")) == 1


def test_missing_column_is_told_with_the_columns_there_are(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "log" / "a.csv", *events(1))
    write_csv(tmp_path / "log" / "b.csv", "1,2", header="user,item_id")
    context = context_at(spark, lake_root, tmp_path / "log")
    with pytest.raises(DataRefusedError) as caught:
        ingest.run(context)
    for part in ("b.csv", "'user_id'", "user, item_id", "events.columns.user_id"):
        assert part in str(caught.value)
    assert contents(context, "raw_events") == []


def test_column_is_missing_only_where_none_of_its_alternatives_is_there(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    rows = {"a": ("item_id", "u1,i1"), "b": ("movie", "u1,i2")}
    for name, (item, row) in rows.items():
        write_csv(tmp_path / "log" / f"{name}.csv", row, header=f"user_id,{item}")
    columns = {"user_id": "user_id", "item_id": ["item_id", "movie"], "event_time": None}
    context = context_at(spark, lake_root, tmp_path / "log", events={"columns": columns})
    assert ingest.run(context).counts["records"] == 2
    write_csv(tmp_path / "log" / "c.csv", "u1,i3", header="user_id,film")
    with pytest.raises(DataRefusedError, match=r"c\.csv has no column 'item_id' or 'movie'.*item_id"):
        ingest.run(context)


def test_input_that_is_not_there_or_empty_is_told_apart(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        ingest.run(context_at(spark, lake_root, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefusedError, match="holds no file"):
        ingest.run(context_at(spark, lake_root, tmp_path / "empty"))


def test_unreadable_file_refuses_the_batch_or_is_left_out_by_setting(
    spark: SparkSession, lake_root: str, tmp_path: Path
) -> None:
    source = tmp_path / "log"
    write_csv(source / "a.csv", *events(1))
    whole = gzip.compress("\n".join(["user_id,item_id,value,event_time", *events(2)]).encode())
    (source / "b.csv.gz").write_bytes(whole[:-6])
    (source / "c.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataRefusedError, match=r"2 of 3 new files cannot be read.*b.csv.gz") as caught:
        ingest.run(context_at(spark, lake_root, source))
    assert caught.value.exit_code == 3

    context = context_at(spark, lake_root, source, ingest={"on_unreadable": "skip"})
    assert ingest.run(context).counts["records"] == 1
    assert outcomes(context)["b.csv.gz"] == ["unreadable"]
    (source / "b.csv.gz").write_bytes(whole)
    assert ingest.run(context).counts["records"] == 1
    assert outcomes(context)["b.csv.gz"] == ["ingested", "planned", "unreadable"]


class TestDeltaSource:
    SCHEMA = "user_id string, item_id string, value double, event_time timestamp"

    def add(self, spark: SparkSession, path: Path, *numbers: int, mode: str = "append") -> None:
        rows = spark.sql(
            " union all ".join(
                f"select 'u{n}' user_id, 'i{n}' item_id, {n}.5D value, timestamp'2024-01-01 00:00:0{n}' event_time"
                for n in numbers
            )
        )
        rows.write.format("delta").mode(mode).save(str(path))

    def test_rows_of_a_table_whose_paths_need_escapes_are_read(
        self, spark: SparkSession, lake_root: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "a log"
        cities = ("New York", "100% there", "a:b#c")
        columns = "user_id string, item_id string, value double, event_time timestamp, city string"
        rows = spark.createDataFrame([(f"u{n}", "i", 1.0, None, city) for n, city in enumerate(cities)], columns)
        rows.write.format("delta").partitionBy("city").save(str(path))
        context = context_at(spark, lake_root, path)
        assert ingest.run(context).counts["records"] == 3
        rows.write.format("delta").mode("append").save(str(path))
        assert ingest.run(context).counts["records"] == 3

    def test_only_new_commits_are_read_and_compaction_adds_nothing(
        self, spark: SparkSession, lake_root: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "source"
        self.add(spark, path, 1, 2)
        context = context_at(spark, lake_root, path)
        assert ingest.run(context).counts["records"] == 2
        assert ingest.run(context).exit_code == 99
        self.add(spark, path, 3)
        spark.sql(f"OPTIMIZE delta.`{path}`").collect()
        self.add(spark, path, 4)
        assert ingest.run(context).counts["records"] == 2
        assert sorted(row[2] for row in contents(context, "raw_events")) == [
            f'{{"user_id":"u{n}","item_id":"i{n}","value":"{n}.5","event_time":"2024-01-01 00:00:0{n}.000000Z"}}'
            for n in (1, 2, 3, 4)
        ]
        self.add(spark, path, 5, mode="overwrite")
        with pytest.raises(DataRefusedError, match="changed or removed rows"):
            ingest.run(context)
        assert len(contents(context, "raw_events")) == 4

    @pytest.mark.parametrize("n_commits", [1, 3])
    def test_a_table_made_anew_at_its_path_is_refused(
        self, spark: SparkSession, lake_root: str, tmp_path: Path, n_commits: int
    ) -> None:
        path = tmp_path / "source"
        context = context_at(spark, lake_root, path)
        self.add(spark, path, 1)
        self.add(spark, path, 2)
        assert ingest.run(context).counts["records"] == 2
        # The second table has fewer versions than were taken of the first, or more.
        shutil.rmtree(path)
        for n in range(n_commits):
            self.add(spark, path, 3 + n)
        with pytest.raises(DataRefusedError, match="was made anew since its version 1 was taken"):
            ingest.run(context)
        assert len(contents(context, "raw_events")) == 2

    def test_a_table_whose_id_changes_while_its_log_goes_on_is_followed(
        self, spark: SparkSession, lake_root: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "source"
        self.add(spark, path, 1)
        # As after a writer that gives a new id to a table whose schema it widens.
        taken = Taken(TableVersion("another id", 0), at_us=time.time_ns() // 1000)
        assert find_new_rows(spark, str(path), taken).added == []
        self.add(spark, path, 2)
        new = find_new_rows(spark, str(path), taken)
        assert [number for number, _ in new.added] == [1]
        assert read_new_rows(spark, new).count() == 1
        # The ledger's first rows have no id.
        assert find_new_rows(spark, str(path), Taken(TableVersion.parse("0"), at_us=0)).added == new.added

    def test_a_nested_column_that_comes_between_two_appends_is_taken(
        self, spark: SparkSession, lake_root: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "source"
        self.add(spark, path, 1)
        context = context_at(spark, lake_root, path)
        assert ingest.run(context).counts["records"] == 1
        self.add(spark, path, 2)
        wider = spark.read.format("delta").load(str(path)).where("user_id = 'u2'")
        wider = wider.withColumn("user_id", F.lit("u3")).withColumn("place", F.struct(F.lit("DE").alias("country")))
        wider.write.format("delta").mode("append").option("mergeSchema", True).save(str(path))
        assert ingest.run(context).counts["records"] == 2
        places = [json.loads(row[2]).get("place") for row in contents(context, "raw_events")]
        assert [None if place is None else json.loads(place) for place in places] == [None, None, {"country": "DE"}]

    def test_rows_of_a_replaced_table_are_refused(self, spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
        path = tmp_path / "source"
        self.add(spark, path, 1)
        context = context_at(spark, lake_root, path)
        assert ingest.run(context).counts["records"] == 1
        spark.sql(f"CREATE OR REPLACE TABLE delta.`{path}` USING delta AS SELECT 'u9' user_id, 'i9' item_id")
        with pytest.raises(DataRefusedError, match="changed or removed rows"):
            ingest.run(context)
