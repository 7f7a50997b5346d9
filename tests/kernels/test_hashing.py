"""Hashes of ids beside the specification in plain integers and beside Spark's own."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from factorlake.kernels.hashing import hash_ids
from factorlake.spark.arrow_text import hash_strings
from tests.reference.xxh64 import xxh64

AWKWARD = [
    "",
    "a",
    "Spark",
    "ünïcödé",
    "17850",
    "17850.0",
    "x" * 31,
    "x" * 32,
    "y" * 33,
    "z" * 100,
    "日本語のID",
]


def test_hash_of_spark_is_the_one_spark_documents() -> None:
    assert hash_ids(["Spark"])[0] == -4294468057691064905


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=90), max_size=20))
def test_hashes_equal_the_specification_in_plain_integers(ids: list[str]) -> None:
    assert hash_ids(ids).tolist() == [xxh64(one.encode(), 42) for one in ids]


@pytest.mark.spark
def test_hashes_equal_sparks_xxhash64(spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    frame = spark.createDataFrame([(one,) for one in AWKWARD], "id string").select("id", F.xxhash64("id").alias("h"))
    expected = {row["id"]: row["h"] for row in frame.collect()}
    assert dict(zip(AWKWARD, hash_ids(AWKWARD).tolist(), strict=True)) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=20), st.data())
def test_strings_of_arrow_are_hashed_where_they_lie(ids: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(ids)))
    for kind in (pa.string(), pa.large_string()):
        column = pa.array(ids, kind).slice(first)
        assert hash_strings(column).tolist() == [xxh64(one.encode(), 42) for one in ids[first:]]


def test_no_ids_give_no_hashes() -> None:
    assert hash_ids([]).shape == (0,)
    assert hash_strings(pa.array([], pa.string())).shape == (0,)
