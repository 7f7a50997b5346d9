"""Columns that tasks read from Parquet files themselves are those that Spark reads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructField, StructType

from factorlake.ml.columns import possible_id_column, possible_rating_column
from factorlake.models.parameters import AlsParameters
from factorlake.spark import parquet_scan
from factorlake.spark.arrow_text import distinct_values
from factorlake.spark.parquet_scan import map_columns
from factorlake.spark.training import fit_pairs
from factorlake.types import PlanName

pytestmark = pytest.mark.spark


def table(n: int = 3000) -> pa.Table:
    """Columns of every type that ids and values have, with nulls and numbers at the edges."""
    rng = np.random.default_rng(n)
    doubles = rng.standard_normal(n) * 10.0 ** rng.integers(-50, 50, n)
    doubles[:6] = [math.nan, math.inf, -0.0, 1e300, 2.0**24 + 1, 0.1]
    longs = rng.integers(-(2**62), 2**62, n)
    longs[:6] = [2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 0]
    missing = rng.random(n) < 0.1
    columns = {
        "user": pa.array([f"ü{k}" for k in rng.integers(0, 40, n)], mask=missing),
        "byte": pa.array(rng.integers(-128, 128, n).astype(np.int8)),
        "short": pa.array(rng.integers(-999, 999, n).astype(np.int16), mask=np.roll(missing, 1)),
        "int": pa.array(rng.integers(0, 50, n).astype(np.int32)),
        "long": pa.array(longs, mask=np.roll(missing, 7)),
        "float": pa.array(np.clip(doubles, -1e38, 1e38).astype(np.float32), mask=np.roll(missing, 8)),
        "double": pa.array(doubles, mask=np.roll(missing, 9)),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Parquet files with several row groups each, in a folder whose name a URI writes in another way."""
    folder = tmp_path_factory.mktemp("parquet") / "a b%20ü+#"
    folder.mkdir()
    for number, rows in enumerate((3000, 8, 700)):
        pq.write_table(table(rows), folder / f"part {number}.parquet", row_group_size=450)
    return str(folder)


def told(frame: DataFrame) -> tuple[list[str], bool]:
    """Return the rows that `map_columns` hands over, in some order of their own, and whether tasks read the files."""

    def decoded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, batch.schema.names)

    found = map_columns(frame, decoded, frame.schema.simpleString().removeprefix("struct<").removesuffix(">"))
    rows = sorted(repr(tuple(row)) for row in found.collect())
    return rows, "Range" in found._jdf.queryExecution().optimizedPlan().toString()


def rows_of(frame: DataFrame) -> list[str]:
    return sorted(repr(tuple(row)) for row in frame.collect())


@pytest.mark.parametrize(
    "columns",
    [
        ["user", "int"],
        ["user"],
        ["byte", "short", "long", "float", "double"],
        ["user AS user_id", "int AS item_id", "CAST(double AS FLOAT) AS value"],
        ["CAST(byte AS STRING) a", "CAST(short AS STRING) b", "CAST(int AS STRING) c", "CAST(long AS STRING) d"],
        ["try_cast(long AS INT) a", "try_cast(short AS INT) b", "CAST(int AS FLOAT) c", "CAST(long AS DOUBLE) d"],
        ["CAST(CAST(CAST(long AS DOUBLE) AS FLOAT) * 40.0D AS FLOAT) a", "int a2", "int a3"],
        ["CAST(0.1D * CAST(float AS DOUBLE) AS FLOAT) a", "CAST(long AS FLOAT) b"],
    ],
)
def test_tasks_that_read_files_get_what_spark_reads(spark: SparkSession, folder: str, columns: list[str]) -> None:
    frame = spark.read.parquet(folder).selectExpr(*columns)
    found, by_tasks = told(frame)
    assert by_tasks
    assert found == rows_of(frame)


def test_tasks_read_what_the_drop_in_for_pyspark_ml_trains_on(spark: SparkSession, folder: str) -> None:
    rows = spark.read.parquet(folder)
    for user, item, value in (("user", "int", "double"), ("long", "short", "float"), ("byte", "user", "long")):
        ids = possible_id_column(rows, user).alias("user_id"), possible_id_column(rows, item).alias("item_id")
        value_column = possible_rating_column(rows, value) * F.lit(40.0)
        frame = rows.select(*ids, value_column.cast("float").alias("value"))
        assert told(frame) == (rows_of(frame), True)


def test_a_delta_table_is_read_by_tasks_at_the_version_asked_for(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "t a%20ü")
    first = spark.createDataFrame([(f"u{n}", n) for n in range(50)], "user string, item int").coalesce(1)
    first.write.format("delta").save(path)
    first.withColumn("item", F.col("item") + 1000).write.format("delta").mode("append").save(path)
    for version in (0, 1):
        frame = spark.read.format("delta").option("versionAsOf", version).load(path).select("user", "item")
        found, by_tasks = told(frame)
        assert by_tasks
        assert found == rows_of(frame)
        assert len(found) == 50 * (version + 1)


def delta(spark: SparkSession, path: str, properties: dict[str, str]) -> None:
    frame = spark.createDataFrame([(f"u{n}", n) for n in range(50)], "user string, item int").coalesce(1)
    writer = frame.write.format("delta")
    for name, value in properties.items():
        writer = writer.option(name, value)
    writer.save(path)


@pytest.mark.parametrize(
    ("properties", "statement"),
    [
        ({"delta.enableDeletionVectors": "true"}, "DELETE FROM {} WHERE item < 7"),
        ({"delta.columnMapping.mode": "name"}, "ALTER TABLE {} RENAME COLUMN item TO thing"),
        ({"delta.enableTypeWidening": "true"}, "ALTER TABLE {} ALTER COLUMN item TYPE BIGINT"),
    ],
)
def test_a_delta_table_whose_files_do_not_tell_all_is_read_by_spark(
    spark: SparkSession, tmp_path: Path, properties: dict[str, str], statement: str
) -> None:
    path = str(tmp_path / "table")
    delta(spark, path, properties)
    spark.sql(statement.format(f"delta.`{path}`"))
    frame = spark.read.format("delta").load(path)
    found, by_tasks = told(frame)
    assert not by_tasks
    assert found == rows_of(frame)
    assert len(found) == (43 if statement.startswith("DELETE") else 50)


def test_rows_deleted_after_a_frame_was_made_do_not_come_back(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    delta(spark, path, {"delta.enableDeletionVectors": "false"})
    frame = spark.read.format("delta").load(path)
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE item < 7")
    # The frame lists files of now, its format knows of no deletion vectors: Spark refuses it, and deleted rows must not
    # come back by another way.
    for read in (rows_of, told):
        with pytest.raises(Exception, match="FAILED_READ_FILE"):
            read(frame)


def test_a_partitioned_delta_table_is_read_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    rows = spark.createDataFrame([(f"u{n}", n % 3) for n in range(50)], "user string, item int")
    rows.write.format("delta").partitionBy("item").save(path)
    frame = spark.read.format("delta").load(path)
    assert told(frame) == (rows_of(frame), False)


def test_a_column_added_to_a_delta_table_is_null_in_its_older_files(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    delta(spark, path, {})
    spark.createDataFrame([("u1", 1, 2.0)], "user string, item int, value double").write.format("delta").mode(
        "append"
    ).option("mergeSchema", "true").save(path)
    frame = spark.read.format("delta").load(path)
    assert told(frame.select("user", "item")) == (rows_of(frame.select("user", "item")), True)
    assert told(frame) == (rows_of(frame), False)


def test_a_frame_that_is_more_than_columns_of_files_is_read_by_spark(
    spark: SparkSession, folder: str, tmp_path: Path
) -> None:
    plain = spark.read.parquet(folder)
    some = plain.select("user", "int")
    plain.select("user", "int").write.partitionBy("int").parquet(str(tmp_path / "partitioned"))
    some.write.csv(str(tmp_path / "csv"))
    kept = plain.select("user", "long").cache()
    others = {
        "filter": some.where("int > 3"),
        "limit": some.limit(5000),
        "distinct": some.distinct(),
        "union": some.union(some),
        "expression": plain.select((F.col("int") + 1).alias("int")),
        "checked cast": plain.select(F.col("short").cast("int").alias("a")),
        "constant": some.withColumn("value", F.lit(1.0)),
        "text to number": plain.select(F.col("user").try_cast("int").alias("user")),
        "cached": kept,
        "partitioned": spark.read.parquet(str(tmp_path / "partitioned")).select("user", "int"),
        "csv": spark.read.schema("user string, item int").csv(str(tmp_path / "csv")),
        "wider": spark.read.schema("user string, int bigint").parquet(folder),
        "made here": spark.createDataFrame([("u", 1)], "user string, item int"),
        "nothing": some.where(F.lit(False)),
    }
    for name, frame in others.items():
        found, by_tasks = told(frame)
        assert (found, by_tasks) == (rows_of(frame), False), name
    kept.unpersist()


@pytest.mark.parametrize(
    ("column", "type_of_spark"),
    [
        (pa.array([1, 2], pa.uint32()), "bigint"),
        (pa.array([1, 2], pa.date32()), "date"),
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([1, 2], pa.timestamp("us", "UTC")), "timestamp"),
        (pa.array([1, 2], pa.uint8()), "smallint"),
        (pa.array([[1], [2]]), "array<bigint>"),
    ],
)
def test_types_that_ids_do_not_have_are_read_by_spark(
    spark: SparkSession, tmp_path: Path, column: pa.Array, type_of_spark: str
) -> None:
    pq.write_table(pa.table({"a": column}), tmp_path / "1.parquet")
    frame = spark.read.parquet(str(tmp_path))
    assert frame.schema.simpleString() == f"struct<a:{type_of_spark}>"
    assert told(frame) == (rows_of(frame), False)


def test_every_row_group_is_read_once_and_tasks_stay_small(
    spark: SparkSession, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_scan, "ROWS_OF_TASK", 500)
    frame = spark.read.parquet(folder).select("user", "int")

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"n": [sum(batch.num_rows for batch in batches)]})

    sizes = [row["n"] for row in map_columns(frame, count, "n bigint").collect()]
    # Eight tasks for 3,708 rows in row groups of 450 (six), 300, 8, 450 and 250: cut where it is nearest to even.
    assert sorted(sizes) == [308, *[450] * 6, 700]
    monkeypatch.setattr(parquet_scan, "ROWS_OF_TASK", 10**9)
    monkeypatch.setattr(parquet_scan, "BYTES_OF_TASK", 1000)
    assert len(map_columns(frame, count, "n bigint").collect()) > 8


def test_text_stored_without_dictionary_or_as_large_strings_is_the_same_text(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = table()
    pq.write_table(rows, tmp_path / "1.parquet", use_dictionary=False)
    wide = rows.set_column(0, "user", rows["user"].cast(pa.large_string()))
    pq.write_table(wide, tmp_path / "2.parquet", compression="zstd")
    coded = rows.set_column(0, "user", rows["user"].dictionary_encode())
    pq.write_table(coded, tmp_path / "3.parquet", dictionary_pagesize_limit=100, data_page_size=200)
    frame = spark.read.parquet(str(tmp_path)).select("user", "int")
    assert told(frame) == (rows_of(frame), True)


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd", "snappy", "lz4"])
def test_every_codec_gives_the_same_rows(spark: SparkSession, tmp_path: Path, codec: str) -> None:
    pq.write_table(table(), tmp_path / "1.parquet", compression=codec)
    frame = spark.read.parquet(str(tmp_path)).select("user", "long")
    # Spark and Arrow call different things LZ4.
    assert told(frame) == (rows_of(frame), codec != "lz4")


def test_spark_reads_its_own_lz4(spark: SparkSession, folder: str, tmp_path: Path) -> None:
    some = spark.read.parquet(folder).select("user", "int")
    some.write.option("compression", "lz4").parquet(str(tmp_path / "lz4"))
    frame = spark.read.parquet(str(tmp_path / "lz4"))
    assert told(frame) == (rows_of(some), False)


def test_files_that_differ_in_width_and_empty_ones_are_read_as_spark_does(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int32())}), tmp_path / "2.parquet")
    frame = spark.read.parquet(str(tmp_path))
    assert told(frame) == (rows_of(frame), True)
    pq.write_table(pa.table({"a": pa.array([300, 4], pa.int32())}), tmp_path / "3.parquet")
    narrow = spark.read.schema("a tinyint").parquet(str(tmp_path))
    assert told(narrow) == (rows_of(narrow), False)
    assert told(frame.where(F.lit(True))) == (rows_of(frame), True)


def test_a_name_with_a_dot_is_no_field_of_a_struct(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([{"b": 1}, {"b": 2}])}), tmp_path / "1.parquet")
    frame = spark.read.schema(StructType([StructField("a.b", LongType())])).parquet(str(tmp_path))
    assert told(frame.select(F.col("`a.b`").alias("b"))) == (["(None,)", "(None,)"], False)


def test_columns_named_by_field_ids_are_read_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    fields = [pa.field("a", pa.int64(), metadata={"PARQUET:field_id": "2"}), pa.field("b", pa.int64())]
    pq.write_table(pa.table([[1, 2], [3, 4]], schema=pa.schema(fields)), tmp_path / "1.parquet")
    by_id = StructType([StructField("b", LongType(), True, {"parquet.field.id": 2})])
    frame = spark.read.schema(by_id).parquet(str(tmp_path))
    assert told(frame) == (rows_of(frame), False)


def test_settings_that_leave_rows_out_are_left_to_spark(spark: SparkSession, folder: str) -> None:
    plain = spark.read.parquet(folder).select("user")
    assert not told(spark.read.option("ignoreMissingFiles", "true").parquet(folder).select("user"))[1]
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        assert not told(plain)[1]
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")
    assert told(plain)[1]


def test_a_file_that_was_written_anew_after_planning_is_named(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "1.parquet")
    found = map_columns(spark.read.parquet(str(tmp_path)).select("user"), iter, "user string")
    # As many rows and bytes as before.
    os.utime(tmp_path / "1.parquet", ns=(0, 0))
    with pytest.raises(PythonException, match=r"DataRefusedError.*1\.parquet changed while it was read"):
        found.collect()


def test_a_file_that_vanishes_after_planning_is_named(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "1.parquet")
    found = map_columns(spark.read.parquet(str(tmp_path)).select("user"), iter, "user string")
    (tmp_path / "1.parquet").unlink()
    with pytest.raises(PythonException, match=r"DataRefusedError.*1\.parquet can no longer be read"):
        found.collect()


def test_a_damaged_file_is_left_to_spark_to_tell_of(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "1.parquet")
    frame = spark.read.parquet(str(tmp_path)).select("user")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 no longer PAR1")
    with pytest.raises(Exception, match="FAILED_READ_FILE"):
        told(frame)


def test_distinct_values_of_dictionaries_are_those_that_rows_have() -> None:
    chunks = [
        pa.DictionaryArray.from_arrays(pa.array([3, 0, None, 2], pa.int32()), pa.array(["b", "unused", "b", "a"])),
        pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array(["nobody"])),
        pa.DictionaryArray.from_arrays(pa.array([1, 1], pa.int32()), pa.array(["x", "c"])),
    ]
    rows = ["a", "b", None, "b", "c", "c"]
    for column in (pa.chunked_array(chunks), pa.chunked_array([pa.array(rows)])):
        found, codes = distinct_values(column)
        assert sorted(found.to_pylist()) == ["a", "b", "c"]
        assert [None if code < 0 else found[int(code)].as_py() for code in codes] == rows
    for nothing in (pa.chunked_array([], pa.dictionary(pa.int32(), pa.string())), pa.chunked_array([], pa.string())):
        found, codes = distinct_values(nothing)
        assert (len(found), len(codes)) == (0, 0)


@pytest.mark.parametrize("plan", ["local", "broadcast"])
def test_a_model_has_the_same_bits_whoever_read_its_pairs(spark: SparkSession, tmp_path: Path, plan: PlanName) -> None:
    rng = np.random.default_rng(4)
    pairs = np.unique(rng.integers(0, [90, 40], (900, 2)), axis=0)
    text = [pa.array([f"{sign}{n}" for n in column]) for sign, column in zip("ui", pairs.T, strict=True)]
    rows = pa.table([*text, rng.random(len(pairs))], ["user_id", "item_id", "value"])
    (tmp_path / "pairs").mkdir()
    pq.write_table(rows, tmp_path / "pairs" / "1.parquet", row_group_size=70)
    plain = spark.read.parquet(str(tmp_path / "pairs"))
    assert told(plain)[1]
    found = []
    for frame in (plain, plain.where("value >= 0"), plain.repartition(5)):
        fitted = fit_pairs(
            spark, frame, AlsParameters(rank=3, epochs=2), workspace=str(tmp_path / "work"), plan=plan, threads=2
        )
        found.append((fitted.model.users.array.tobytes(), fitted.model.items.array.tobytes()))
        fitted.release()
    assert found[0] == found[1] == found[2]
