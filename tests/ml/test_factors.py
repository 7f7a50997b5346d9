"""Factors become frames and arrays again, in as many Arrow arrays as their offsets ask for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from factorlake.ml import factors
from factorlake.models.plan import ArrayRows
from factorlake.spark.arrow_lists import matrix
from factorlake.spark.ids import positions


def test_a_column_in_several_arrays_is_one_matrix() -> None:
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    parts = [pa.array(part.tolist(), pa.list_(pa.float32())) for part in (rows[:2], rows[2:])]
    assert np.array_equal(matrix(pa.chunked_array(parts), 3), rows)
    # A part of an array knows where it starts.
    assert np.array_equal(matrix(pa.array(rows.tolist(), pa.list_(pa.float32())).slice(1, 3), 3), rows[1:4])


@pytest.mark.spark
@pytest.mark.parametrize("numbers_per_array", [7, 1 << 30])
def test_a_side_of_more_numbers_than_an_array_holds_keeps_its_rows(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, numbers_per_array: int
) -> None:
    monkeypatch.setattr(factors, "NUMBERS_PER_ARRAY", numbers_per_array)
    known = positions(spark.createDataFrame([(f"u{n}",) for n in range(9)], "id string"), n_blocks=2)
    rows = np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32)  # three factors and the bias
    frame = factors.factor_frame(spark, known, StringType(), ArrayRows(rows, known.block_ptr), rank=3)
    place = {row["id"]: row["position"] for row in known.frame.collect()}
    found = frame.select("id", "features", F.col("bias").cast("double")).collect()
    assert len(found) == 9
    for row in found:
        assert np.array_equal(np.array([*row["features"], row["bias"]], np.float32), rows[place[row["id"]]])
