"""Writes are idempotent by application id, and every commit is read back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.errors import DataRefusedError
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

pytestmark = pytest.mark.spark


def test_a_second_write_of_the_same_application_id_is_skipped_and_reported(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    first = delta_io.append_rows(spark, [{"run_id": "a"}], path, SCHEMAS["runs"], run_id="a", app_id="once")
    again = delta_io.append_rows(spark, [{"run_id": "a"}], path, SCHEMAS["runs"], run_id="a", app_id="once")
    assert (first.skipped, again.skipped, again.version) == (False, True, first.version)
    assert delta_io.read(spark, path).count() == 1


def test_each_write_tells_the_version_that_the_tables_own_history_has_for_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    paths = {name: str(tmp_path / name) for name in ("one", "other")}
    runs = SCHEMAS["runs"]

    def write(run_id: str, name: str, app_id: str | None = None, session: SparkSession = spark) -> delta_io.Commit:
        rows = [{"run_id": run_id}]
        return delta_io.append_rows(session, rows, paths[name], runs, run_id=run_id, app_id=app_id)

    told = {
        "a": write("a", "one", "once"),
        "b": write("b", "other"),
        # Somebody else's commit lies between two of ours.
        "c": write("c", "one", session=spark.newSession()),
        "d": write("d", "one"),
        "e": write("e", "other"),
    }
    skipped = write("f", "one", "once")
    history = {
        json.loads(commit["userMetadata"])["run_id"]: commit["version"]
        for path in paths.values()
        for commit in DeltaTable(path).history()
        if "userMetadata" in commit
    }
    assert {run_id: commit.version for run_id, commit in told.items()} == history
    assert not any(commit.skipped for commit in told.values())
    # The skipped write tells the version that the table has anyway.
    assert (skipped.skipped, skipped.version) == (True, history["d"])


def test_files_are_skipped_by_the_columns_that_the_schema_names_and_by_no_other(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = str(tmp_path / "raw_events")
    rows = [{"batch": "a", "raw": "x", "position": 1}, {"batch": "b", "raw": "y", "position": 2}]
    delta_io.append_rows(spark, rows, path, SCHEMAS["raw_events"], run_id="a")
    # An independent reader of the table's log.
    files = DeltaTable(path).get_add_actions(flatten=True)
    noted = {name.removeprefix("min."): files[name][0] for name in files.schema.names if name.startswith("min.")}
    assert {name: value.as_py() for name, value in noted.items()} == {"batch": "a"}
    assert files["num_records"][0].as_py() == len(rows)


def test_an_old_version_is_read_however_old_it_is(spark: SparkSession, tmp_path: Path) -> None:
    path, runs = str(tmp_path / "runs"), SCHEMAS["runs"]
    versions = [delta_io.append_rows(spark, [{"run_id": name}], path, runs, run_id=name).version for name in "abc"]
    # As if all but the last commit had been made a month ago.
    then = time.time() - 30 * 86_400
    for version in range(versions[1] + 1):
        os.utime(tmp_path / "runs" / "_delta_log" / f"{version:020d}.json", (then + version, then + version))
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    assert [row["run_id"] for row in delta_io.read(spark, path, versions[0]).collect()] == ["a"]


def test_tables_carry_comments_and_open_to_readers_of_protocol_one(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    delta_io.append_rows(spark, [{"run_id": "a"}], path, SCHEMAS["runs"], run_id="a")
    detail = spark.sql(f"DESCRIBE DETAIL delta.`{path}`").collect()[0]
    assert detail["minReaderVersion"] == 1
    assert detail["description"] == SCHEMAS["runs"].comment
    comments = {r["col_name"]: r["comment"] for r in spark.sql(f"DESCRIBE TABLE delta.`{path}`").collect()}
    assert all(comments[field.name] for field in SCHEMAS["runs"].fields)


def test_a_missing_table_is_refused_by_its_path(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataRefusedError, match="nothing_here"):
        delta_io.read(spark, str(tmp_path / "nothing_here"))
    assert delta_io.version(spark, str(tmp_path / "nothing_here")) == -1


def test_a_table_that_grows_by_small_commits_is_put_together_and_forgets_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs, most = str(tmp_path / "runs"), SCHEMAS["runs"], 4

    def write(number: int) -> delta_io.Commit:
        rows = [{"run_id": str(number)}]
        return delta_io.append_rows(spark, rows, path, runs, run_id=str(number), app_id=f"run {number}")

    monkeypatch.setattr(delta_io, "COMPACT_EVERY", most)
    told, counted = [], []
    for number in range(2 * most + 1):
        told.append(write(number))
        counted.append(delta_io.rows_written(spark, path, told[-1]))
        assert told[-1].version == DeltaTable(path).version()
    table = DeltaTable(path)
    assert len(table.file_uris()) < most
    assert table.version() == len(told) + 2
    assert not any(commit.skipped for commit in told)
    # The figures of the write, not of the compaction that followed it.
    assert counted == [1] * len(told)
    again = write(0)
    assert (again.skipped, delta_io.rows_written(spark, path, again)) == (True, None)
    assert sorted(row["run_id"] for row in delta_io.read(spark, path).collect()) == [str(n) for n in range(len(told))]
